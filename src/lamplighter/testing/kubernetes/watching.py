"""Watches: the stream of an answer to `?watch=true`, from a version on, with bookmarks and an end. Not responsible for who may watch."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from lamplighter.testing.http import Exchange
from lamplighter.testing.kubernetes.errors import ApiRefusal, bad_request
from lamplighter.testing.kubernetes.kinds import Kind
from lamplighter.testing.kubernetes.selectors import Match, matching
from lamplighter.testing.kubernetes.store import Change, Object, Store

_LONGEST = 1800.0


class Watches:
    """Every watch of one fake API server. `bookmark_seconds`: how often those that want bookmarks get one."""

    def __init__(self, store: Store, *, bookmark_seconds: float) -> None:
        self._store = store
        self._bookmark_seconds = bookmark_seconds
        self._open: set[_Watch] = set()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    async def serve(self, exchange: Exchange, kind: Kind, namespace: str | None, query: Mapping[str, str]) -> None:
        """Stream until the time asked for is over, the client leaves or somebody cuts it."""
        watch = _Watch(exchange, kind, namespace, query, self._store)
        self._open.add(watch)
        try:
            await watch.run(self._bookmark_seconds)
        finally:
            self._open.discard(watch)

    def cut(self) -> None:
        """Reset the connection of every watch. On the server's loop."""
        for watch in list(self._open):
            watch.exchange.reset()

    def bookmark(self) -> None:
        """Send one now to whoever wants them. On the server's loop."""
        for watch in list(self._open):
            watch.wake(bookmark=True)


class _Watch:
    def __init__(self, exchange: Exchange, kind: Kind, namespace: str | None, query: Mapping[str, str], store: Store) -> None:
        self.exchange = exchange
        self._kind = kind
        self._namespace = namespace
        self._match: Match | None = matching(kind, query.get("labelSelector"), query.get("fieldSelector"))
        self._bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        try:
            self._from = int(query.get("resourceVersion") or 0)
            self._limit = float(query.get("timeoutSeconds") or 0) or _LONGEST
        except ValueError:
            raise bad_request("resourceVersion and timeoutSeconds must be numbers") from None
        self._store = store
        self._queue: asyncio.Queue[Change | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def wake(self, *, bookmark: bool = False) -> None:
        if bookmark:
            self._queue.put_nowait(None)

    def _hear(self, change: Change) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, change)

    async def run(self, bookmark_seconds: float) -> None:
        store = self._store
        end = self._loop.time() + self._limit
        with store.lock:
            past: list[Change] = []
            refused: ApiRefusal | None = None
            if self._from == 0:
                past = [
                    Change(int(one["metadata"]["resourceVersion"]), self._kind.key, one["metadata"].get("namespace", ""), None, one)
                    for one in store.all(self._kind, self._namespace)
                ]  # fmt: skip
            else:
                try:
                    past = store.since(self._from)
                except ApiRefusal as error:
                    refused = error
            store.listeners.add(self._hear)
        try:
            self.exchange.start(200, {"content-type": "application/json"})
            if refused is not None:
                self._send("ERROR", refused.body())
                return
            for change in past:
                self._tell(change)
            while (left := end - self._loop.time()) > 0:
                wait = min(left, bookmark_seconds)
                heard: Change | None = None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        heard = await self._queue.get()
                if heard is None:
                    self._bookmark()
                else:
                    self._tell(heard)
                await self.exchange.drain()
        finally:
            store.listeners.discard(self._hear)

    def _bookmark(self) -> None:
        if self._bookmarks:
            meta = {"resourceVersion": str(self._store.version), "creationTimestamp": None}
            self._send("BOOKMARK", {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": meta})

    def _tell(self, change: Change) -> None:
        if change.key != self._kind.key or self._namespace not in (None, change.namespace):
            return
        was = change.old is not None and (self._match is None or self._match(change.old))
        now = change.new is not None and (self._match is None or self._match(change.new))
        if now and change.new is not None:
            self._send("MODIFIED" if was else "ADDED", change.new)
        elif was and change.old is not None:
            last = change.new or change.old
            shown = {**change.old, "metadata": {**change.old["metadata"], "resourceVersion": last["metadata"]["resourceVersion"]}}
            self._send("DELETED", shown)

    def _send(self, event: str, found: Object) -> None:
        told: dict[str, Any] = {"type": event, "object": found}
        if event not in ("ERROR", "BOOKMARK"):
            told["object"] = {**found, "apiVersion": self._kind.api_version}
        self.exchange.write(json.dumps(told, separators=(",", ":")).encode() + b"\n")


__all__ = ["Watches"]
