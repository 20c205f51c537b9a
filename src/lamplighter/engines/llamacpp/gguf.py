"""Reads a GGUF file's header: is it a model, is it whole, and how much memory will it want?

Format: the GGUF specification of ggml (magic, version 2 or 3, metadata, tensor infos, aligned data; little endian). llama.cpp itself says only
"failed to load" for a damaged file, so we look first. Not responsible for reading weights.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_KEYS, _MAX_TENSORS, _MAX_DIMENSIONS = 100_000, 1_000_000, 8

# ggml_type -> (elements in a block, bytes in a block): ggml's `type_traits`.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84), 11: (256, 110),
    12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50),
    20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56),
    30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


class NotAModel(Exception):
    """The file is no GGUF model, or only a part of one. The message is one plain sentence."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header tells. `weights`: bytes of tensor data in this file. `metadata`: scalars and strings only, arrays are skipped."""

    metadata: dict[str, Any]
    weights: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def _number(self, name: str, default: int = 0) -> int:
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        return int(value) if isinstance(value, int | float) else default

    @property
    def trained_context(self) -> int | None:
        """Tokens of context the model was trained for."""
        return self._number("context_length") or None

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of key and value cache for `tokens` at 16 bits: layers x tokens x heads x (key + value length) x 2.

        Sliding windows and recurrent layers need less, so this is an upper bound; 0 when the header does not tell.
        """
        layers, heads = self._number("block_count"), self._number("attention.head_count")
        per_head = self._number("embedding_length") // heads if heads else 0
        key, value = self._number("attention.key_length", per_head), self._number("attention.value_length", per_head)
        return layers * tokens * self._number("attention.head_count_kv", heads) * (key + value) * 2


def read(path: Path) -> Header:
    """The header of the file at `path`. Raises NotAModel, OSError."""
    size = path.stat().st_size
    if size == 0:
        raise NotAModel(f"{path.name} is empty.")
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise NotAModel(f"{path.name} is not a GGUF model file.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data, path.name).header(size)
            except (struct.error, IndexError, UnicodeDecodeError, OverflowError) as error:
                raise NotAModel(f"{path.name} is damaged: its header makes no sense or ends too early.") from error


class _Reader:
    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data = data
        self.name = name
        self.at = 4

    def header(self, size: int) -> Header:
        version = self.number("<I")
        if version not in (2, 3):
            raise NotAModel(f"{self.name} has GGUF version {version}; versions 2 and 3 are known.")
        tensors, keys = self.number("<Q"), self.number("<Q")
        if tensors > _MAX_TENSORS or keys > _MAX_KEYS or tensors == 0:
            raise NotAModel(f"{self.name} is damaged: it claims {tensors} tensors and {keys} settings.")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key, kind = self.string(), self.number("<I")
            value = self.value(kind)
            if value is not None:
                metadata[key] = value
        end = max((self.tensor_end() for _ in range(tensors)), default=0)
        alignment = int(metadata.get("general.alignment", 32))
        start = -(-self.at // alignment) * alignment
        if start + end > size:
            raise NotAModel(f"{self.name} is cut short: {size / 1e6:.0f} of {(start + end) / 1e6:.0f} MB are there.")
        return Header(metadata, end)

    def tensor_end(self) -> int:
        """Where the tensor's data ends, counted from the data's start; where it begins, for a type that we do not know."""
        self.skip_string()
        dimensions = self.number("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise NotAModel(f"{self.name} is damaged: a tensor with {dimensions} dimensions.")
        elements = 1
        for _ in range(dimensions):
            elements *= self.number("<Q")
        kind, offset = self.number("<I"), self.number("<Q")
        per_block, block = _BLOCKS.get(kind, (1, 0))
        return int(offset + elements // per_block * block)

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self) -> str:
        length = self.number("<Q")
        text = self.data[self.at : self.at + length]
        if len(text) != length:
            raise IndexError
        self.at += length
        return text.decode("utf-8", "replace")

    def skip_string(self) -> None:
        self.at += 8 + struct.unpack_from("<Q", self.data, self.at)[0]

    def value(self, kind: int) -> Any:
        """A scalar or string; None for an array, which is skipped."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise NotAModel(f"{self.name} is damaged: a setting of the unknown kind {kind}.")
        inner, length = self.number("<I"), self.number("<Q")
        if inner in _SCALARS:
            self.at += struct.calcsize(_SCALARS[inner]) * length
        elif inner == _STRING:
            self._skip_strings(length)
        else:
            for _ in range(length):
                self.value(inner)
        return None

    def _skip_strings(self, count: int) -> None:
        """A tokenizer has some hundred thousand: a tight loop, since a person waits."""
        data, at, unpack, end = self.data, self.at, struct.Struct("<Q").unpack_from, len(self.data)
        for _ in range(count):
            at += 8 + unpack(data, at)[0]
            if at > end:
                raise IndexError
        self.at = at
