"""Who may be certified as what: templates per kind of node, addresses, lifetimes, and the act of issuing into the index.

Pure except for the signature: it changes the index that it is given, and its caller keeps that. Not responsible for keys and passphrases.

Nebula's own limits on an authority are its groups and networks. They cannot hold an authority to a part of the mesh: Nebula wants a
node's prefix at least as long as its authority's, and lighthouses and home inside of that prefix (`checkCAConstraints` in `cert`,
`LightHouse.loadStaticMap` up to 1.9, "no vpnNetworks in common" from 1.10). So every peer enforces group and network, and we enforce here
that the online authority certifies addresses of `mesh.nodes` only.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh.certificates import Certificate, issue
from lamplighter.mesh.errors import BeyondAuthority, MeshError
from lamplighter.mesh.storage import AuthorityRecord, Index, Kind, Record, Role

KINDS: tuple[Kind, ...] = get_args(Kind)

DAY = 86_400.0
BACKDATE = 300.0
"""Seconds that a certificate is valid before it is made: clocks of peers may be a little behind."""
KEEP_EXPIRED = 7 * DAY
"""How long expired certificates of cloud nodes stay in the index."""
KEEP_BLOCKED = DAY
"""How long a fingerprint stays on the blocklist after its certificate expired: clocks of peers may be wrong."""

ONLINE_GROUPS = ("gpu",)
NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Template:
    """What a kind of node gets unless something else is asked for. `life`: seconds; None: `mesh.node_certificate`."""

    groups: tuple[str, ...]
    role: Role
    life: float | None


TEMPLATES: dict[Kind, Template] = {
    "lighthouse": Template(("lighthouse",), "offline", 365 * DAY),
    "home": Template(("home",), "offline", 365 * DAY),
    "laptop": Template(("laptop",), "offline", 90 * DAY),
    "gpu": Template(ONLINE_GROUPS, "online", None),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate to be issued. `life`: seconds."""

    name: str
    kind: Kind
    public_key: bytes
    address: IPv4Address
    groups: tuple[str, ...]
    life: float


def active(index: Index, role: Role) -> AuthorityRecord:
    """The authority of this role that signs. Raises MeshError when there is none."""
    for one in index.authorities.values():
        if one.role == role and one.state == "active":
            return one
    raise MeshError(
        f"there is no {role} authority", code="no_authority", next_step="`lamplighter mesh init` makes both authorities."
    )


def role_of(kind: Kind) -> Role:
    """Which authority signs this kind of node."""
    return TEMPLATES[kind].role


def life_of(kind: Kind, config: MeshConfig) -> float:
    """How long a certificate of this kind is valid, in seconds."""
    life = TEMPLATES[kind].life
    return float(config.node_certificate) if life is None else life


def issue_into(index: Index, config: MeshConfig, wanted: Wanted, key: Ed25519PrivateKey, now: float) -> Record:
    """Sign and record. Raises BeyondAuthority, MeshError; then nothing is recorded."""
    authority = active(index, role_of(wanted.kind))
    _check(wanted, config)
    if any(one.public_key == wanted.public_key.hex() and one.revoked_at is not None for one in index.certificates.values()):
        raise MeshError(
            f"a certificate of this key was revoked, so {wanted.name!r} cannot be certified with it again",
            code="key_revoked",
            next_step="Let the node make a new pair of keys.",
        )
    signer = authority.parsed()
    if not signer.valid_at(now):
        raise MeshError(
            f"the {authority.role} authority is {'expired' if now > signer.not_after else 'not valid yet'}",
            code="authority_expired",
            next_step=f"`lamplighter mesh rotate start {authority.role}` makes a new one; check this machine's clock too.",
        )
    certificate = issue(
        Certificate(
            version=signer.version,
            name=wanted.name,
            networks=(IPv4Interface((wanted.address, config.network.prefixlen)),),
            groups=wanted.groups,
            not_before=max(int(now - BACKDATE), signer.not_before),
            not_after=min(int(now + wanted.life), signer.not_after),
            public_key=wanted.public_key,
        ),
        signer,
        key,
    )
    _make_room(index, wanted, now)
    record = Record(
        fingerprint=certificate.fingerprint,
        name=wanted.name,
        kind=wanted.kind,
        groups=wanted.groups,
        address=str(wanted.address),
        public_key=wanted.public_key.hex(),
        issued_at=now,
        not_after=float(certificate.not_after),
        life=wanted.life,
        authority=authority.fingerprint,
        certificate=certificate.to_pem(),
    )
    index.certificates[record.fingerprint] = record
    forget_old(index, now)
    return record


def revoke_into(index: Index, fingerprint: str, now: float, *, until: float = 0.0) -> tuple[str, ...]:
    """Block a certificate, and every other living one of the same key; the fingerprints. An unknown one is blocked until `until`."""
    known = index.certificates.get(fingerprint)
    if known is None:
        index.blocklist[fingerprint] = max(until, now)
        return (fingerprint,)
    doomed = [one for one in index.certificates.values() if one.public_key == known.public_key and one.living(now)]
    blocked = {known.fingerprint: known, **{one.fingerprint: one for one in doomed}}
    for one in blocked.values():
        _block(index, one, now, until)
    return tuple(blocked)


