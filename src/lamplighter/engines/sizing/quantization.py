"""How many bytes a quantised weight takes, scales and zero points included, and which weights of a model are quantised.

The formats: AWQ, GPTQ and compressed-tensors keep 16-bit scales (and zero points as wide as a weight) for each group of weights; fp8 has 32-bit
scales for each block or channel; bitsandbytes' NF4 a 32-bit maximum for each 64; MXFP4 an 8-bit exponent for each 32 (the OCP Microscaling
specification), NVFP4 an 8-bit scale for each 16. Embeddings, the output layer and norms stay in the model's own type unless a method says else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METHODS = ("none", "awq", "gptq", "gptq-int8", "fp8", "int8", "bitsandbytes", "mxfp4", "nvfp4")
"""What `--quantization` takes: how a version of the model that does not exist yet would be."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """`method`: as vLLM calls it. `each`: bytes of one quantised weight. `skips`: parts that are not quantised, by the names of the configuration.

    `experts_only`: only what experts are made of is quantised (gpt-oss). `needs`: the least compute capability x 10 that vLLM runs it on.
    """

    method: str
    each: float
    skips: tuple[str, ...] = ()
    experts_only: bool = False
    needs: int = 75

    def covers(self, layer: int, part: str) -> bool:
        """Whether `part` (`self_attn` or `mlp`) of the layer is quantised."""
        return not any(_matches(skip, layer, part) for skip in self.skips)


def named(method: str) -> Quantization | None:
    """A usual version by the names of `METHODS`; None for `none`. Raises ValueError for any other name."""
    if method == "none":
        return None
    found = _USUAL.get(method)
    if found is None:
        raise ValueError(f"{method!r} is no quantisation that is known here; there are: {', '.join(METHODS)}")
    return found


def _grouped(bits: int, group: int, *, zeros: bool) -> float:
    """Bytes of one weight with its share of the group's 16-bit scale and of the zero point, as wide as a weight."""
    extra = 0.0 if group <= 0 else (2 + (bits / 8 if zeros else 0)) / group
    return bits / 8 + extra


_FP8 = 1 + 4 / (128 * 128)
_USUAL: Mapping[str, Quantization] = {
    "awq": Quantization("awq", _grouped(4, 128, zeros=True), needs=75),
    "gptq": Quantization("gptq", _grouped(4, 128, zeros=True), needs=60),
    "gptq-int8": Quantization("gptq", _grouped(8, 128, zeros=True), needs=60),
    "fp8": Quantization("fp8", _FP8, needs=75),
    "int8": Quantization("compressed-tensors", 1.0, needs=75),
    "bitsandbytes": Quantization("bitsandbytes", 0.5 + 4 / 64, needs=70),
    "mxfp4": Quantization("mxfp4", 0.5 + 1 / 32, experts_only=True, needs=80),
    "nvfp4": Quantization("modelopt_fp4", 0.5 + 1 / 16, needs=75),
}


def read(config: Mapping[str, Any]) -> Quantization | None:
    """From a `config.json`; None when nothing is quantised. Raises ValueError for a method that is not known."""
    section = config.get("quantization_config")
    if not isinstance(section, Mapping):
        return None
    method = str(section.get("quant_method", "")).lower()
    if not method and "quant_algo" in section:
        method = "modelopt"
    skips = tuple(map(str, section.get("modules_to_not_convert") or section.get("ignore") or section.get("ignored_layers") or ()))
    reader = _READERS.get(method)
    if reader is None:
        raise ValueError(f"the quantisation {method or 'of this model'!r} is not known here")
    found, needs = reader(section)
    return Quantization(method, found, skips, experts_only=method == "mxfp4", needs=needs)


def _integer(section: Mapping[str, Any]) -> tuple[float, int]:
    bits, group = (
        int(section.get("bits") or section.get("w_bit") or 4),
        int(section.get("group_size") or section.get("q_group_size") or 128),
    )
    return _grouped(bits, group, zeros=bool(section.get("zero_point", not section.get("sym", False)))), 75


def _compressed(section: Mapping[str, Any]) -> tuple[float, int]:
    groups = section.get("config_groups")
    weights = next((one.get("weights") for one in groups.values()), None) if isinstance(groups, Mapping) else None
    if not isinstance(weights, Mapping):
        raise ValueError("its compressed-tensors section does not say how wide weights are")  # noqa: TRY004 - what the file says, not its type
    bits, group = int(weights.get("num_bits") or 8), int(weights.get("group_size") or 0)
    if weights.get("type") == "float" and bits == 4:
        return 0.5 + 1 / 16, 75
    return _grouped(bits, group, zeros=not weights.get("symmetric", True)), 75


def _bitsandbytes(section: Mapping[str, Any]) -> tuple[float, int]:
    return (0.5 + 4 / 64 if section.get("load_in_4bit") else 1.0), 70


def _modelopt(section: Mapping[str, Any]) -> tuple[float, int]:
    return (0.5 + 1 / 16, 75) if "FP4" in str(section.get("quant_algo", "")).upper() else (1.0, 75)


_READERS = {
    "awq": _integer,
    "gptq": _integer,
    "fp8": lambda _section: (_FP8, 75),
    "fbgemm_fp8": lambda _section: (1.0, 80),
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": lambda _section: (0.5 + 1 / 32, 80),
    "modelopt": _modelopt,
}


_LARGE = frozenset(
    ("", "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj", "experts")
)
"""What a skipped part must end with to matter: a router or a shared expert's gate is small, and never quantised anyway."""


def _matches(skip: str, layer: int, part: str) -> bool:
    """Configurations name parts exactly, by a part of the name, or by a regular expression that begins with `re:`."""
    name = f"model.layers.{layer}.{part}"
    if skip.startswith("re:"):
        try:
            return re.match(skip[3:], f"{name}.q_proj" if part == "self_attn" else f"{name}.gate_proj") is not None
        except re.error:
            return False
    found = skip.replace("layers.*", f"layers.{layer}")
    inside = found == name or found.startswith(f"{name}.")
    return skip == part or (inside and found.removeprefix(name).rpartition(".")[2] in _LARGE)
