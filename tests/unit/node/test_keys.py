"""The node makes its own key without any library: it must be the key that Nebula means."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.node.keys import own_key, pem, unpem, x25519


@pytest.mark.parametrize(
    ("scalar", "point", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_the_vectors_of_rfc_7748(scalar: str, point: str, result: str) -> None:
    """A key that is wrong in one bit would never complete a handshake, on a machine that is paid for."""
    assert x25519(bytes.fromhex(scalar), bytes.fromhex(point)).hex() == result


def test_a_thousand_rounds_of_rfc_7748() -> None:
    """The RFC's own loop: it finds what two vectors do not."""
    k = u = (9).to_bytes(32, "little")
    for _ in range(1000):
        k, u = x25519(k, u), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_it_agrees_with_cryptography(secret: bytes) -> None:
    """The keeper certifies with that library; both must mean the same key."""
    raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert x25519(secret) == X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(*raw)


def test_the_private_half_is_for_root_alone_and_is_kept(tmp_path: Path) -> None:
    """A restarted agent must come back with the key that its certificate is for."""
    path = tmp_path / "nebula" / "node.key"
    public = own_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert own_key(path) == public
    assert unpem(path.read_text()) not in unpem(public)
    assert own_key(tmp_path / "other.key") != public


@pytest.mark.skipif(shutil.which("nebula-cert") is None, reason="nebula-cert is not installed")
def test_nebula_itself_signs_and_takes_the_key(tmp_path: Path) -> None:
    """The form of the PEM is Nebula's own: one that it does not read would end every wake in the mesh stage."""
    (tmp_path / "node.pub").write_text(own_key(tmp_path / "node.key"))
    for command in (
        ("ca", "-name", "test", "-out-crt", "ca.crt", "-out-key", "ca.key"),
        ("sign", "-ca-crt", "ca.crt", "-ca-key", "ca.key", "-name", "n", "-ip", "10.77.128.7/16", "-in-pub", "node.pub", "-out-crt", "node.crt"),
        ("verify", "-ca", "ca.crt", "-crt", "node.crt"),
    ):  # fmt: skip
        subprocess.run(("nebula-cert", *command), cwd=tmp_path, check=True, capture_output=True)


@given(st.binary(max_size=300))
def test_pem_is_read_as_it_was_written(content: bytes) -> None:
    """A key that changes on the way to the disk is lost."""
    if content:
        assert unpem(pem("NEBULA X25519 PRIVATE KEY", content)) == content


def test_what_is_no_pem_is_refused() -> None:
    """Rubbish in the key's file must not become a key."""
    for text in ("", "-----BEGIN X-----", "hello"):
        with pytest.raises(ValueError, match="not PEM"):
            unpem(text)
