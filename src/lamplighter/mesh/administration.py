"""What a person does with the authorities: make them, sign, renew, revoke, rotate.

Each operation is one change of the index and can be repeated. Nobody is asked anything here: passphrases and answers come from the caller.
Not responsible for the order of a rotation (`rotation`) nor for this machine's Nebula (`publishing`).
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import keys, publishing, rotation
from lamplighter.mesh.authority import AUTHORITY_NAMES
from lamplighter.mesh.certificates import Certificate, public_bytes, self_signed
from lamplighter.mesh.errors import BadCertificate, MeshError
from lamplighter.mesh.issuing import (
    BACKDATE,
    DAY,
    ONLINE_GROUPS,
    TEMPLATES,
    Wanted,
    active,
    free_address,
    issue_into,
    latest,
    life_of,
    newest,
    revoke_into,
    role_of,
)
from lamplighter.mesh.storage import AuthorityRecord, Index, Kind, MeshFolder, Record, Role, State

AUTHORITY_LIFE: dict[Role, float] = {"offline": 5 * 365 * DAY, "online": 365 * DAY}
MIN_PASSPHRASE = 12


def new_authority(
    folder: MeshFolder,
    index: Index,
    config: MeshConfig,
    role: Role,
    passphrase: str,
    now: float,
    *,
    state: State,
    life: float | None = None,
) -> AuthorityRecord:
    """Make an authority, its encrypted key on disk, and add it to the index. Raises MeshError."""
    check_passphrase(passphrase, role)
    key = keys.new_authority_key()
    certificate = self_signed(
        Certificate(
            version=config.certificate_version,
            name=AUTHORITY_NAMES[role],
            networks=(IPv4Interface(str(config.network)),),
            groups=ONLINE_GROUPS if role == "online" else (),
            not_before=int(now - BACKDATE),
            not_after=int(now + (life or AUTHORITY_LIFE[role])),
            public_key=b"",
        ),
        key,
    )
    record = AuthorityRecord(certificate.fingerprint, role, state, certificate.to_pem(), now)
    folder.write(folder.key_file(role, record.fingerprint), keys.encrypt(key, passphrase))
    index.authorities[record.fingerprint] = record
    return record


def check_passphrase(passphrase: str, role: Role) -> None:
    """Refuse one that is too short to protect a file. Raises MeshError."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise MeshError(
            f"the passphrase of the {role} authority is shorter than {MIN_PASSPHRASE} characters",
            code="weak_passphrase",
            next_step="Use several words, or let a password manager make one: whoever has the file can try as often as they like.",
        )


def make_authority(
    folder: MeshFolder, config: MeshConfig, role: Role, passphrase: str, now: float, *, life: float | None = None
) -> tuple[AuthorityRecord, bool]:
    """The authority of this role, and whether it was made now: one that is there stays. Raises MeshError."""
    with folder.change() as index:
        there = next((one for one in index.authorities.values() if one.role == role and one.state == "active"), None)
        if there is not None:
            return there, False
        return new_authority(folder, index, config, role, passphrase, now, state="active", life=life), True


def unlock(authority: AuthorityRecord, key_pem: str, passphrase: str) -> Ed25519PrivateKey:
    """The authority's private key from its file's text. Raises MeshError, WrongPassphrase."""
    key = keys.parse_authority_key(key_pem, passphrase)
    if public_bytes(key) != authority.parsed().public_key:
        raise MeshError(
            f"this is not the key of the {authority.role} authority {authority.fingerprint[:16]}",
            code="wrong_key",
            next_step="`lamplighter mesh list` shows the authorities; after a rotation there are several.",
        )
    return key


@dataclass(frozen=True, slots=True)
class SignRequest:
    """What a person asks for. None: what the kind of node has by default. `public_key_pem` None: the pair is made here."""

    name: str
    kind: Kind
    public_key_pem: str | None = None
    address: IPv4Address | None = None
    groups: Sequence[str] | None = None
    life: float | None = None


