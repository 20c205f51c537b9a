"""How much of a GPU cluster the home cluster asks for: a share of what its node can give to pods, and all of its GPUs. Pure.

Liqo's default class grants whatever is asked for, GPUs that do not exist included, and its own default (4 CPUs, 8 GiB, no GPU) fits no GPU
node: so the amounts are computed here, of the instance type before it runs, or of the nodes themselves once they do.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lamplighter.core.errors import ProviderError
from lamplighter.core.machines import INSTANCES, Machine

PODS = 110
"""The kubelet's default limit."""
GPU = "nvidia.com/gpu"
_MIB = 1024**2
_VM_OVERHEAD = 0.075
"""Share of an instance's memory that its kernel never shows: Karpenter's default for EC2 (`vmMemoryOverheadPercent`)."""
_EVICTION_MIB = 100
"""The kubelet's default hard eviction threshold, `memory.available<100Mi`."""
_QUANTITY = re.compile(r"^(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?P<unit>m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei|)$")
_UNITS = {
    "m": 1e-3,
    "": 1.0,
    "k": 1000.0,
    **{unit: 1000.0 ** (power + 2) for power, unit in enumerate("MGTPE")},
    **{f"{unit}i": 1024.0 ** (power + 1) for power, unit in enumerate("KMGTPE")},
}


@dataclass(frozen=True, slots=True)
class Slice:
    """Amounts as Kubernetes writes them (`3528m`, `12229Mi`), and counts."""

    cpu: str
    memory: str
    pods: int
    gpus: int

    def resources(self, gpu_resource: str = GPU) -> dict[str, str]:
        """As the `resources` of a ResourceSlice."""
        amounts = {"cpu": self.cpu, "memory": self.memory, "pods": str(self.pods)}
        return {**amounts, gpu_resource: str(self.gpus)} if self.gpus else amounts


def slice_for(instance_type: str, share: float = 0.9) -> Slice:
    """The slice for one instance. `share` is of what is allocatable, above 0 to 1; GPUs are whole. Raises ProviderError for an unknown type."""
    machine = INSTANCES.get(instance_type)
    if machine is None:
        family = instance_type.partition(".")[0]
        known = ", ".join(sorted(name for name in INSTANCES if name.partition(".")[0] == family))
        raise ProviderError(
            f"The size of instance type {instance_type!r} is not known here.",
            next_step=f"Known of its family: {known}."
            if known
            else "Give the amounts themselves: `--cpu 3 --memory 12Gi --gpus 1`.",
        )
    cpu, memory = allocatable(machine)
    return _share(cpu, memory, PODS, machine.gpus, share)


def slice_of(nodes: Iterable[Mapping[str, Any]], share: float = 0.9, gpu_resource: str = GPU) -> Slice:
    """The slice for a cluster that runs: of its nodes' own `status.allocatable`. Nodes that take no pods are left out."""
    cpu, memory, pods, gpus = 0.0, 0.0, 0.0, 0
    for node in nodes:
        if (node.get("spec") or {}).get("unschedulable"):
            continue
        amounts = (node.get("status") or {}).get("allocatable") or {}
        cpu += amount(amounts.get("cpu", "0"))
        memory += amount(amounts.get("memory", "0"))
        pods += amount(amounts.get("pods", PODS))
        gpus += int(amount(amounts.get(gpu_resource, "0")))
    if cpu == 0:
        raise ProviderError(
            "The cluster has no node that takes pods.",
            next_step="Look at `kubectl get nodes` there: it is not ready, or cordoned.",
        )
    return _share(int(cpu * 1000), int(memory // _MIB), int(pods), gpus, share)


def allocatable(machine: Machine) -> tuple[int, int]:
    """Millicores and MiB that pods get of `machine`: what it has, less the kernel, the kubelet's reserve and the eviction threshold.

    The reserve is that of EKS nodes (awslabs/amazon-eks-ami): of CPU 6 % of the first core, 1 % of the second, 0.5 % of the next two, 0.25 %
    of the rest; of memory 255 MiB and 11 MiB for each pod. k3s itself reserves nothing, but its server runs on the node beside Liqo's pods.
    """
    reserved = 0.0
    for core in range(machine.vcpus):
        reserved += 60 if core == 0 else 10 if core == 1 else 5 if core < 4 else 2.5
    memory = machine.memory * 1024 * (1 - _VM_OVERHEAD) - (255 + 11 * PODS) - _EVICTION_MIB
    return int(machine.vcpus * 1000 - reserved), int(memory)


def amount(quantity: str | float) -> float:
    """A Kubernetes quantity as a number: `500m` is 0.5, `1Ki` 1024. Raises ValueError."""
    found = _QUANTITY.match(str(quantity).strip())
    if found is None:
        raise ValueError(f"not a quantity: {quantity!r}")
    return float(found["number"]) * _UNITS[found["unit"]]


def _share(millicores: int, mebibytes: int, pods: int, gpus: int, share: float) -> Slice:
    if not 0 < share <= 1:
        raise ValueError(f"a share is above 0 and at most 1, not {share}")
    return Slice(f"{int(millicores * share)}m", f"{int(mebibytes * share)}Mi", max(1, int(pods * share)), gpus)
