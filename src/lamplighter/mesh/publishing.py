"""Gives this machine's Nebula the bundle and the blocklist, and makes it read them.

Nebula merges every *.yml of its configuration's folder and appends lists (slackhq/nebula `config/config.go`, 1.6.1 to 1.11), and reads
bundle, certificate and blocklist again on SIGHUP. So the blocklist is a file of its own, and the rendered configuration is not touched.
Not responsible for that configuration, nor for other machines.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import keys, rotation
from lamplighter.mesh.commands import run
from lamplighter.mesh.errors import BadCertificate, MeshError
from lamplighter.mesh.issuing import latest
from lamplighter.mesh.storage import Index, MeshFolder, Record

BUNDLE = "ca.crt"
BLOCKLIST = "blocklist.yml"
CERTIFICATE = "node.crt"
KEY = "node.key"
RELOAD_LIMIT = 30.0


def target(folder: MeshFolder, config: MeshConfig) -> Path:
    """The folder of this machine's Nebula."""
    return Path(config.publish).expanduser() if config.publish is not None else folder.published


def bundle(index: Index) -> str:
    """All trusted authorities as PEM, those that sign first."""
    order = {"active": 0, "introduced": 1, "retiring": 2}
    trusted = sorted(
        (one for one in index.authorities.values() if one.trusted), key=lambda one: (order[one.state], one.role, one.made_at)
    )
    return "".join(one.certificate for one in trusted)


def blocklist_file(fingerprints: Sequence[str]) -> str:
    """The blocklist as a part of Nebula's configuration."""
    lines = "".join(f'    - "{fingerprint}"\n' for fingerprint in sorted(fingerprints))
    head = "# Written by Lamplighter: certificates that are revoked. Do not edit.\n"
    return f"{head}pki:\n  blocklist:\n{lines}" if lines else f"{head}pki:\n  blocklist: []\n"


def own_certificate(index: Index, where: Path) -> Record | None:
    """The newest certificate that is not revoked of the key in this folder; None when the folder has no key of ours."""
    try:
        public = keys.public_of((where / KEY).read_text(encoding="ascii")).hex()
    except (OSError, UnicodeDecodeError, BadCertificate):  # the certificate there is somebody else's business
        return None
    return latest(one for one in index.certificates.values() if one.public_key == public and one.revoked_at is None)


def publish(folder: MeshFolder, config: MeshConfig, *, now: float, always: bool = False) -> bool:
    """Write what differs, then reload when something did or the last reload failed (`always`: in any case); whether it reloaded.

    The certificate of this machine is renewed too, when the folder holds its key. Raises MeshError.
    """
    # A lock of its own: issuing must not wait for a slow reload. The index is read inside, so that the last to publish knows the latest.
    with folder.locked("publish.lock", wait=2 * RELOAD_LIMIT):
        index = folder.read()
        own = own_certificate(index, target(folder, config))
        reloaded = _publish(folder, config, index, own, always=always)
    # Nebula was told and did not object: a rotation need not wait for this node. Without `mesh.reload` nobody knows when it reads them.
    if reloaded and own is not None and config.reload is not None:
        with folder.change() as latest:
            rotation.confirm(latest, own.name, trusts=rotation.trusted(index), carries=own.fingerprint, now=now)
    return reloaded


def _publish(folder: MeshFolder, config: MeshConfig, index: Index, own: Record | None, *, always: bool) -> bool:
    where = target(folder, config)
    if not index.authorities:
        raise MeshError("there is no authority to publish", code="no_authority", next_step="`lamplighter mesh init` makes both.")
    wanted = {BUNDLE: bundle(index), BLOCKLIST: blocklist_file(list(index.blocklist))}
    if own is not None:
        wanted[CERTIFICATE] = own.certificate
    # The bundle before the certificate: a crash in between must not leave a certificate whose authority is not trusted here.
    changed = [name for name, text in wanted.items() if folder.write(where / name, text, mode=0o644)]
    digest = hashlib.sha256(repr((str(where), config.reload, sorted(wanted.items()))).encode()).hexdigest()
    done = folder.root / "reloaded"
    if not (always or changed or _read(done) != digest):
        return False
    folder.write(done, "")  # a failed reload is repeated by the next publishing, though no file will differ then
    if config.reload is not None:
        run(config.reload, what="mesh.reload", limit=RELOAD_LIMIT)
    folder.write(done, digest)
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
