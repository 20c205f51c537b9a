"""Nebula's PEM blocks: their labels, and reading and writing them. Not responsible for what is inside."""

import base64
import binascii
import string
from collections.abc import Iterator

from lamplighter.mesh.errors import BadCertificate

CERTIFICATE = "NEBULA CERTIFICATE"
CERTIFICATE_V2 = "NEBULA CERTIFICATE V2"
NODE_KEY = "NEBULA X25519 PRIVATE KEY"
NODE_PUBLIC = "NEBULA X25519 PUBLIC KEY"
AUTHORITY_KEY = "NEBULA ED25519 PRIVATE KEY"
AUTHORITY_KEY_ENCRYPTED = "NEBULA ED25519 ENCRYPTED PRIVATE KEY"

MAX_TEXT = 1_000_000
_BEGIN, _END, _DASHES = "-----BEGIN ", "-----END ", "-----"
_LABEL = frozenset(string.ascii_uppercase + string.digits + " ")
_WIDTH = 64


def encode(label: str, content: bytes) -> str:
    """One block, with a newline at its end."""
    body = base64.b64encode(content).decode("ascii")
    lines = [body[at : at + _WIDTH] for at in range(0, len(body), _WIDTH)]
    return "\n".join([f"{_BEGIN}{label}{_DASHES}", *lines, f"{_END}{label}{_DASHES}", ""])


def blocks(text: str) -> Iterator[tuple[str, bytes]]:
    """Every block of `text` as its label and content; what stands between blocks is skipped. Raises BadCertificate.

    In time proportional to the text: public keys come from machines that we do not know yet.
    """
    if len(text) > MAX_TEXT:
        raise BadCertificate("this is longer than any certificate or key")
    at = text.find(_BEGIN)
    while at >= 0:
        start = at + len(_BEGIN)
        label_end = text.find(_DASHES, start)
        label = text[start:label_end] if 0 <= label_end <= start + _WIDTH else ""
        if not label or not _LABEL.issuperset(label):
            raise BadCertificate("this is damaged: a block has no name")
        footer = f"{_END}{label}{_DASHES}"
        body_start = label_end + len(_DASHES)
        body_end = text.find(footer, body_start)
        if body_end < 0:
            raise BadCertificate(f"this is cut off: the block {label} has no end")
        try:
            yield label, base64.b64decode("".join(text[body_start:body_end].split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadCertificate(f"the block {label} is damaged: it is not base64") from error
        at = text.find(_BEGIN, body_end + len(footer))


def only(text: str, *labels: str, what: str) -> tuple[str, bytes]:
    """The first block that has one of `labels`. Raises BadCertificate, naming what was expected and what is there."""
    there = []
    for label, content in blocks(text):
        if label in labels:
            return label, content
        there.append(label)
    found = f"it holds {', '.join(there)}" if there else "it holds no PEM block"
    raise BadCertificate(f"this is no {what}: {found}", next_step=f"It must begin with -----BEGIN {labels[0]}-----.")
