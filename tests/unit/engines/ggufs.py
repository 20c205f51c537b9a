"""Makes small GGUF files, whole and broken, for the tests beside it."""

import struct
from pathlib import Path
from typing import Any


def text(value: str) -> bytes:
    """A GGUF string."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def metadata(values: dict[str, Any]) -> bytes:
    """Key-value pairs: strings, unsigned integers, and lists of strings or integers."""
    out = b""
    for key, value in values.items():
        out += text(key)
        if isinstance(value, str):
            out += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list):
            strings = bool(value) and isinstance(value[0], str)
            out += struct.pack("<IIQ", 9, 8 if strings else 4, len(value))
            out += b"".join(text(item) if strings else struct.pack("<I", item) for item in value)
        else:
            out += struct.pack("<II", 4, value)
    return out


LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 2048,
    "llama.block_count": 30,
    "llama.embedding_length": 576,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "tokenizer.ggml.tokens": ["a", "b", "lamp"],
    "tokenizer.ggml.token_type": [1, 1, 1],
}


def make(
    path: Path, *, values: dict[str, Any] | None = None, elements: int = 64, kind: int = 0, version: int = 3, whole: bool = True
) -> Path:
    """One tensor of `elements` elements of the ggml type `kind` (0: 32-bit floats); `whole` False: its data is missing."""
    values = LLAMA if values is None else values
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(values)) + metadata(values)
    head += text("weight") + struct.pack("<IQIQ", 1, elements, kind, 0)
    head += b"\0" * (-len(head) % 32)
    path.write_bytes(head + (b"\0" * elements * 4 if whole else b""))
    return path
