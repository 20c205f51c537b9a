"""From credentials to a virtual node: the slice asked for, what was granted, the node that stands for it.

Not responsible for what runs on the node. Raises Halt where it waits.
"""

from collections.abc import Mapping

from lamplighter.federation import names, objects
from lamplighter.federation.side import Side
from lamplighter.federation.slice import GPU, amount
from lamplighter.federation.standing import PATIENCE, Halt, Why, age, since
from lamplighter.providers.kubernetes.kinds import NODE, Manifest
from lamplighter.providers.kubernetes.reading import condition, deleting, labels, status
from lamplighter.providers.kubernetes.reading import name as name_of

_KINDS = ("Authentication", "Resources")


async def obtain(
    consumer: Side,
    provider: Side,
    resources: Mapping[str, str],
    node_labels: Mapping[str, str],
    gpu_resource: str = GPU,
) -> str:
    """Until the virtual node is ready, with its labels and its GPUs; its name. Raises Halt."""
    granted = await _slice(consumer, provider, resources)
    _enough(provider, resources, granted)
    node = await _virtual_node(consumer, provider, node_labels)
    found = await consumer.get(NODE, node)
    if found is None:
        raise Halt("virtual-node", Why.NODE_PENDING, f"The virtual node {node} registers.", node=node)
    ready = condition(found, "Ready")
    if ready.get("status") != "True":
        _not_ready(consumer, provider, found, ready)
    missing = {key: value for key, value in node_labels.items() if labels(found).get(key) != value}
    if missing:
        await consumer.patch(NODE, node, {"metadata": {"labels": missing}})
    wanted = amount(resources.get(gpu_resource) or 0)
    there = amount((status(found).get("allocatable") or {}).get(gpu_resource, "0"))
    if there < wanted:
        raise Halt(
            "virtual-node",
            Why.NODE_WITHOUT_GPU,
            f"The virtual node {node} shows {there:g} of {wanted:g} {gpu_resource}.",
            next_step="It is told a moment after the node is ready; if it stays so, the slice was granted without GPUs.",
            node=node,
        )
    return node


async def _slice(consumer: Side, provider: Side, resources: Mapping[str, str]) -> Mapping[str, str]:
    made = await consumer.ensure(objects.resource_slice(provider.id, consumer.tenant, resources))
    if deleting(made):
        raise Halt("resources", Why.CLEARING, f"The slice {name_of(made)} is still being deleted from an earlier peering.")
    waited = age(made, consumer.now())
    for kind in _KINDS:
        answer = condition(made, kind)
        if answer.get("status") == "Denied":
            said = str(answer.get("message") or "") or await provider.warning(name_of(made))
            raise Halt(
                "resources",
                Why.SLICE_REFUSED,
                f"{provider.name} refuses what is asked of it ({kind.lower()})" + (f": {said}." if said else "."),
                next_step="Ask for less (`federation.share`), or look there: the tenant's condition, and the class of slices.",
                failed=True,
            )
        if answer.get("status") != "Accepted":
            if waited > PATIENCE:
                raise Halt(
                    "resources",
                    Why.SLICE_UNANSWERED,
                    f"{provider.name} has not answered the slice for {waited:.0f} s.",
                    next_step=(
                        "The request is carried by Liqo's replicator in "
                        f"{consumer.name}: `kubectl -n {consumer.liqo} logs deploy/liqo-crd-replicator`; it must reach the API server there."
                    ),
                )
            raise Halt("resources", Why.SLICE_PENDING, f"{provider.name} decides on the slice.")
    return status(made).get("resources") or {}


def _enough(provider: Side, asked: Mapping[str, str], granted: Mapping[str, str]) -> None:
    less = [name for name, wanted in asked.items() if amount(granted.get(name, "0")) < amount(wanted) * 0.999]
    if less:
        told = ", ".join(f"{name} {granted.get(name, '0')} of {asked[name]}" for name in less)
        raise Halt(
            "resources",
            Why.SLICE_REDUCED,
            f"{provider.name} grants less than is asked of it: {told}.",
            next_step="Ask for less (`federation.share`, `--cpu`, `--memory`, `--gpus`), or let its class of slices grant more.",
            failed=True,
        )


async def _virtual_node(consumer: Side, provider: Side, node_labels: Mapping[str, str]) -> str:
    made = await consumer.get(names.VIRTUAL_NODE, provider.id)
    if made is None:
        raise Halt(
            "virtual-node",
            Why.NODE_PENDING,
            f"Liqo in {consumer.name} makes the virtual node for {provider.id}.",
            next_step=f"Its controller does: `kubectl -n {consumer.liqo} logs deploy/liqo-controller-manager`.",
        )
    if deleting(made):
        raise Halt(
            "virtual-node", Why.CLEARING, f"The virtual node {name_of(made)} is still being deleted from an earlier peering."
        )
    present = (made.get("spec") or {}).get("labels") or {}
    missing = {key: value for key, value in node_labels.items() if present.get(key) != value}
    if missing:  # what the virtual kubelet writes on its node when it starts
        await consumer.patch(names.VIRTUAL_NODE, name_of(made), {"spec": {"labels": missing}})
    return name_of(made)


def _not_ready(consumer: Side, provider: Side, node: Manifest, ready: Mapping[str, str]) -> None:
    name = name_of(node)
    unready = [
        f"{one.get('type')}: {one.get('message') or one.get('reason')}"
        for one in status(node).get("conditions") or ()
        if (one.get("type") == "Ready") == (one.get("status") != "True") and one.get("status") != "Unknown"
    ]
    lasted = since(ready.get("lastTransitionTime"), consumer.now()) if ready else age(node, consumer.now())
    if lasted <= PATIENCE and not unready:
        raise Halt("virtual-node", Why.NODE_PENDING, f"The virtual node {name} becomes ready.", node=name)
    raise Halt(
        "virtual-node",
        Why.NODE_NOT_READY,
        f"The virtual node {name} is not ready for {lasted:.0f} s" + (f" ({'; '.join(unready)})." if unready else "."),
        next_step=(
            f"Its virtual kubelet in {consumer.name} must reach {provider.name}: `kubectl -n {consumer.tenant} get pods`, the tunnel, "
            "the API server there. If the machine is gone: `lamplighter federation unpeer --force`."
        ),
        node=name,
    )
