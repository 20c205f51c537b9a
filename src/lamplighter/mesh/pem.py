"""Nebula's PEM blocks: their labels, and reading and writing them. Not responsible for what is inside."""

import base64
import binascii
import re
import textwrap
from collections.abc import Iterator

from lamplighter.mesh.errors import BadCertificate

CERTIFICATE = "NEBULA CERTIFICATE"
CERTIFICATE_V2 = "NEBULA CERTIFICATE V2"
NODE_KEY = "NEBULA X25519 PRIVATE KEY"
NODE_PUBLIC = "NEBULA X25519 PUBLIC KEY"
AUTHORITY_KEY = "NEBULA ED25519 PRIVATE KEY"
AUTHORITY_KEY_ENCRYPTED = "NEBULA ED25519 ENCRYPTED PRIVATE KEY"

MAX_TEXT = 1_000_000
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\r?\n(.*?)-----END \1-----", re.DOTALL)


def encode(label: str, content: bytes) -> str:
    """One block, with a newline at its end."""
    body = "\n".join(textwrap.wrap(base64.b64encode(content).decode("ascii"), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


def blocks(text: str) -> Iterator[tuple[str, bytes]]:
    """Every block of `text` as its label and content; what stands between blocks is skipped. Raises BadCertificate."""
    if len(text) > MAX_TEXT:
        raise BadCertificate("this is longer than any certificate or key")
    for match in _BLOCK.finditer(text):
        try:
            yield match[1], base64.b64decode("".join(match[2].split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadCertificate(f"the block {match[1]} is damaged: it is not base64") from error


def only(text: str, *labels: str, what: str) -> tuple[str, bytes]:
    """The first block that has one of `labels`. Raises BadCertificate, naming what was expected and what is there."""
    there = []
    for label, content in blocks(text):
        if label in labels:
            return label, content
        there.append(label)
    found = f"it holds {', '.join(there)}" if there else "it holds no PEM block"
    raise BadCertificate(f"this is no {what}: {found}", next_step=f"It must begin with -----BEGIN {labels[0]}-----.")
