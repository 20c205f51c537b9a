"""What every open socket is told without asking: the models' states, and changes of its principal's chats. Read once, told to all.

Watching makes no demand: everything here reads memory or the store.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import StoreError
from lamplighter.gateway.background import forever
from lamplighter.gateway.chat.shapes import chat_json
from lamplighter.gateway.view import Snapshot, View
from lamplighter.store import chats
from lamplighter.store.bus import Topic
from lamplighter.store.store import Store

STATUS_SECONDS = 0.2
"""The states are told at most this often."""
RECHECK_SECONDS = 60.0
"""How often every socket's credential is checked without a hint: sessions run out by themselves."""

_log = structlog.get_logger(__name__)


class Listener(Protocol):
    """An open socket, as the hub knows it."""

    principal_id: str

    def status_changed(self) -> None:
        """`Hub.models` is another one now."""
        ...

    def tell(self, frame: dict[str, Any]) -> None:
        """Send this frame soon; never waits."""
        ...

    async def recheck(self) -> None:
        """Close unless the credential still opens."""
        ...


class Hub:
    """Knows the open sockets of this gateway. `models_json`: makes the models' states from a snapshot."""

    def __init__(self, store: Store, clock: Clock, view: View, models_json: Callable[[Snapshot], list[dict[str, Any]]]) -> None:
        self._store = store
        self._clock = clock
        self._view = view
        self._models_json = models_json
        self._listeners: dict[str, set[Listener]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.models: list[dict[str, Any]] = []
        """The states as they are told now; replaced, never changed."""

    async def start(self) -> None:
        """Begin to follow."""
        self.models = self._models_json(self._view.snapshot)
        self._tasks = [
            forever("hub-view", self._follow_view, self._clock),
            forever("hub-chats", self._follow_chats, self._clock),
            forever("hub-keys", self._follow_keys, self._clock),
        ]

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def count(self, principal_id: str) -> int:
        """How many sockets a principal has open here."""
        return len(self._listeners.get(principal_id, ()))

    def join(self, listener: Listener) -> None:
        """Tell this socket from now on."""
        self._listeners.setdefault(listener.principal_id, set()).add(listener)

    def leave(self, listener: Listener) -> None:
        """Tell it no more."""
        mine = self._listeners.get(listener.principal_id, set())
        mine.discard(listener)
        if not mine:
            self._listeners.pop(listener.principal_id, None)

    def _all(self) -> list[Listener]:
        return [one for some in self._listeners.values() for one in some]

    async def _follow_view(self) -> None:
        snapshot = self._view.snapshot
        while True:
            models = self._models_json(snapshot)
            if models != self.models:
                self.models = models
                for listener in self._all():
                    listener.status_changed()
            await self._clock.sleep(STATUS_SECONDS)
            snapshot = await self._view.changed(snapshot.version)

    async def _follow_chats(self) -> None:
        with self._store.bus.subscribe(Topic.CHATS) as hints:
            while True:
                for _, payload in await hints.wait():
                    principal_id, _, chat_id = payload.partition(" ")
                    if chat_id and principal_id in self._listeners:  # an overflow names no chat: the next reload shows it
                        await self._tell_chat(principal_id, chat_id)

    async def _tell_chat(self, principal_id: str, chat_id: str) -> None:
        try:
            frame: dict[str, Any] = {"type": "chat", "chat": chat_json(await chats.get(self._store, principal_id, chat_id))}
        except chats.ChatNotFound:
            frame = {"type": "chat_deleted", "chat_id": chat_id}
        except StoreError as error:
            _log.warning("chat_not_told", error=error.message)
            return
        for listener in tuple(self._listeners.get(principal_id, ())):
            listener.tell(frame)

    async def _follow_keys(self) -> None:
        with self._store.bus.subscribe(Topic.KEYS) as hints:
            while True:
                await hints.wait(RECHECK_SECONDS)
                for listener in self._all():
                    await listener.recheck()
