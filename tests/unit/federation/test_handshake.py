"""What we sign for the consumer: exactly what Liqo on the other side checks."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from lamplighter.core.errors import ProviderError
from lamplighter.federation.handshake import asks_as, credentials

Key = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def secret(private: Key) -> dict[str, str]:
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"privateKey": base64.b64encode(pem).decode()}


KEYS: dict[str, Key] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_request(kind: str) -> None:
    """O=liqo.io, CN=the cluster's id, signed by the key that the tenant carries: each is checked on the other side."""
    made = credentials(secret(KEYS[kind]), "home")
    request = x509.load_pem_x509_csr(base64.b64decode(made.request))
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=home,O=liqo.io"
    public = base64.b64decode(made.public_key)
    assert public.startswith(b"-----BEGIN PUBLIC KEY-----")
    assert asks_as(made.request, made.public_key, "home")
    assert not asks_as(made.request, made.public_key, "other")


def test_another_key_is_noticed() -> None:
    """Liqo was installed anew at home: the old request must not be taken for good."""
    old, new = (credentials(secret(ed25519.Ed25519PrivateKey.generate()), "home") for _ in range(2))
    assert not asks_as(old.request, new.public_key, "home")
    assert not asks_as("bm90aGluZw==", new.public_key, "home")


@pytest.mark.parametrize("data", [{}, {"privateKey": "bm8="}, {"privateKey": "!"}])
def test_damaged_key(data: dict[str, str]) -> None:
    """A damaged secret: a sentence with the secret's name, never a traceback, and never the key."""
    with pytest.raises(ProviderError) as caught:
        credentials(data, "home")
    assert "authentication-keys" in caught.value.next_step


def test_deterministic() -> None:
    """Ed25519 signs the same way each time: asking again changes nothing."""
    data = secret(KEYS["ed25519"])
    assert credentials(data, "home") == credentials(data, "home")
