"""The order in which an authority is replaced, so that at no moment a node shows a certificate that some peer does not trust. Pure.

1. *introducing*: the new authority is in the bundle, the old one signs. It lasts until every living node is known to have the bundle.
2. *signing*: the new one signs; the old one stays in the bundle. It lasts until no living node shows a certificate of the old one.
3. The old one is dropped from the bundle. A node that still has the old bundle trusts both, which hurts nobody.

A node counts while it has a certificate that is neither revoked nor expired. What it has is known because it was told to us
(`Confirmation`): by the keeper's agent, by this machine's own publishing, or by a person. A node's first certificate comes together with
the bundle, so that a new node needs no telling. Not responsible for keys, files and asking.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from lamplighter.mesh.errors import MeshError
from lamplighter.mesh.issuing import newest
from lamplighter.mesh.storage import AuthorityRecord, Confirmation, Index, Role

Phase = Literal["introducing", "signing"]

SETTLE = 15.0
"""Seconds between the last node's new certificate and the end of the old authority. Nebula 1.7 and newer shakes hands again over living
tunnels after a new certificate, when it next looks at them (every 5 s); dropping the authority before would tear them down instead."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A rotation under way. `waiting`: the nodes for which the phase lasts. `done`: the others."""

    role: Role
    phase: Phase
    old: AuthorityRecord
    new: AuthorityRecord
    waiting: tuple[str, ...]
    done: tuple[str, ...]


def progress(index: Index, now: float) -> Progress | None:
    """The rotation under way; None when there is none. There is one at a time."""
    for new in index.authorities.values():
        if new.state == "introduced":
            return _progress(index, "introducing", _with(index, new.role, "active"), new, now)
    for old in index.authorities.values():
        if old.state == "retiring":
            return _progress(index, "signing", old, _with(index, old.role, "active"), now)
    return None


def begin(index: Index, new: AuthorityRecord, now: float) -> None:
    """Add the new authority to the bundle. Raises MeshError when a rotation is under way."""
    under_way = progress(index, now)
    if under_way is not None:
        raise MeshError(
            f"a rotation of the {under_way.role} authority is under way",
            code="rotation_under_way",
            next_step="`lamplighter mesh rotate status` says what is left to do.",
        )
    index.authorities[new.fingerprint] = replace(new, state="introduced")


def promote(index: Index, now: float) -> Progress:
    """Let the new authority sign. Raises MeshError while a living node is not known to trust it. Doing it twice is no error."""
    current = _required(index, now)
    if current.phase == "signing":
        return current
    if current.waiting:
        raise _not_yet("are not known to have the new bundle", current.waiting)
    index.authorities[current.old.fingerprint] = replace(current.old, state="retiring")
    index.authorities[current.new.fingerprint] = replace(current.new, state="active")
    return _required(index, now)


def drop(index: Index, now: float) -> AuthorityRecord:
    """Take the old authority out of the bundle; which it was. Raises MeshError while a living node may show a certificate of it."""
    current = _required(index, now)
    if current.phase == "introducing":
        raise MeshError(
            "the new authority does not sign yet",
            code="rotation_not_ready",
            next_step="`lamplighter mesh rotate sign` comes first.",
        )
    if current.waiting:
        raise _not_yet("may still show a certificate of the old authority", current.waiting)
    if (left := settling(index, now)) > 0:
        raise MeshError(
            f"the last node has its new certificate for too short: {left:.0f} more seconds, in which tunnels are made anew",
            code="rotation_settling",
            next_step="Try again then.",
        )
    index.authorities[current.old.fingerprint] = replace(current.old, state="dropped")
    return current.old


def settling(index: Index, now: float) -> float:
    """Seconds until the old authority may be dropped, once every node has its new certificate."""
    told = [index.confirmed[name].at for name in living_names(index, now) if name in index.confirmed]
    # A time in the future is that of a clock which was set back: waiting for it could take for ever.
    return max((at for at in told if at <= now), default=now - SETTLE) + SETTLE - now


def cancel(index: Index, now: float) -> AuthorityRecord:
    """Drop the new authority again, which is possible until it signs. Raises MeshError."""
    current = _required(index, now)
    if current.phase != "introducing":
        raise MeshError(
            "the new authority signs already; the way out is forward",
            code="rotation_under_way",
            next_step="`lamplighter mesh rotate status` says what is left to do.",
        )
    index.authorities[current.new.fingerprint] = replace(current.new, state="dropped")
    return current.new


def confirm(index: Index, name: str, *, trusts: Iterable[str], carries: str | None, now: float) -> None:
    """Remember what a node has. An unknown certificate is not believed: the old knowledge of it stays."""
    known = index.confirmed.get(name)
    record = index.certificates.get(carries) if carries is not None else None
    believed = record.fingerprint if record is not None and record.name == name else None
    index.confirmed[name] = Confirmation(
        trusts=tuple(one for one in trusts if one in index.authorities),
        carries=believed or (known.carries if known is not None else None),
        at=now,
    )


def confirm_first(index: Index, name: str, now: float) -> None:
    """A node that was just certified for the first time gets certificate and bundle together."""
    record = newest(index, name, now)
    if record is None:
        return
    others = [one for one in index.certificates.values() if one.public_key == record.public_key and one is not record]
    if not others:
        confirm(index, name, trusts=trusted(index), carries=record.fingerprint, now=now)


def trusted(index: Index) -> tuple[str, ...]:
    """The fingerprints of the bundle's authorities."""
    return tuple(one.fingerprint for one in index.authorities.values() if one.trusted)


def living_names(index: Index, now: float) -> tuple[str, ...]:
    """The nodes that have a valid certificate, sorted."""
    return tuple(sorted({one.name for one in index.certificates.values() if one.living(now)}))


def _progress(index: Index, phase: Phase, old: AuthorityRecord, new: AuthorityRecord, now: float) -> Progress:
    def settled(name: str) -> bool:
        return _trusts(index, name, new.fingerprint) if phase == "introducing" else _left(index, name, old.fingerprint, now)

    names = living_names(index, now)
    waiting = tuple(name for name in names if not settled(name))
    return Progress(new.role, phase, old, new, waiting, tuple(name for name in names if name not in waiting))


def _trusts(index: Index, name: str, authority: str) -> bool:
    known = index.confirmed.get(name)
    return known is not None and authority in known.trusts


def _left(index: Index, name: str, authority: str, now: float) -> bool:
    """Whether no peer can meet this node with a certificate of that authority any more."""
    if not any(one.name == name and one.authority == authority and one.living(now) for one in index.certificates.values()):
        return True
    known = index.confirmed.get(name)
    carried = index.certificates.get(known.carries) if known is not None and known.carries is not None else None
    return carried is not None and carried.authority != authority and carried.living(now)


def _with(index: Index, role: Role, state: str) -> AuthorityRecord:
    return next(one for one in index.authorities.values() if one.role == role and one.state == state)


def _required(index: Index, now: float) -> Progress:
    current = progress(index, now)
    if current is None:
        raise MeshError(
            "no rotation is under way", code="no_rotation", next_step="`lamplighter mesh rotate start ROLE` begins one."
        )
    return current


def _not_yet(what: str, waiting: tuple[str, ...]) -> MeshError:
    return MeshError(
        f"not yet: {', '.join(waiting)} {what}",
        code="rotation_not_ready",
        next_step="`lamplighter mesh rotate status` says what to bring where; revoke what is gone for good.",
    )
