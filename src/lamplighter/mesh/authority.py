"""The authorities of the mesh, as the rest of Lamplighter uses them.

Two authorities are in one bundle, because Nebula has no intermediate ones. The *offline* authority certifies people, home and lighthouses;
its key needs a person. The *online* authority certifies cloud nodes and nothing else; the keeper uses it at any hour.
`OnlineAuthority` is the latter. What a person does with both is in `administration`. Not responsible for nodes' configurations.
"""

import threading
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.clock import Clock, SystemClock
from lamplighter.mesh import keys, publishing, rotation
from lamplighter.mesh.certificates import parse_bundle
from lamplighter.mesh.errors import MeshError
from lamplighter.mesh.issuing import ONLINE_GROUPS, Wanted, active, issue_into, newest, revoke_into, taken
from lamplighter.mesh.storage import Index, MeshFolder, unusable

AUTHORITY_NAMES = {"offline": "lamplighter-offline", "online": "lamplighter-online"}
"""Names of the authorities' certificates; the same after a rotation, so that firewall rules may say `ca_name`."""

_FOREVER = 4e9  # the year 2096: a time that every reader of JSON understands


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate for a node. `not_after`: Unix seconds."""

    certificate_pem: str
    fingerprint: str
    not_after: float


class OnlineAuthority:
    """Certifies cloud nodes, and revokes them. Safe to use from several threads, and while `lamplighter mesh` runs.

    `folder` is the mesh's own folder, `<data>/mesh`.
    """

    def __init__(self, folder: Path, config: MeshConfig, passphrase: str, *, clock: Clock) -> None:
        self._folder = MeshFolder(folder)
        self._config = config
        self._passphrase = passphrase
        self._clock = clock
        self._keys: dict[str, Ed25519PrivateKey] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path, config: MeshConfig, passphrase: str | None, *, clock: Clock | None = None) -> Self:
        """Unlock it, which takes about a third of a second and 64 MiB. Raises MeshError, WrongPassphrase."""
        if passphrase is None:
            raise MeshError(
                "the online authority's passphrase is not known",
                code="no_passphrase",
                next_step="Set mesh.passphrase in lamplighter.yaml, such as file:/etc/lamplighter/mesh.passphrase.",
            )
        opened = cls(folder, config, passphrase, clock=clock or SystemClock())
        opened._key(opened._folder.read())
        return opened

    def issue(self, name: str, public_key_pem: str, address: IPv4Address, *, now: float) -> Issued:
        """A certificate for the key, in the group `gpu`, valid for `mesh.node_certificate` from `now` (Unix seconds).

        Asked again for the same node it renews. Whoever had the name or the address with another key is revoked. Raises BeyondAuthority
        for an address outside of `mesh.nodes`, BadCertificate for a key that is none, MeshError.
        """
        public_key = keys.parse_public(public_key_pem)
        with self._folder.change() as index:
            key = self._key(index)
            wanted = Wanted(name, "gpu", public_key, address, ONLINE_GROUPS, float(self._config.node_certificate))
            record = issue_into(index, self._config, wanted, key, now)
            rotation.confirm_first(index, name, now)
        return Issued(record.certificate, record.fingerprint, record.not_after)

    def revoke(self, fingerprint: str, until: float) -> None:
        """Put it on the blocklist until `until` at least (Unix seconds), with every other valid certificate of the same key.

        `publish` tells this machine's Nebula. Revoking twice is no error. Raises MeshError.
        """
        with self._folder.change() as index:
            revoke_into(index, fingerprint, self._clock.time(), until=min(until, _FOREVER))

    def due(self, fingerprint: str, *, now: float) -> bool:
        """Whether a node with this certificate should get a new one: half of its life is over, or its authority signs no more."""
        index = self._folder.read()
        record = index.certificates.get(fingerprint)
        if record is None:
            return True
        return now >= (record.issued_at + record.not_after) / 2 or record.authority != active(index, "online").fingerprint

    def confirm(self, name: str, *, bundle: str, fingerprint: str) -> None:
        """Remember that this node has this bundle and this certificate: a rotation goes on only when every node is known to."""
        with self._folder.change() as index:
            rotation.confirm(index, name, trusts=parse_bundle(bundle), carries=fingerprint, now=self._clock.time())

    def taken(self) -> frozenset[IPv4Address]:
        """The addresses of valid certificates."""
        return frozenset(taken(self._folder.read(), self._clock.time()))

    def bundle(self) -> str:
        """The certificates of all trusted authorities, PEM: a node's `ca.crt`."""
        return publishing.bundle(self._folder.read())

    def blocklist(self) -> tuple[str, ...]:
        """The fingerprints that every node refuses."""
        return read_blocklist(self._folder.root)

    def publish(self) -> None:
        """Give this machine's Nebula bundle and blocklist and make it read them. Does nothing when it has them. Raises MeshError."""
        publishing.publish(self._folder, self._config, now=self._clock.time())

    def _key(self, index: Index) -> Ed25519PrivateKey:
        """The key that signs; another than before after a rotation."""
        fingerprint = active(index, "online").fingerprint
        with self._lock:
            if fingerprint not in self._keys:
                self._keys[fingerprint] = keys.decrypt(read_key(self._folder, "online", fingerprint), self._passphrase)
            return self._keys[fingerprint]


def read_key(folder: MeshFolder, role: str, fingerprint: str) -> str:
    """The encrypted key of an authority. Raises MeshError, which says how to bring it back when it was taken offline."""
    path = folder.key_file(role, fingerprint)
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise MeshError(
            f"the key of the {role} authority is not on this machine",
            code="key_offline",
            next_step="Bring it back with `lamplighter mesh import FILE`, or give the exported file with --ca-key.",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise unusable(path, error if isinstance(error, OSError) else OSError(0, "it is no text")) from error


def read_bundle(folder: Path) -> str:
    """All trusted authorities, PEM; empty when there is none. `folder`: `<data>/mesh`. Raises MeshError."""
    return publishing.bundle(MeshFolder(folder).read())


def read_blocklist(folder: Path) -> tuple[str, ...]:
    """The fingerprints that every node refuses, sorted. Raises MeshError."""
    return tuple(sorted(MeshFolder(folder).read().blocklist))


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """What a node needs beside its configuration. `key_pem`: None when the pair was made elsewhere, as it should be."""

    name: str
    address: IPv4Address
    certificate_pem: str
    fingerprint: str
    not_after: float
    key_pem: str | None


def read_node(folder: Path, name: str, *, now: float) -> NodeFiles:
    """The newest valid certificate of a node, and its key when that lies here. Raises MeshError when it has none."""
    mesh = MeshFolder(folder)
    record = newest(mesh.read(), name, now)
    if record is None:
        raise MeshError(
            f"{name!r} has no valid certificate",
            code="no_certificate",
            next_step=f"Make one: `lamplighter mesh sign {name} --kind ...`; `lamplighter mesh list` shows what there is.",
        )
    try:
        private = (mesh.node(name) / publishing.KEY).read_text(encoding="ascii")
    except FileNotFoundError:
        private = None
    except OSError as error:
        raise unusable(mesh.node(name) / publishing.KEY, error) from error
    if private is not None and keys.public_of(private).hex() != record.public_key:
        private = None  # of an earlier pair of the same name
    return NodeFiles(name, IPv4Address(record.address), record.certificate, record.fingerprint, record.not_after, private)
