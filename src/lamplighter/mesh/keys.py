"""Keys of authorities (Ed25519) and of nodes (X25519), and the encryption of the former in Nebula's own format.

The encrypted file is that of `nebula-cert ca -encrypt` (slackhq/nebula `cert/crypto.go`, since 1.7): Argon2id, then AES-256-GCM. Nebula's
defaults take 2 GiB of memory; ours take 64 MiB, so that a small machine can sign. Not responsible for where passphrases come from.
"""

import os
import threading
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lamplighter.mesh import pem
from lamplighter.mesh.certificates import public_bytes
from lamplighter.mesh.errors import BadCertificate, WrongPassphrase
from lamplighter.mesh.wire import field, fields, number_field

ARGON2_VERSION = 0x13
_CIPHER = "AES-256-GCM"
_NONCE = 12
_MAX_MEMORY = 4 * 2**20  # KiB: twice Nebula's default; a file that asks for more is no key but an attack
_MAX_ITERATIONS = 1_000
_deriving = threading.Lock()


@dataclass(frozen=True, slots=True)
class Argon2:
    """Cost of turning a passphrase into a key. `memory`: KiB."""

    memory: int = 65_536
    iterations: int = 3
    lanes: int = 4


DEFAULT_COST = Argon2()


def new_authority_key() -> Ed25519PrivateKey:
    """A key for a new authority."""
    return Ed25519PrivateKey.generate()


def encrypt(key: Ed25519PrivateKey, passphrase: str, cost: Argon2 | None = None) -> str:
    """The authority's key as an encrypted PEM block that `nebula-cert` (1.7 and newer) opens with the same passphrase."""
    cost = cost or DEFAULT_COST
    salt, nonce = os.urandom(32), os.urandom(_NONCE)
    sealed = nonce + AESGCM(_derive(passphrase, salt, cost)).encrypt(nonce, _private_bytes(key), None)
    parameters = (
        number_field(1, ARGON2_VERSION)
        + number_field(2, cost.memory)
        + number_field(3, cost.iterations)
        + number_field(4, cost.lanes)
        + field(5, salt)
    )
    metadata = field(1, _CIPHER.encode()) + field(2, parameters)
    return pem.encode(pem.AUTHORITY_KEY_ENCRYPTED, field(1, metadata) + field(2, sealed))


def decrypt(text: str, passphrase: str) -> Ed25519PrivateKey:
    """The authority's key in an encrypted PEM block. Raises WrongPassphrase, BadCertificate."""
    _, content = pem.only(text, pem.AUTHORITY_KEY_ENCRYPTED, what="encrypted Nebula authority's key")
    outer = dict(fields(content))
    metadata = dict(fields(_as_bytes(outer.get(1))))
    parameters = dict(fields(_as_bytes(metadata.get(2))))
    if metadata.get(1) != _CIPHER.encode() or parameters.get(1) != ARGON2_VERSION:
        raise BadCertificate("the key is encrypted in a way that Lamplighter does not know")
    cost = Argon2(*(_as_number(parameters.get(number)) for number in (2, 3, 4)))
    salt, sealed = _as_bytes(parameters.get(5)), _as_bytes(outer.get(2))
    sane = 8 * cost.lanes <= cost.memory <= _MAX_MEMORY and 1 <= cost.iterations <= _MAX_ITERATIONS and 1 <= cost.lanes <= 255
    if not sane or len(salt) < 16 or len(sealed) <= _NONCE:
        raise BadCertificate("the encrypted key is damaged: its parameters make no sense")
    try:
        opened = AESGCM(_derive(passphrase, salt, cost)).decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
    except InvalidTag as error:
        raise WrongPassphrase(
            "the passphrase does not open the authority's key (or the key's file is damaged)",
            next_step="Try again; an exported copy opens with the passphrase that was in force when it was exported.",
        ) from error
    return _authority_key(opened)


def parse_authority_key(text: str, passphrase: str) -> Ed25519PrivateKey:
    """The authority's key, encrypted or (as `nebula-cert` makes it by default) plain. Raises WrongPassphrase, BadCertificate."""
    label, content = pem.only(text, pem.AUTHORITY_KEY_ENCRYPTED, pem.AUTHORITY_KEY, what="Nebula authority's key")
    return _authority_key(content) if label == pem.AUTHORITY_KEY else decrypt(text, passphrase)


def is_encrypted(text: str) -> bool:
    """Whether the authority's key in `text` needs a passphrase. Raises BadCertificate when there is none."""
    return pem.only(text, pem.AUTHORITY_KEY_ENCRYPTED, pem.AUTHORITY_KEY, what="Nebula authority's key")[0] != pem.AUTHORITY_KEY


def plain(key: Ed25519PrivateKey) -> str:
    """The authority's key without encryption, as nebula-cert before 1.7 needs it."""
    return pem.encode(pem.AUTHORITY_KEY, _private_bytes(key))


def new_node_key() -> tuple[str, str]:
    """A node's new pair: its private and its public key, both PEM."""
    key = X25519PrivateKey.generate()
    private = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return pem.encode(pem.NODE_KEY, private), public_pem(_node_public(key))


def public_pem(public_key: bytes) -> str:
    """A node's public key as PEM."""
    return pem.encode(pem.NODE_PUBLIC, public_key)


def parse_public(text: str) -> bytes:
    """A node's public key, 32 bytes. Raises BadCertificate."""
    _, content = pem.only(text, pem.NODE_PUBLIC, what="Nebula node's public key")
    if len(content) != 32:
        raise BadCertificate("the public key has not 32 bytes")
    return content


def public_of(private_pem: str) -> bytes:
    """The public half of a node's private key. Raises BadCertificate."""
    _, content = pem.only(private_pem, pem.NODE_KEY, what="Nebula node's private key")
    if len(content) != 32:
        raise BadCertificate("the private key has not 32 bytes")
    return _node_public(X25519PrivateKey.from_private_bytes(content))


def _node_public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _private_bytes(key: Ed25519PrivateKey) -> bytes:
    """Go's form: the seed, then the public key."""
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()) + public_bytes(key)


def _authority_key(content: bytes) -> Ed25519PrivateKey:
    if len(content) != 64:
        raise BadCertificate("the authority's key has not 64 bytes")
    key = Ed25519PrivateKey.from_private_bytes(content[:32])
    if public_bytes(key) != content[32:]:
        raise BadCertificate("the authority's key is damaged: its halves do not belong together")
    return key


def _derive(passphrase: str, salt: bytes, cost: Argon2) -> bytes:
    kdf = Argon2id(salt=salt, length=32, iterations=cost.iterations, lanes=cost.lanes, memory_cost=cost.memory)
    with (
        _deriving
    ):  # OpenSSL's lanes are threads of a pool that two derivations at once exhaust: they would wait for each other for ever
        return kdf.derive(passphrase.encode())


def _as_bytes(value: int | bytes | None) -> bytes:
    if not isinstance(value, bytes):
        raise BadCertificate("the encrypted key is damaged: a part is missing")
    return value


def _as_number(value: int | bytes | None) -> int:
    if not isinstance(value, int):
        raise BadCertificate("the encrypted key is damaged: a part is missing")
    return value
