"""AWS's types of machines with NVIDIA GPUs. Source: AWS's instance type pages (accelerated computing), read in November 2026."""

from dataclasses import dataclass

from lamplighter.engines.sizing.gpus import GPUS, Gpu

_SMALL = {"xlarge": (1, 4), "2xlarge": (1, 8), "4xlarge": (1, 16), "8xlarge": (1, 32), "16xlarge": (1, 64)}
_LARGE = {"12xlarge": (4, 48), "24xlarge": (4, 96), "48xlarge": (8, 192)}
_FAMILIES: dict[str, tuple[str, dict[str, tuple[int, int]]]] = {
    "g4dn": ("T4", {**_SMALL, "12xlarge": (4, 48)}),
    "g5": ("A10G", {**_SMALL, **_LARGE}),
    "g6": ("L4", {**_SMALL, **_LARGE}),
    "g6e": ("L40S", {**_SMALL, **_LARGE}),
    "p3": ("V100", {"2xlarge": (1, 8), "8xlarge": (4, 32), "16xlarge": (8, 64)}),
    "p3dn": ("V100-32", {"24xlarge": (8, 96)}),
    "p4d": ("A100-40", {"24xlarge": (8, 96)}),
    "p4de": ("A100-80", {"24xlarge": (8, 96)}),
    "p5": ("H100", {"4xlarge": (1, 16), "48xlarge": (8, 192)}),
    "p5e": ("H200", {"48xlarge": (8, 192)}),
    "p5en": ("H200", {"48xlarge": (8, 192)}),
    "p6-b200": ("B200", {"48xlarge": (8, 192)}),
}


@dataclass(frozen=True, slots=True)
class Instance:
    """A type of machine. `count`: its GPUs."""

    name: str
    gpu: Gpu
    count: int
    vcpus: int


INSTANCES = {
    f"{family}.{size}": Instance(f"{family}.{size}", GPUS[gpu], count, vcpus)
    for family, (gpu, sizes) in _FAMILIES.items()
    for size, (count, vcpus) in sizes.items()
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
