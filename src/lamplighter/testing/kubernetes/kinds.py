"""Which kinds of objects the fake API server serves, and the discovery documents that tell clients so.

The built-in kinds that Lamplighter, its chart and its tests touch, not all of Kubernetes; others come as CustomResourceDefinitions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0-lamplighter-fake", "gitCommit": "", "gitTreeState": "clean",
           "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a kind keeps what its `/scale` shows: paths into the object."""

    replicas: tuple[str, ...] = ("spec", "replicas")
    status: tuple[str, ...] = ("status", "replicas")
    selector: tuple[str, ...] | None = None
    """A path to a string; None: `spec.selector` as Deployments have it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object. `custom`: it comes from a CustomResourceDefinition. `generation`: it counts changes of its spec."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    status: bool = False
    scale: Scale | None = None
    generation: bool = False
    custom: bool = False
    singular: str = ""
    short: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = field(default=None, compare=False)
    """Of custom kinds: their openAPIV3Schema."""

    @property
    def api_version(self) -> str:
        """As an object says it: `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As error messages say it: `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def key(self) -> tuple[str, str]:
        """What the store keeps its objects by: the versions of a kind share them."""
        return (self.group, self.plural)


def _core(kind: str, plural: str, **options: Any) -> Kind:
    return Kind("", "v1", kind, plural, **options)


def _apps(kind: str, plural: str, *short: str, scale: Scale | None = None) -> Kind:
    return Kind("apps", "v1", kind, plural, status=True, generation=True, scale=scale, short=short)


def _rbac(kind: str, plural: str, *, namespaced: bool) -> Kind:
    return Kind("rbac.authorization.k8s.io", "v1", kind, plural, namespaced=namespaced)


