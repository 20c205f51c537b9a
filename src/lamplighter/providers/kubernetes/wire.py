"""What goes over the wire to an API server and comes back, as values: events of a watch, selectors, bodies of refusals. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx2

from lamplighter.providers.kubernetes.errors import KubernetesError, Target, refused
from lamplighter.providers.kubernetes.kinds import Kind, Manifest

Selector = Mapping[str, str | None]
"""Labels or fields that must be equal; None: the label must exist, whatever its value."""


class Seen(StrEnum):
    """What a watch tells."""

    LISTED = "listed"
    """`items` is all there is: what is not among them is gone."""
    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    ALIVE = "alive"
    """Nothing changed; the server was there."""
    BROKEN = "broken"
    """`error` came in between; the watch goes on by itself."""


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch."""

    seen: Seen
    object: Manifest = field(default_factory=dict)
    items: Sequence[Manifest] = ()
    error: KubernetesError | None = None


class Gone(Exception):
    """The version from which a watch was to go on is no longer kept (410)."""


def event_of(event: Manifest, kind: Kind, about: Target, server: str) -> Change:
    """What one line of a watch tells. Raises Gone, KubernetesError."""
    found = event.get("object") or {}
    if event.get("type") == "ERROR":
        if found.get("code") == httpx2.codes.GONE:
            raise Gone
        raise refused(int(found.get("code") or 500), found, about, server)
    found.setdefault("apiVersion", kind.api_version)
    found.setdefault("kind", kind.kind)
    seen = {"ADDED": Seen.ADDED, "MODIFIED": Seen.MODIFIED, "DELETED": Seen.DELETED}.get(str(event.get("type")), Seen.ALIVE)
    return Change(seen, object=found)


def body_of(answer: httpx2.Response) -> Any:
    """The body of an answer: JSON where it is."""
    try:
        return answer.json()
    except ValueError:
        return answer.text


def retry_after(answer: httpx2.Response) -> float:
    """Seconds to wait before a call that was put off is made again."""
    try:
        return min(max(float(answer.headers.get("Retry-After", "1")), 0.1), 3.0)
    except ValueError:
        return 1.0


def selectors(labels: Selector | None, fields: Selector | None) -> dict[str, str]:
    """Both as the query of a list or watch."""

    def text(selector: Selector) -> str:
        return ",".join(key if value is None else f"{key}={value}" for key, value in selector.items())

    found = {"labelSelector": text(labels or {}), "fieldSelector": text(fields or {})}
    return {key: value for key, value in found.items() if value}
