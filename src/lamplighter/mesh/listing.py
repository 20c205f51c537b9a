"""What there is, described for a person: authorities and certificates with their state and what to do about it. Pure."""

from dataclasses import dataclass
from typing import Literal

from lamplighter.mesh.issuing import DAY, newest
from lamplighter.mesh.storage import Index, MeshFolder, Record

Standing = Literal["valid", "expiring", "renewed", "expired", "revoked"]
"""`renewed`: still valid, but the node has a newer one."""

SOON = 30 * DAY
SOON_AUTHORITY = 90 * DAY
"""Replacing an authority takes a person's time on every machine, and what it signs ends with it."""


@dataclass(frozen=True, slots=True)
class AuthorityLine:
    """An authority. `key_here`: its key lies on this machine. `expiring`: replace it now."""

    fingerprint: str
    name: str
    role: str
    state: str
    version: int
    groups: tuple[str, ...]
    networks: tuple[str, ...]
    not_after: float
    key_here: bool
    expiring: bool


@dataclass(frozen=True, slots=True)
class CertificateLine:
    """A certificate."""

    fingerprint: str
    name: str
    kind: str
    groups: tuple[str, ...]
    address: str
    authority: str
    not_after: float
    standing: Standing


def authorities(folder: MeshFolder, index: Index, now: float) -> list[AuthorityLine]:
    """All that are trusted."""
    lines = []
    for one in sorted(index.authorities.values(), key=lambda one: (one.role, one.made_at)):
        if not one.trusted:
            continue
        certificate = one.parsed()
        lines.append(
            AuthorityLine(
                fingerprint=one.fingerprint,
                name=certificate.name,
                role=one.role,
                state=one.state,
                version=certificate.version,
                groups=certificate.groups,
                networks=tuple(str(network.network) for network in certificate.networks),
                not_after=float(certificate.not_after),
                key_here=folder.key_file(one.role, one.fingerprint).exists(),
                expiring=_soon(float(certificate.not_before), float(certificate.not_after), now, SOON_AUTHORITY),
            )
        )
    return lines


def certificates(index: Index, now: float) -> list[CertificateLine]:
    """All that are in the index, by name, the newest first."""
    listed = sorted(index.certificates.values(), key=lambda one: (one.name, -one.issued_at))
    return [
        CertificateLine(
            one.fingerprint, one.name, one.kind, one.groups, one.address, one.authority, one.not_after, standing(index, one, now)
        )
        for one in listed
    ]


def standing(index: Index, record: Record, now: float) -> Standing:
    """What the certificate is worth at `now`."""
    if record.revoked_at is not None:
        return "revoked"
    if now > record.not_after:
        return "expired"
    if newest(index, record.name, now) is not record:
        return "renewed"
    return "expiring" if _soon(record.issued_at, record.not_after, now) else "valid"


def warnings(folder: MeshFolder, now: float) -> list[str]:
    """Sentences about what expires soon or has expired while still in use; empty when all is well. Raises MeshError."""
    index = folder.read()
    found = []
    for authority in authorities(folder, index, now):
        if now > authority.not_after:
            found.append(f"The {authority.role} authority has expired: nothing that it signed is valid.")
        elif authority.expiring and authority.state == "active":
            days = (authority.not_after - now) / DAY
            found.append(
                f"The {authority.role} authority expires in {days:.0f} days: `lamplighter mesh rotate start {authority.role}`."
            )
    for line in certificates(index, now):
        if line.standing == "expiring":
            left = line.not_after - now
            when = f"{left / DAY:.0f} days" if left >= DAY else f"{left / 3600:.0f} hours"
            found.append(f"The certificate of {line.name} expires in {when}: `lamplighter mesh renew {line.name}`.")
    return found


def _soon(begins: float, ends: float, now: float, limit: float = SOON) -> bool:
    """Whether less than a third of its life is left, or for long-lived ones less than `limit`."""
    return ends - now < min(limit, (ends - begins) / 3)
