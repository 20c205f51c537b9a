"""What AWS says about one pool at one moment, as plain values; and the tags in which an order and a node are written down there.

The provider keeps no state of its own: an *order* (one wanted replica) is a tag on an Auto Scaling group until an instance appears for it,
and then tags on that instance. Not responsible for reading them (`reading`) nor for what follows from them (`decide`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from lamplighter.core.reasons import WakeFailure

TAG_INSTALLATION, TAG_STACK, TAG_POOL = "lamplighter:installation", "lamplighter:stack", "lamplighter:pool"
TAG_PURPOSE = "lamplighter:purpose"
"""On machines that are no replicas, such as the one on which an image is baked."""
TAG_ORDER = "lamplighter:order:"
TAG_REPLICA, TAG_MODEL, TAG_OVERLAY = "lamplighter:replica", "lamplighter:model", "lamplighter:overlay"
TAG_ORDERED, TAG_PORT, TAG_NOTE = "lamplighter:ordered", "lamplighter:port", "lamplighter:note"
TAG_CERTIFICATES = "lamplighter:certificates"
"""Fingerprints and ends (Unix seconds) of the certificates that the node may still hold: `<hex>/<end>`, separated by blanks."""
LIVING = frozenset({"pending", "running"})
ENDING = frozenset({"shutting-down", "stopping", "stopped"})
_FAILED = "failed:"


@dataclass(frozen=True, slots=True)
class Order:
    """One wanted replica that has no instance yet. `at`: when it was given; `since`: when to this group. Unix seconds.

    `note`: for people, how it came to this group. `failure`: it will never get an instance; told until it is doomed.
    """

    id: str
    model: str
    at: float
    since: float
    note: str = ""
    failure: WakeFailure | None = None

    def text(self) -> str:
        """The value of its tag; 256 characters at the most."""
        parts = [
            f"{self.at:.3f}",
            self.model,
            f"{self.since:.3f}",
            f"{_FAILED}{self.failure.value}" if self.failure else "",
            self.note,
        ]
        return "|".join(parts).rstrip("|")[:256]

    @classmethod
    def read(cls, id: str, text: str) -> "Order | None":
        """None when it is nothing that we wrote."""
        parts = text.split("|", 4) + [""] * 4
        try:
            at = float(parts[0])
            since = float(parts[2]) if parts[2] else at
            failure = WakeFailure(parts[3].removeprefix(_FAILED)) if parts[3] else None
        except ValueError:
            return None
        return cls(id, parts[1], at, since, parts[4], failure) if parts[1] else None


@dataclass(frozen=True, slots=True)
class Group:
    """One Auto Scaling group. `members`: its instances by id, and whether the group counts them (false: it is ending them)."""

    name: str
    market: str
    desired: int
    maximum: int
    orders: tuple[Order, ...] = ()
    members: Mapping[str, bool] | None = None

    @property
    def counted(self) -> frozenset[str]:
        """Instances that its desired capacity stands for."""
        return frozenset(instance for instance, counts in (self.members or {}).items() if counts)


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that a node holds or may still hold. `until`: Unix seconds."""

    fingerprint: str
    until: float


@dataclass(frozen=True, slots=True)
class Machine:
    """One instance that carries our installation, stack and pool. `group`: the Auto Scaling group that made it.

    `replica`: the order that it was made for; empty until it is written down. `ended`: AWS's reason, once it ends: code and sentence.
    """

    id: str
    state: str
    kind: str
    zone: str
    market: str
    launched_at: float
    group: str | None = None
    replica: str = ""
    model: str = ""
    ordered_at: float = 0.0
    overlay: IPv4Address | None = None
    port: int = 0
    note: str = ""
    purpose: str = ""
    certificates: tuple[Certificate, ...] = ()
    ended: tuple[str, str] = ("", "")

    @property
    def living(self) -> bool:
        """Whether it costs money and may still serve."""
        return self.state in LIVING

    @property
    def gone(self) -> bool:
        """Proven: it costs nothing any more."""
        return self.state == "terminated"


@dataclass(frozen=True, slots=True)
class Activity:
    """A launch that a group tried and could not do. `at`: Unix seconds when it began."""

    group: str
    at: float
    message: str


@dataclass(frozen=True, slots=True)
class Picture:
    """All of one pool. `at`: Unix seconds."""

    at: float
    groups: tuple[Group, ...] = ()
    machines: tuple[Machine, ...] = ()
    failures: tuple[Activity, ...] = ()

    def group(self, market: str) -> Group | None:
        """The group of a market."""
        return next((group for group in self.groups if group.market == market), None)

    def machine(self, id: str) -> Machine | None:
        """The instance with that id."""
        return next((machine for machine in self.machines if machine.id == id), None)


def certificates_text(certificates: tuple[Certificate, ...]) -> str:
    """The value of their tag: the newest three, which is what fits."""
    return " ".join(f"{one.fingerprint}/{one.until:.0f}" for one in certificates[-3:])


def read_certificates(text: str) -> tuple[Certificate, ...]:
    """The other way round; what cannot be read is left out."""
    found = []
    for part in text.split():
        fingerprint, _, until = part.partition("/")
        if until.isdigit():
            found.append(Certificate(fingerprint, float(until)))
    return tuple(found)


def machine_of(raw: Mapping[str, object], tags: Mapping[str, str]) -> Machine:
    """From EC2's description of an instance."""
    placement, state, reason = raw.get("Placement") or {}, raw.get("State") or {}, raw.get("StateReason") or {}
    launched = raw.get("LaunchTime")
    return Machine(
        id=str(raw["InstanceId"]),
        state=str(_of(state, "Name")),
        kind=str(raw.get("InstanceType") or ""),
        zone=str(_of(placement, "AvailabilityZone")),
        market="spot" if raw.get("InstanceLifecycle") == "spot" else "on-demand",
        launched_at=launched.timestamp() if launched is not None and hasattr(launched, "timestamp") else 0.0,
        group=tags.get("aws:autoscaling:groupName"),
        replica=tags.get(TAG_REPLICA, ""),
        model=tags.get(TAG_MODEL, ""),
        ordered_at=_number(tags.get(TAG_ORDERED)),
        overlay=_address(tags.get(TAG_OVERLAY)),
        port=int(_number(tags.get(TAG_PORT))),
        note=tags.get(TAG_NOTE, ""),
        purpose=tags.get(TAG_PURPOSE, ""),
        certificates=read_certificates(tags.get(TAG_CERTIFICATES, "")),
        ended=(str(_of(reason, "Code")), str(_of(reason, "Message"))),
    )


def _of(value: object, key: str) -> object:
    return (value.get(key) if isinstance(value, Mapping) else None) or ""


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _address(text: str | None) -> IPv4Address | None:
    try:
        return IPv4Address(text) if text else None
    except AddressValueError:
        return None