BUILTIN: tuple[Kind, ...] = (
    _core("Namespace", "namespaces", namespaced=False, status=True, short=("ns",)),
    _core("Node", "nodes", namespaced=False, status=True, short=("no",)),
    _core("Pod", "pods", status=True, short=("po",)),
    _core("Service", "services", status=True, short=("svc",)),
    _core("Secret", "secrets"),
    _core("ConfigMap", "configmaps", short=("cm",)),
    _core("ServiceAccount", "serviceaccounts", short=("sa",)),
    _core("Event", "events", short=("ev",)),
    _core("Endpoints", "endpoints", short=("ep",)),
    _core("PersistentVolumeClaim", "persistentvolumeclaims", status=True, short=("pvc",)),
    _core("PersistentVolume", "persistentvolumes", namespaced=False, status=True, short=("pv",)),
    _core("ResourceQuota", "resourcequotas", status=True, short=("quota",)),
    _core("LimitRange", "limitranges"),
    _apps("Deployment", "deployments", "deploy", scale=Scale()),
    _apps("StatefulSet", "statefulsets", "sts", scale=Scale()),
    _apps("ReplicaSet", "replicasets", "rs", scale=Scale()),
    _apps("DaemonSet", "daemonsets", "ds"),
    Kind("batch", "v1", "Job", "jobs", status=True, generation=True),
    Kind("batch", "v1", "CronJob", "cronjobs", status=True, generation=True),
    Kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", status=True),
    Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", status=True, generation=True),
    Kind("coordination.k8s.io", "v1", "Lease", "leases"),
    Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", generation=True),
    Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", generation=True),
    Kind("networking.k8s.io", "v1", "Ingress", "ingresses", status=True, generation=True),
    Kind("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", namespaced=False),
    Kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", namespaced=False, generation=True),
    Kind("storage.k8s.io", "v1", "StorageClass", "storageclasses", namespaced=False),
    Kind("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", namespaced=False, generation=True),
    Kind("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", namespaced=False, generation=True),
    _rbac("Role", "roles", namespaced=True),
    _rbac("RoleBinding", "rolebindings", namespaced=True),
    _rbac("ClusterRole", "clusterroles", namespaced=False),
    _rbac("ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False, status=True, generation=True, short=("crd",)),
)  # fmt: skip

REVIEWS = {
    ("authorization.k8s.io", "v1"): ("selfsubjectaccessreviews", "subjectaccessreviews"),
    ("authentication.k8s.io", "v1"): ("tokenreviews", "selfsubjectreviews"),
}
"""Kinds that are asked, never kept."""


class Kinds:
    """All kinds that are served now."""

    def __init__(self, kinds: Iterable[Kind] = BUILTIN) -> None:
        self._kinds = {(kind.group, kind.version, kind.plural): kind for kind in kinds}

    def add(self, kind: Kind) -> Kind:
        """Serve it from now on, instead of an older definition."""
        self._kinds[kind.group, kind.version, kind.plural] = kind
        return kind

    def remove(self, group: str, plural: str) -> None:
        """Serve it no more, in any version."""
        self._kinds = {key: kind for key, kind in self._kinds.items() if (kind.group, kind.plural) != (group, plural)}

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """The kind with that address."""
        return self._kinds.get((group, version, plural))

    def of_object(self, api_version: str, kind: str) -> Kind | None:
        """The kind that an object or a reference names."""
        return next((one for one in self._kinds.values() if one.api_version == api_version and one.kind == kind), None)

    def by_key(self, key: tuple[str, str]) -> Kind | None:
        """Any version of it."""
        return next((one for one in self._kinds.values() if one.key == key), None)

    def all(self) -> list[Kind]:
        """Every kind."""
        return list(self._kinds.values())

    # ---- discovery

    def groups(self) -> dict[str, Any]:
        """What `/apis` answers."""
        versions: dict[str, list[str]] = {}
        for group, version in [*((kind.group, kind.version) for kind in self._kinds.values() if kind.group), *REVIEWS]:
            if version not in versions.setdefault(group, []):
                versions[group].append(version)
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name, found) for name, found in versions.items()]}

    def group(self, name: str) -> dict[str, Any] | None:
        """What `/apis/NAME` answers."""
        found = next((one for one in self.groups()["groups"] if one["name"] == name), None)
        return None if found is None else {"kind": "APIGroup", "apiVersion": "v1", **found}

    def resources(self, group: str, version: str) -> dict[str, Any] | None:
        """What `/api/v1` and `/apis/GROUP/VERSION` answer."""
        listed: list[dict[str, Any]] = []
        for kind in self._kinds.values():
            if (kind.group, kind.version) == (group, version):
                listed += _resources(kind)
        listed += [
            {"name": plural, "singularName": "", "namespaced": False, "kind": plural, "verbs": ["create"]}
            for plural in REVIEWS.get((group, version), ())
        ]
        if not listed:
            return None
        name = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    told = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": told, "preferredVersion": told[0]}


def _resources(kind: Kind) -> list[dict[str, Any]]:
    one = {"namespaced": kind.namespaced, "kind": kind.kind, "singularName": ""}
    listed: list[dict[str, Any]] = [
        {**one, "name": kind.plural, "singularName": kind.singular or kind.kind.lower(), "verbs": list(VERBS), "shortNames": list(kind.short)}
    ]  # fmt: skip
    if kind.status:
        listed.append({**one, "name": f"{kind.plural}/status", "verbs": ["get", "patch", "update"]})
    if kind.scale:
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]}
        listed.append({**one, "name": f"{kind.plural}/scale", **scale})
    if kind.key == ("", "pods"):
        listed += [
            {**one, "name": "pods/log", "verbs": ["get"]},
            {**one, "name": "pods/binding", "kind": "Binding", "verbs": ["create"]},
            {**one, "name": "pods/eviction", "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]},
        ]
    if kind.key == ("", "serviceaccounts"):
        token = {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest", "verbs": ["create"]}
        listed.append({**one, "name": "serviceaccounts/token", **token})
    return listed


__all__ = ["BUILTIN", "REVIEWS", "VERSION", "Kind", "Kinds", "Scale"]
