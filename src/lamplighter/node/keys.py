"""The node's own key: X25519 (RFC 7748) in Nebula's PEM. The standard library has none, and the private half never leaves the node."""

from __future__ import annotations

import base64
import re
import secrets
from pathlib import Path

from lamplighter.node.basics import write


def x25519(scalar: bytes, point: bytes = (9).to_bytes(32, "little")) -> bytes:
    """RFC 7748, section 5. Not in constant time: it runs once, alone on its machine."""
    p = 2**255 - 19
    k = int.from_bytes(scalar, "little") & ~7 & ((1 << 255) - 1) | (1 << 254)
    x1 = (int.from_bytes(point, "little") & ((1 << 255) - 1)) % p
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = (x2 + z2) % p, (x2 - z2) % p, (x3 + z3) % p, (x3 - z3) % p
        da, cb, aa, bb = d * a % p, c * b % p, a * a % p, b * b % p
        x3, z3, x2, e = pow(da + cb, 2, p), x1 * pow(da - cb, 2, p) % p, aa * bb % p, (aa - bb) % p
        z2 = e * (aa + 121665 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def pem(label: str, content: bytes) -> str:
    """In Nebula's form."""
    text = base64.b64encode(content).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


def unpem(text: str) -> bytes:
    """The content of the first block. Raises ValueError."""
    found = re.search(r"-----BEGIN [A-Z0-9 ]+-----\s([A-Za-z0-9+/=\s]+)-----END", text)
    if found is None:
        raise ValueError("not PEM")
    return base64.b64decode(found[1])


def own_key(path: Path) -> str:
    """The public half, in PEM, of the key at `path`, which is made when there is none. The private half stays on this machine."""
    if not path.exists():
        write(path, pem("NEBULA X25519 PRIVATE KEY", secrets.token_bytes(32)))
    return pem("NEBULA X25519 PUBLIC KEY", x25519(unpem(path.read_text())))
