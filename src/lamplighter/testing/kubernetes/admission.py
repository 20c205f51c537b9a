"""What the API server refuses about pods because something that they name is not there: accounts, classes. As the built-in admission plugins do."""

from typing import Any

from lamplighter.testing.kubernetes.errors import ApiRefusal
from lamplighter.testing.kubernetes.kinds import Kind, Kinds
from lamplighter.testing.kubernetes.store import Object, Store

_SYSTEM_CLASSES = ("system-cluster-critical", "system-node-critical")


def admit(store: Store, kinds: Kinds, kind: Kind, new: Object, namespace: str) -> None:
    """Raises ApiRefusal (403). The account `default` is taken for there: a controller makes it in every namespace."""
    if kind.key != ("", "pods"):
        return
    spec, name = new["spec"], new["metadata"]["name"]

    def there(group: str, plural: str, space: str, wanted: Any) -> bool:
        found = kinds.find(group, "v1", plural)
        return found is not None and store.get(found, space, str(wanted)) is not None

    def refuse(why: str) -> ApiRefusal:
        return ApiRefusal(403, "Forbidden", f'pods "{name}" is forbidden: {why}', {"name": name, "kind": "pods"})

    account = spec.get("serviceAccountName", "default")
    if account != "default" and not there("", "serviceaccounts", namespace, account):
        raise refuse(f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found')
    priority = spec.get("priorityClassName")
    if priority and priority not in _SYSTEM_CLASSES and not there("scheduling.k8s.io", "priorityclasses", "", priority):
        raise refuse(f"no PriorityClass with name {priority} was found")
    runtime = spec.get("runtimeClassName")
    if runtime and not there("node.k8s.io", "runtimeclasses", "", runtime):
        raise refuse(f'pod rejected: RuntimeClass "{runtime}" not found')


__all__ = ["admit"]
