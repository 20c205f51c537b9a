"""What a pool must know of AWS's types of machines without asking: their GPUs, and what they count for in quotas."""

from lamplighter.core.gpus import GPUS
from lamplighter.core.machines import INSTANCES
from lamplighter.engines.base import Accelerator

_SIZES = {
    "large": 2,
    "xlarge": 4,
    "2xlarge": 8,
    "4xlarge": 16,
    "8xlarge": 32,
    "12xlarge": 48,
    "16xlarge": 64,
    "24xlarge": 96,
    "48xlarge": 192,
}


def accelerator(kind: str) -> Accelerator | None:
    """The GPUs of a type of machine; None when it has none, or is not known."""
    machine = INSTANCES.get(kind)
    gpu = GPUS.get(machine.gpu) if machine is not None else None
    if machine is None or gpu is None:
        return None
    return Accelerator(name=gpu.name, count=machine.gpus, memory=gpu.memory, bf16=gpu.bf16)


def vcpus(kind: str) -> int | None:
    """What a machine counts for in quotas; None when it is not known."""
    return _SIZES.get(kind.partition(".")[2])


def family(kind: str) -> str:
    """What quotas are about: `vt`, `g` or `p`; anything else is a `standard` family."""
    return next(
        (name for name in ("vt", "g", "p") if kind.startswith(name) and kind[len(name) : len(name) + 1].isdigit()), "standard"
    )