def taken(index: Index, now: float) -> dict[IPv4Address, str]:
    """The addresses of living certificates, and whose they are."""
    return {IPv4Address(one.address): one.name for one in index.certificates.values() if one.living(now)}


def free_address(index: Index, config: MeshConfig, kind: Kind, name: str, now: float) -> IPv4Address:
    """The address for a new node: what the configuration says for its kind, else the lowest free one. Raises MeshError."""
    current = newest(index, name, now)
    if current is not None:
        return IPv4Address(current.address)
    if kind == "lighthouse":
        for one in config.lighthouses:
            if one.name == name:
                return one.overlay
        raise MeshError(
            f"the configuration has no lighthouse {name!r}, so its address is unknown",
            next_step="Name it under mesh.lighthouses in lamplighter.yaml, or give --address.",
        )
    if kind == "home":
        return config.home
    used = {*taken(index, now), config.home, *(one.overlay for one in config.lighthouses)}
    for address in _candidates(config, kind):
        if address not in used:
            return address
    raise MeshError(
        f"no address is left for a {kind} in {config.network}", next_step="Revoke what is gone: `lamplighter mesh list`."
    )


def newest(index: Index, name: str, now: float) -> Record | None:
    """The living certificate of this name that was issued last."""
    return latest(one for one in index.certificates.values() if one.name == name and one.living(now))


def latest(records: Iterable[Record]) -> Record | None:
    """The one that was issued last; of two in the same moment the one that was recorded last."""
    return max(reversed(list(records)), key=lambda one: one.issued_at, default=None)


def forget_old(index: Index, now: float) -> None:
    """Drop what can do nothing any more, so that the index of a mesh with short-lived nodes stays small."""
    for fingerprint, until in list(index.blocklist.items()):
        if until + KEEP_BLOCKED < now:
            del index.blocklist[fingerprint]
    for one in list(index.certificates.values()):
        if one.kind == "gpu" and one.not_after + KEEP_EXPIRED < now:
            del index.certificates[one.fingerprint]
    names = {one.name for one in index.certificates.values()}
    for name in [name for name in index.confirmed if name not in names]:
        del index.confirmed[name]


def _check(wanted: Wanted, config: MeshConfig) -> None:
    if not NAME.fullmatch(wanted.name):
        raise MeshError(
            f"{wanted.name!r} is no name for a node", next_step="Use lower-case letters, digits and `-`, such as gpu-1."
        )
    for group in wanted.groups:
        if not GROUP.fullmatch(group):
            raise MeshError(f"{group!r} is no name for a group", next_step="Use letters, digits and `-`, such as home.")
    if wanted.life <= 0:
        raise MeshError("a certificate must be valid for some time", next_step="Give a number of days larger than 0.")
    address, network = wanted.address, config.network
    if address not in network or address in (network.network_address, network.broadcast_address):
        raise BeyondAuthority(
            f"{address} is not an address of the mesh's network {network}", next_step="See mesh.network in lamplighter.yaml."
        )
    online = role_of(wanted.kind) == "online"
    if online and address not in config.nodes:
        raise BeyondAuthority(
            f"the online authority certifies cloud nodes in {config.nodes}, and {address} is not in there", next_step="See mesh.nodes in lamplighter.yaml."
        )  # fmt: skip
    if online and (not wanted.groups or any(group not in ONLINE_GROUPS for group in wanted.groups)):
        raise BeyondAuthority(
            f"the online authority certifies the group {', '.join(ONLINE_GROUPS)} only",
            next_step="Leave --groups out, or choose another --kind.",
        )
    if not online and address in config.nodes:
        raise BeyondAuthority(
            f"{address} is in {config.nodes}, where the keeper gives addresses to cloud nodes", next_step="Choose another for people and home."
        )  # fmt: skip
    if not online and set(wanted.groups) & set(ONLINE_GROUPS):
        raise BeyondAuthority(
            f"the group {ONLINE_GROUPS[0]} is for cloud nodes, and the online authority certifies them", next_step="Use --kind gpu."
        )  # fmt: skip


def _make_room(index: Index, wanted: Wanted, now: float) -> None:
    """An address is one node's. In the cloud the newest wins, for what had it before is gone (a crash can have kept that from being
    written down); among people somebody has to decide.
    """
    key, address = wanted.public_key.hex(), str(wanted.address)
    for one in list(index.certificates.values()):
        if not one.living(now) or one.public_key == key:
            continue
        if one.address != address and one.name != wanted.name:
            continue
        if wanted.kind != "gpu":
            raise MeshError(
                f"{one.name!r} has a valid certificate for {one.address} with another key",
                code="address_taken",
                next_step=f"Give this node another name and address, or end the old one: `lamplighter mesh revoke {one.name}`.",
            )
        _block(index, one, now, 0.0)


def _block(index: Index, record: Record, now: float, until: float) -> None:
    if record.revoked_at is None:
        index.certificates[record.fingerprint] = replace(record, revoked_at=now)
    index.blocklist[record.fingerprint] = max(record.not_after, until, index.blocklist.get(record.fingerprint, 0.0))


def _candidates(config: MeshConfig, kind: Kind) -> Iterator[IPv4Address]:
    if kind == "gpu":
        for address in config.nodes.hosts():
            if address != config.network.broadcast_address:
                yield address
        return
    for address in config.network.hosts():
        if address not in config.nodes:
            yield address
