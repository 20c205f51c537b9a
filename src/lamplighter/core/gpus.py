"""GPUs: how much memory a program really gets of each, and what it computes in.

`memory` is what CUDA reports as total, which is less than the number on the box: that is what `--gpu-memory-utilization` is a share of. Each
figure names where it was published; where none was found, a cautious share of the nominal size is taken, and said.
"""

from dataclasses import dataclass

GIB = 2**30
_CAUTIOUS = 0.96
"""Share of the nominal GiB that a GPU without a published total is taken to have; the least of the published ones is T4's 0.91, with ECC in its
memory, and A10G's and L4's 0.92, which is why those have their own figure."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `nominal`: GiB on its box. `memory`: bytes that CUDA reports, published at `source`. `capability`: its compute capability x 10.

    `linked`: GPUs of one machine are joined by NVLink.
    """

    name: str
    nominal: int
    memory: int
    capability: int
    linked: bool
    source: str

    @property
    def bf16(self) -> bool:
        """Whether it computes in bfloat16."""
        return self.capability >= 80

    @property
    def fp8(self) -> bool:
        """Whether it multiplies in fp8; others only keep weights in it."""
        return self.capability >= 89


def _gpu(name: str, nominal: int, capability: int, gib: float | None, source: str = "", *, linked: bool = False) -> Gpu:
    memory = int((nominal * _CAUTIOUS if gib is None else gib) * GIB)
    return Gpu(name, nominal, memory, capability, linked, source or f"{_CAUTIOUS:.0%} of the nominal size, cautiously")


_VLLM = "vLLM log, github.com/vllm-project/vllm/"
_ALL = (
    _gpu("T4", 16, 75, 14.56, "PyTorch's out-of-memory reports: 14.56 to 14.75 GiB by driver; the least"),
    _gpu("V100", 16, 70, 15.77, "PyTorch's report, github.com/vllm-project/vllm/issues/10637", linked=True),
    _gpu("V100-32", 32, 70, None, linked=True),
    _gpu("A10", 24, 86, 21.98, "as the A10G, which has the same memory"),
    _gpu("A10G", 24, 86, 21.98, "PyTorch's reports: 21.98 to 22.2 GiB by driver; the least"),
    _gpu("L4", 24, 89, 21.95, "PyTorch's reports: 21.95 to 22.17 GiB by driver; the least"),
    _gpu("RTX3090", 24, 86, 23.58, f"{_VLLM}issues/10517"),
    _gpu("RTX4090", 24, 89, 23.55, f"{_VLLM}issues/13061 (0.98 of it are 23.08 GiB)"),
    _gpu("RTX5090", 32, 120, None),
    _gpu("A100-40", 40, 80, 39.38, f"{_VLLM}issues/16570", linked=True),
    _gpu("A40", 48, 86, 44.34, "PyTorch's reports; nvidia-smi says 46,068 MiB"),
    _gpu("A6000", 48, 86, 47.4, "PyTorch's reports: 47.4 to 47.5 GiB; the least"),
    _gpu("L40S", 48, 89, 44.42, f"{_VLLM}issues/15815"),
    _gpu("A100-80", 80, 80, 79.14, "PyTorch's reports: 79.14 to 79.25 GiB; the least", linked=True),
    _gpu("H100", 80, 90, 79.10, f"PyTorch's reports: 79.10 to 79.22 GiB ({_VLLM}pull/10511); the least", linked=True),
    _gpu("H200", 141, 90, 139.72, f"{_VLLM}issues/13074, of an H20 with the same 141 GB", linked=True),
    _gpu("B200", 179, 100, None, linked=True),
)
GPUS = {gpu.name: gpu for gpu in _ALL}
"""By name; those with little memory first."""

_ALIASES = {
    "A100": "A100-40",
    "A100-40GB": "A100-40",
    "A100-80GB": "A100-80",
    "V100-16": "V100",
    "H100-80": "H100",
    "H100-80GB": "H100",
}
"""A plain A100 is taken for the small one: to promise too little wastes some memory, to promise too much ends in a crash."""


def find(name: str) -> Gpu | None:
    """The GPU by its name as people, NVIDIA's tools and Kubernetes' labels write it (`NVIDIA-A10G`, `Tesla T4`, `A100-SXM4-80GB`)."""
    plain = name.strip().upper().replace("_", "-").replace(" ", "-")
    for prefix in ("NVIDIA-", "TESLA-", "GEFORCE-"):
        plain = plain.removeprefix(prefix)
    for part in ("-SXM2", "-SXM3", "-SXM4", "-SXM5", "-PCIE", "-PCI-E", "-HBM3E", "-HBM3", "-NVL"):
        plain = plain.replace(part, "")
    plain = plain.replace("RTX-", "RTX")
    plain = _ALIASES.get(plain, plain)
    return next((gpu for gpu in _ALL if plain in (gpu.name, f"{gpu.name}-{gpu.nominal}GB")), None)