def sign(folder: MeshFolder, config: MeshConfig, request: SignRequest, key: Ed25519PrivateKey, now: float) -> Record:
    """Certify a node and write its files to `nodes/<name>/`.

    Asked again without a public key it keeps the pair that it made, so that nothing a node runs with becomes worthless. Raises MeshError.
    """
    where = folder.node(request.name)
    private = None
    if request.public_key_pem is not None:
        public = keys.parse_public(request.public_key_pem)
    else:
        private = _kept_private(where / publishing.KEY)
        if private is None:
            private, _ = keys.new_node_key()
        public = keys.public_of(private)
    with folder.change() as index:
        wanted = Wanted(
            name=request.name,
            kind=request.kind,
            public_key=public,
            address=request.address or free_address(index, config, request.kind, request.name, now),
            groups=tuple(TEMPLATES[request.kind].groups if request.groups is None else request.groups),
            life=request.life or life_of(request.kind, config),
        )
        record = issue_into(index, config, wanted, key, now)
        rotation.confirm_first(index, record.name, now)
        if private is not None:  # before the index: a certificate whose key was lost in a crash would hold name and address
            folder.write(where / publishing.KEY, private)
    refresh(folder, now, make=[record.name])
    return record


def renew(
    folder: MeshFolder, config: MeshConfig, names: Sequence[str], role_keys: dict[Role, Ed25519PrivateKey], now: float
) -> list[Record]:
    """New certificates for the same keys, addresses and groups; in one change, all or none. Raises MeshError."""
    with folder.change() as index:
        renewed = [renew_into(index, config, current(index, name, now), role_keys, now) for name in names]
    refresh(folder, now, make=[record.name for record in renewed if record.kind != "gpu"])
    return renewed


def renew_into(index: Index, config: MeshConfig, old: Record, role_keys: dict[Role, Ed25519PrivateKey], now: float) -> Record:
    """Sign the same again, for as long as was asked for the last time. Raises MeshError."""
    wanted = Wanted(
        name=old.name,
        kind=old.kind,
        public_key=bytes.fromhex(old.public_key),
        address=IPv4Address(old.address),
        groups=old.groups,
        life=old.life,
    )
    return issue_into(index, config, wanted, role_keys[role_of(old.kind)], now)


def current(index: Index, name: str, now: float) -> Record:
    """A node's newest certificate: the valid one, else an expired one that was not revoked. Raises MeshError."""
    found = newest(index, name, now)
    if found is None:
        found = latest(one for one in index.certificates.values() if one.name == name and one.revoked_at is None)
    if found is None:
        raise MeshError(
            f"there is no certificate of {name!r}", code="no_certificate", next_step="`lamplighter mesh list --all` shows all."
        )
    return found


def revoke(folder: MeshFolder, which: str, now: float) -> list[Record]:
    """Block every valid certificate of a node, named by its name or by a fingerprint's beginning; what was blocked. Raises MeshError."""
    with folder.change() as index:
        found = [
            one
            for one in index.certificates.values()
            if one.name == which or (len(which) >= 8 and one.fingerprint.startswith(which))
        ]
        if not found:
            raise MeshError(
                f"there is no certificate {which!r}", code="no_certificate", next_step="`lamplighter mesh list --all` shows names and fingerprints."
            )  # fmt: skip
        names = {one.name for one in found}
        if len(names) > 1:
            raise MeshError(f"{which!r} is more than one node: {', '.join(sorted(names))}", next_step="Name one of them.")
        living = [one for one in found if one.living(now)]
        blocked = dict.fromkeys(fingerprint for one in living for fingerprint in revoke_into(index, one.fingerprint, now))
        records = [index.certificates[fingerprint] for fingerprint in blocked]
    # The pair that was made here is worthless now; kept, it would be certified again by the next `sign`.
    for name in names:
        if newest(index, name, now) is None:
            shutil.rmtree(folder.node(name), ignore_errors=True)
    return records


def _kept_private(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="ascii")
        keys.public_of(text)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, BadCertificate) as error:
        raise MeshError(
            f"the node's key {path} cannot be used", next_step="Move it away; then a new pair is made, and the old certificate must be revoked."
        ) from error  # fmt: skip
    return text


def start_rotation(
    folder: MeshFolder, config: MeshConfig, role: Role, passphrase: str, now: float, *, life: float | None = None
) -> None:
    """Make the new authority and add it to the bundle; nothing when a rotation of this role is under way. Raises MeshError."""
    with folder.change() as index:
        under_way = rotation.progress(index, now)
        if under_way is None or under_way.role != role:
            _introduce(folder, index, config, role, passphrase, now, life)
    refresh(folder, now)


