"""What the fake API server keeps: objects, their versions, and the history that watches are served from. One lock around all of it.

Not responsible for what an object may look like, nor for who may touch it.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lamplighter.testing.kubernetes.errors import expired
from lamplighter.testing.kubernetes.kinds import Kind

Object = dict[str, Any]
_HISTORY = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """One change, after which the store is at `version`. `old` and `new`: the object before and after; never altered once here."""

    version: int
    key: tuple[str, str]
    namespace: str
    old: Object | None
    new: Object | None


class Store:
    """Objects by kind, namespace ("" for cluster-wide kinds) and name. What it hands out must not be altered: copy it first."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 1
        self.compacted = 0
        """Versions up to this one are forgotten: a watch from there is answered 410."""
        self.listeners: set[Callable[[Change], None]] = set()
        self._objects: dict[tuple[str, str], dict[tuple[str, str], Object]] = {}
        self._history: deque[Change] = deque(maxlen=_HISTORY)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        return self._objects.get(kind.key, {}).get((namespace, name))

    def all(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        """Every object of a kind (in a namespace), ordered by namespace and name."""
        found = self._objects.get(kind.key, {})
        return [found[key] for key in sorted(found) if namespace is None or key[0] == namespace]

    def everything(self) -> Iterator[tuple[tuple[str, str], Object]]:
        """Every object with the key of its kind."""
        for key, found in self._objects.items():
            for one in list(found.values()):
                yield key, one

    def put(self, kind: Kind, namespace: str, name: str, new: Object) -> Object:
        """Write it as the next version, and tell the listeners."""
        with self.lock:
            objects = self._objects.setdefault(kind.key, {})
            old = objects.get((namespace, name))
            self.version += 1
            new["metadata"]["resourceVersion"] = str(self.version)
            objects[namespace, name] = new
            self._tell(Change(self.version, kind.key, namespace, old, new))
            return new

    def remove(self, kind: Kind, namespace: str, name: str) -> Object:
        """Take it away; the last state, at the version of its removal."""
        with self.lock:
            old = self._objects[kind.key].pop((namespace, name))
            self.version += 1
            last = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.version)}}
            self._tell(Change(self.version, kind.key, namespace, last, None))
            return last

    def _tell(self, change: Change) -> None:
        if len(self._history) == _HISTORY:
            self.compacted = self._history[0].version
        self._history.append(change)
        for listener in list(self.listeners):
            listener(change)

    def since(self, version: int) -> list[Change]:
        """The changes after `version`. Raises ApiRefusal (410) when some of them are forgotten."""
        with self.lock:
            if version < self.compacted:
                raise expired(f"too old resource version: {version} ({self.compacted})")
            return [change for change in self._history if change.version > version]

    def compact(self) -> None:
        """Forget the history up to now, as etcd does after minutes."""
        with self.lock:
            self.compacted = self.version
            self._history.clear()


__all__ = ["Change", "Object", "Store"]
