"""What is known of AWS's types of machines without asking: their GPUs and their vCPUs. A type that is not listed has no known GPU.

Source: AWS's instance type pages (aws.amazon.com/ec2/instance-types, accelerated computing), read in November 2026.
"""

from lamplighter.engines.base import Accelerator

_GIB = 2**30
_T4 = ("T4", 16 * _GIB, False)
_A10G, _L4, _L40S = ("A10G", 24 * _GIB, True), ("L4", 24 * _GIB, True), ("L40S", 48 * _GIB, True)
_V100, _A100, _H100 = ("V100", 16 * _GIB, False), ("A100", 40 * _GIB, True), ("H100", 80 * _GIB, True)
_ONE_GPU = ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")
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
_FAMILIES = {
    "g4dn": (_T4, {**dict.fromkeys(_ONE_GPU, 1), "12xlarge": 4}),
    "g5": (_A10G, {**dict.fromkeys(_ONE_GPU, 1), "12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6": (_L4, {**dict.fromkeys(_ONE_GPU, 1), "12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6e": (_L40S, {**dict.fromkeys(_ONE_GPU, 1), "12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "p3": (_V100, {"2xlarge": 1, "8xlarge": 4, "16xlarge": 8}),
    "p4d": (_A100, {"24xlarge": 8}),
    "p5": (_H100, {"4xlarge": 1, "48xlarge": 8}),
}


def accelerator(kind: str) -> Accelerator | None:
    """The GPUs of a type of machine; None when it has none, or is not known."""
    family, _, size = kind.partition(".")
    gpu, counts = _FAMILIES.get(family, (None, {}))
    if gpu is None or size not in counts:
        return None
    name, memory, bf16 = gpu
    return Accelerator(name=name, count=counts[size], memory=memory, bf16=bf16)


def vcpus(kind: str) -> int | None:
    """What a machine counts for in quotas; None when it is not known."""
    return _SIZES.get(kind.partition(".")[2])


def family(kind: str) -> str:
    """What quotas are about: `vt`, `g` or `p`; anything else is a `standard` family."""
    return next(
        (name for name in ("vt", "g", "p") if kind.startswith(name) and kind[len(name) : len(name) + 1].isdigit()), "standard"
    )
