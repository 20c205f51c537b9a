"""AWS's machines as `lamplighter fit` sees them: those whose GPUs are known (`core.gpus`)."""

from dataclasses import dataclass

from lamplighter.core import machines
from lamplighter.core.gpus import GPUS, Gpu


@dataclass(frozen=True, slots=True)
class Instance:
    """A type of machine. `count`: its GPUs."""

    name: str
    gpu: Gpu
    count: int
    vcpus: int


INSTANCES = {
    name: Instance(name, GPUS[machine.gpu], machine.gpus, machine.vcpus)
    for name, machine in machines.INSTANCES.items()
    if machine.gpu in GPUS
}
"""By name."""


def by_memory() -> list[Instance]:
    """One machine for each kind and number of GPUs, the one with the fewest CPUs; least GPU memory first."""
    found: dict[tuple[str, int], Instance] = {}
    for instance in INSTANCES.values():
        key = (instance.gpu.name, instance.count)
        if key not in found or instance.vcpus < found[key].vcpus:
            found[key] = instance
    return sorted(found.values(), key=lambda one: (one.gpu.memory * one.count, one.count))
