"""AWS's types of machines with GPUs: vCPUs, memory, GPUs. Published figures (aws.amazon.com/ec2/instance-types, "Accelerated Computing", Nov 2026).

A table and nothing more; what the GPUs can is in `gpus`. Not responsible for what of it pods can use (`federation.slice`) nor for prices.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Machine(NamedTuple):
    """One instance type. `memory` in GiB as AWS writes it; `gpu`: its name in `gpus.GPUS`, or one that is not listed there."""

    vcpus: int
    memory: float
    gpus: int
    gpu: str


def _family(gpu: str, **sizes: tuple[int, float, int]) -> dict[str, Machine]:
    return {name.lstrip("_"): Machine(vcpus, memory, gpus, gpu) for name, (vcpus, memory, gpus) in sizes.items()}


_FAMILIES: Mapping[str, Mapping[str, Machine]] = {
    "g4dn": _family(
        "T4",
        xlarge=(4, 16, 1), _2xlarge=(8, 32, 1), _4xlarge=(16, 64, 1), _8xlarge=(32, 128, 1), _16xlarge=(64, 256, 1),
        _12xlarge=(48, 192, 4), metal=(96, 384, 8),
    ),
    "g5": _family(
        "A10G",
        xlarge=(4, 16, 1), _2xlarge=(8, 32, 1), _4xlarge=(16, 64, 1), _8xlarge=(32, 128, 1), _16xlarge=(64, 256, 1),
        _12xlarge=(48, 192, 4), _24xlarge=(96, 384, 4), _48xlarge=(192, 768, 8),
    ),
    "g5g": _family(
        "T4G", xlarge=(4, 8, 1), _2xlarge=(8, 16, 1), _4xlarge=(16, 32, 1), _8xlarge=(32, 64, 1), _16xlarge=(64, 128, 2), metal=(64, 128, 2)
    ),
    "g6": _family(
        "L4",
        xlarge=(4, 16, 1), _2xlarge=(8, 32, 1), _4xlarge=(16, 64, 1), _8xlarge=(32, 128, 1), _16xlarge=(64, 256, 1),
        _12xlarge=(48, 192, 4), _24xlarge=(96, 384, 4), _48xlarge=(192, 768, 8),
    ),
    "gr6": _family("L4", _4xlarge=(16, 128, 1), _8xlarge=(32, 256, 1)),
    "g6e": _family(
        "L40S",
        xlarge=(4, 32, 1), _2xlarge=(8, 64, 1), _4xlarge=(16, 128, 1), _8xlarge=(32, 256, 1), _16xlarge=(64, 512, 1),
        _12xlarge=(48, 384, 4), _24xlarge=(96, 768, 4), _48xlarge=(192, 1536, 8),
    ),
    "p3": _family("V100", _2xlarge=(8, 61, 1), _8xlarge=(32, 244, 4), _16xlarge=(64, 488, 8)),
    "p3dn": _family("V100-32", _24xlarge=(96, 768, 8)),
    "p4d": _family("A100-40", _24xlarge=(96, 1152, 8)),
    "p4de": _family("A100-80", _24xlarge=(96, 1152, 8)),
    "p5": _family("H100", _4xlarge=(16, 256, 1), _48xlarge=(192, 2048, 8)),
    "p5e": _family("H200", _48xlarge=(192, 2048, 8)),
    "p5en": _family("H200", _48xlarge=(192, 2048, 8)),
    "p6-b200": _family("B200", _48xlarge=(192, 2048, 8)),
}  # fmt: skip

INSTANCES: Mapping[str, Machine] = {
    f"{family}.{size}": machine for family, sizes in _FAMILIES.items() for size, machine in sizes.items()
}
"""By the name of the instance type."""
