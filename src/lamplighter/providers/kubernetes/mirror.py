"""A copy of some objects of a cluster that follows by watching: what `observe` answers from. It says how old its knowledge is.

Not responsible for what the objects mean.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing

import structlog

from lamplighter.core.clock import Clock
from lamplighter.providers.kubernetes.client import Change, Cluster, Seen, Selector
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Kind, Manifest
from lamplighter.providers.kubernetes.reading import name

_log = structlog.get_logger(__name__)

DENIED_PAUSE = 300.0


class Mirror:
    """All objects of one kind under one selector. `forget`: called with each object that is there no longer, as it was seen last.

    `keep`: what of a kind is kept at all. `required`: whether a refusal is worth a warning.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        namespace: str | None,
        clock: Clock,
        *,
        labels: Selector | None = None,
        forget: Callable[[Manifest], None] | None = None,
        keep: Callable[[Manifest], bool] | None = None,
        required: bool = True,
    ) -> None:
        self.kind = kind
        self.objects: Mapping[str, Manifest] = {}
        """By name; of one namespace, or of a kind that has none."""
        self.error: KubernetesError | None = None
        """What went wrong since the last good news."""
        self.listed = asyncio.Event()
        """Set once everything is known; and when asking failed, so that nobody waits for what will not come."""
        self.complete = False
        self._cluster = cluster
        self._namespace = namespace
        self._clock = clock
        self._labels = labels
        self._forget = forget
        self._keep = keep
        self._required = required
        self._broken_at = float("-inf")
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow, for ever. What is not required and not allowed is asked for again only now and then."""
        while True:
            async with aclosing(self._cluster.watch(self.kind, self._namespace, labels=self._labels)) as changes:
                async for change in changes:
                    self._take(change)
                    if not self._required and self.error is not None and self.error.status in (401, 403, 404):
                        break
            await self._clock.sleep(DENIED_PAUSE)

    def age(self) -> float:
        """Seconds for which the watch has been broken, 0 while it is whole; infinite before the first list."""
        if not self.complete:
            return float("inf")
        return 0.0 if self.error is None else self._clock.monotonic() - self._broken_at

    async def until(self, met: Callable[[Mapping[str, Manifest]], bool], seconds: float) -> bool:
        """Wait until the objects meet a condition; False when that took longer than `seconds`."""
        end = self._clock.monotonic() + seconds
        while not met(self.objects):
            left = end - self._clock.monotonic()
            self._changed.clear()
            if left <= 0 or not await self._clock.wait(self._changed, left):
                return met(self.objects)
        return True

    def put(self, found: Manifest) -> None:
        """Take what an own call brought, before the watch does."""
        self._put(found)

    def _take(self, change: Change) -> None:
        if change.seen is Seen.BROKEN:
            self._broken(change.error)
            return
        if self.error is not None and self._required:
            _log.info("the cluster answers again", kind=self.kind.resource)
        self.error = None
        if change.seen is Seen.LISTED:
            self._replace(change)
        elif change.seen in (Seen.ADDED, Seen.MODIFIED):
            self._put(change.object)
        elif change.seen is Seen.DELETED:
            self._drop(change.object)
        self._changed.set()

    def _replace(self, change: Change) -> None:
        found = {name(one): one for one in change.items if self._keep is None or self._keep(one)}
        gone = [
            old for key, old in self.objects.items() if key not in found or found[key]["metadata"].get("uid") != old["metadata"].get("uid")
        ]  # fmt: skip
        self.objects = found
        self.complete = True
        self.listed.set()
        for old in gone:
            if self._forget is not None:
                self._forget(old)

    def _put(self, found: Manifest) -> None:
        if self._keep is not None and not self._keep(found):
            return
        old = self.objects.get(name(found))
        if old is not None and _older(found, old):
            return  # what an own call brought is newer
        self.objects = {**self.objects, name(found): found}
        if old is not None and old["metadata"].get("uid") != found["metadata"].get("uid") and self._forget is not None:
            self._forget(old)

    def _drop(self, found: Manifest) -> None:
        old = self.objects.get(name(found))
        if old is None or old["metadata"].get("uid") != found["metadata"].get("uid"):
            return
        self.objects = {key: one for key, one in self.objects.items() if key != name(found)}
        if self._forget is not None:
            self._forget(found)

    def _broken(self, error: KubernetesError | None) -> None:
        first = self.error is None
        self.error = error
        self.listed.set()
        self._changed.set()
        if first and error is not None:
            self._broken_at = self._clock.monotonic()
            log = _log.warning if self._required else _log.info
            log("a watch broke off; it is resumed", kind=self.kind.resource, error=error.message, next_step=error.next_step)


def _older(one: Manifest, other: Manifest) -> bool:
    """Whether `one` is an earlier version of the same object; versions that are no numbers are taken as they come."""
    if one["metadata"].get("uid") != other["metadata"].get("uid"):
        return False
    versions = [str(found["metadata"].get("resourceVersion") or "") for found in (one, other)]
    return all(version.isdigit() for version in versions) and int(versions[0]) < int(versions[1])