def _introduce(
    folder: MeshFolder, index: Index, config: MeshConfig, role: Role, passphrase: str, now: float, life: float | None
) -> None:
    version = active(index, role).parsed().version
    if version != config.certificate_version:
        # A node shows one certificate. Whether nodes of both versions find each other depends on their Nebula's, so no packet could be promised.
        raise MeshError(
            f"the {role} authority has certificates of version {version}, and mesh.certificate_version is {config.certificate_version}",
            code="certificate_version",
            next_step=f"Set mesh.certificate_version to {version}: another version needs a new mesh, not a rotation.",
        )
    fresh = new_authority(folder, Index(), config, role, passphrase, now, state="introduced", life=life)
    rotation.begin(index, fresh, now)


def sign_rotation(folder: MeshFolder, config: MeshConfig, key: Ed25519PrivateKey | None, now: float) -> list[Record]:
    """Let the new authority sign, and sign again what the old one certified for people and home; what was signed.

    Cloud nodes are signed again by the keeper, which sees that their authority retires. `key`: of the new authority; needed for the offline
    one only. Raises MeshError while a node is not known to trust it.
    """
    with folder.change() as index:
        current_rotation = rotation.promote(index, now)
        signed: list[Record] = []
        if current_rotation.role == "offline":
            if key is None:
                raise MeshError(
                    "the new authority's key is needed to sign", next_step="Run `lamplighter mesh rotate sign` again."
                )
            for name in current_rotation.waiting:
                record = newest(index, name, now)
                if record is not None and record.authority == current_rotation.old.fingerprint:
                    signed.append(renew_into(index, config, record, {"offline": key}, now))
    refresh(folder, now, make=[record.name for record in signed])
    return signed


def finish_rotation(folder: MeshFolder, now: float) -> AuthorityRecord:
    """Drop the old authority from the bundle and its key from the disk. Raises MeshError while a node may still show a certificate of it."""
    with folder.change() as index:
        old = rotation.drop(index, now)
    refresh(folder, now)
    folder.key_file(old.role, old.fingerprint).unlink(missing_ok=True)
    return old


def cancel_rotation(folder: MeshFolder, now: float) -> AuthorityRecord:
    """Drop the new authority again, with its key. Raises MeshError when it signs already."""
    with folder.change() as index:
        new = rotation.cancel(index, now)
    refresh(folder, now)
    folder.key_file(new.role, new.fingerprint).unlink(missing_ok=True)
    return new


def delivered(folder: MeshFolder, names: Sequence[str], now: float) -> None:
    """A person says that these nodes run with the bundle and the certificate that lie in their folders here. Raises MeshError."""
    stale = sorted(set(names) & refresh(folder, now))
    if stale:  # a crash came between the index and these files, and what was brought there was old
        raise MeshError(
            f"the files of {', '.join(stale)} were out of date and are correct now",
            code="files_out_of_date",
            next_step="Bring them there again, then repeat this.",
        )
    with folder.change() as index:
        for name in names:
            record = newest(index, name, now)
            if record is None:
                raise MeshError(
                    f"{name!r} has no valid certificate",
                    code="no_certificate",
                    next_step="`lamplighter mesh list` shows the nodes.",
                )
            rotation.confirm(index, name, trusts=rotation.trusted(index), carries=record.fingerprint, now=now)


def refresh(folder: MeshFolder, now: float, *, make: Sequence[str] = ()) -> set[str]:
    """Bring bundle and newest certificate into the folder of every node that has one (or is in `make`); whose files changed. Raises MeshError.

    After the index, never before: a certificate that nobody recorded could not be revoked.
    """
    changed = set()
    with folder.locked("nodes.lock"):
        index = folder.read()
        bundle = publishing.bundle(index)
        for name in rotation.living_names(index, now):
            where, record = folder.node(name), newest(index, name, now)
            if record is None or not (name in make or where.is_dir()):
                continue
            written = [
                folder.write(where / publishing.BUNDLE, bundle, mode=0o644),
                folder.write(where / publishing.CERTIFICATE, record.certificate, mode=0o644),
            ]
            if any(written):
                changed.add(name)
    return changed
