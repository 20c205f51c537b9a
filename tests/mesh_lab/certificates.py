"""Authorities and nodes for tests: our own certificates, made quickly and thrown away. Not a fake: the real Nebula judges them."""

import time
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Protocol

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import administration, certificates, keys
from lamplighter.mesh.authority import OnlineAuthority, read_key
from lamplighter.mesh.certificates import Certificate
from lamplighter.mesh.firewall import KINDS
from lamplighter.mesh.issuing import active
from lamplighter.mesh.storage import MeshFolder, Role

DAY = 86_400
PASSPHRASE = "correct horse battery staple"


class Signer(Protocol):
    """What a lab asks of an authority."""

    def certificate(self) -> str:
        """The authority's own certificate, PEM."""
        ...

    def sign(self, name: str, address: str, group: str, public_key: str) -> str:
        """A node's certificate, PEM, for its public key, PEM. `address` with the length of the network's prefix."""
        ...


class Authority:
    """One authority, valid for thirty days from `at` (Unix seconds; default: now)."""

    def __init__(self, name: str, *, at: float | None = None, version: int = 1) -> None:
        self.at = int(time.time() if at is None else at)
        self._version = version
        self._signed = 0
        self._key = keys.new_authority_key()
        self._own = certificates.self_signed(
            Certificate(version, name, (), (), self.at - 3600, self.at + 30 * DAY, b"", is_ca=True), self._key
        )

    def certificate(self) -> str:
        return self._own.to_pem()

    def sign(self, name: str, address: str, group: str, public_key: str, *, days: float = 20) -> str:
        self._signed += 1  # no two alike: a blocklist knows a certificate by its content
        wanted = Certificate(
            self._version,
            name,
            (IPv4Interface(address),),
            (group,),
            self.at - 30 - self._signed,
            int(self.at + days * DAY),
            keys.parse_public(public_key),
        )
        return certificates.issue(wanted, self._own, self._key).to_pem()

    def node(self, name: str, address: str, group: str, *, days: float = 20) -> dict[str, str]:
        """A new node's node.crt and node.key, and the bundle of this authority alone."""
        private, public = keys.new_node_key()
        return {
            "node.crt": self.sign(name, address, group, public, days=days),
            "node.key": private,
            "ca.crt": self.certificate(),
        }


class OurAuthorities:
    """Both authorities as the product keeps them, in `folder` (`<data>/mesh`): cloud nodes by the online one, all others by the offline one."""

    def __init__(self, folder: Path, config: MeshConfig) -> None:
        self.folder = MeshFolder(folder)
        self.config = config
        now = time.time()
        roles: tuple[Role, ...] = ("online", "offline")
        for role in roles:
            administration.make_authority(self.folder, config, role, PASSPHRASE, now)
        self.online = OnlineAuthority.open(folder, config, PASSPHRASE)

    def certificate(self) -> str:
        """The bundle."""
        return self.online.bundle()

    def sign(self, name: str, address: str, group: str, public_key: str) -> str:
        overlay = IPv4Interface(address).ip
        if group == "gpu":
            return self.online.issue(name, public_key, overlay, now=time.time()).certificate_pem
        offline = active(self.folder.read(), "offline")
        key = administration.unlock(offline, read_key(self.folder, "offline", offline.fingerprint), PASSPHRASE)
        kind = next(one for one in KINDS if one == group)
        request = administration.SignRequest(name, kind, public_key, overlay, None, None)
        return administration.sign(self.folder, self.config, request, key, time.time()).certificate
