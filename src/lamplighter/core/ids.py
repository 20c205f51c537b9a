"""Identifiers: a short prefix that names the kind, then 80 random bits that sort by the time they were made.

Not secrets: see `secret` for those.
"""

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: no i, l, o, u


def _encode(value: int, length: int) -> str:
    out = []
    for _ in range(length):
        value, rest = divmod(value, 32)
        out.append(_ALPHABET[rest])
    return "".join(reversed(out))


def new_id(prefix: str) -> str:
    """`prefix` + `_` + 9 characters of milliseconds + 11 of chance: sorts by time of making within one machine."""
    return f"{prefix}_{_encode(time.time_ns() // 1_000_000, 9)}{_encode(secrets.randbits(55), 11)}"


def secret(prefix: str, size: int = 32) -> str:
    """A credential with `size` bytes of entropy, URL-safe, recognisable by its prefix (so that scanners can find leaks)."""
    return f"{prefix}-{secrets.token_urlsafe(size)}"
