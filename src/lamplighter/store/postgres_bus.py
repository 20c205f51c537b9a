"""The bus over PostgreSQL's LISTEN and NOTIFY, so that gateways and keepers of several processes and hosts hear of each other's changes.

What is published is told to this process at once and to the others within milliseconds, several hints in one notification. A hint may be
lost while PostgreSQL is away; when it is back everybody is told that anything may have changed. Carries no data.
"""

import asyncio
import contextlib
import json
import random
from contextlib import AbstractContextManager
from typing import Any

import asyncpg
import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.ids import new_id
from lamplighter.store.bus import LocalBus, Message, Subscription, Topic
from lamplighter.store.postgres import Access, connect_arguments

CHANNEL = "lamplighter"
MAX_PAYLOAD = 7_900
"""Bytes of one notification; PostgreSQL's own limit is 8,000."""
MAX_WAITING = 2_000
"""Different hints that may wait to be sent; beyond, a topic's hints become one that says: anything of it."""
PING_SECONDS = 5.0
"""How often a silent connection is tried: a dead peer says nothing."""
PING_LIMIT = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
_BYE_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class PostgresBus:
    """One process's end of the bus. `start` connects, and raises when it cannot; from then on it reconnects by itself until `stop`."""

    def __init__(self, access: Access, clock: Clock) -> None:
        self.connected = False
        """Whether hints of others arrive."""
        self._access = access
        self._clock = clock
        self._local = LocalBus(clock)
        self._id = new_id("bus")
        self._waiting: dict[Message, None] = {}
        self._work = asyncio.Event()
        self._sent = asyncio.Event()
        self._broken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- what everybody uses

    def publish(self, topic: Topic, payload: str = "") -> None:
        """Tell every subscriber of `topic`, here and elsewhere; never waits, never fails."""
        self._local.publish(topic, payload)
        if len(self._waiting) >= MAX_WAITING or len(payload) > MAX_PAYLOAD // 8:
            payload = ""
        self._waiting[(topic, payload)] = None
        self._sent.clear()
        self._work.set()

    def subscribe(self, *topics: Topic) -> AbstractContextManager[Subscription]:
        """A mailbox for `topics`, from now until the context ends."""
        return self._local.subscribe(*topics)

    # -- life

    async def start(self) -> None:
        """Connect. Raises what asyncpg raises."""
        connection = await self._connect()
        self._task = asyncio.create_task(self._run(connection), name="store-bus")

    async def stop(self) -> None:
        """Send what waits, if that is possible at once, and end."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BYE_SECONDS):
                if self.connected and self._waiting:
                    await self._sent.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def _connect(self) -> Any:
        url = self._access.listen_url or self._access.url
        arguments = connect_arguments(self._access, url, limit=None)
        connection = await asyncpg.connect(**{**arguments, "command_timeout": PING_LIMIT})
        try:
            connection.add_termination_listener(lambda _: self._lost())
            await connection.add_listener(CHANNEL, self._heard)
        except BaseException:
            connection.terminate()
            raise
        self._broken.clear()
        self.connected = True
        return connection

    def _lost(self) -> None:
        self.connected = False
        self._broken.set()
        self._work.set()

    async def _run(self, connection: Any) -> None:
        try:
            while True:
                try:
                    await self._send(connection)
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    _log.warning(
                        "the connection for notifications broke; it is made again", error=str(error) or type(error).__name__
                    )
                self.connected = False
                connection.terminate()
                connection = await self._again()
                for topic in Topic:  # nobody knows what was missed
                    self._local.publish(topic)
        finally:
            self.connected = False
            connection.terminate()

    async def _again(self) -> Any:
        pause = FIRST_PAUSE
        while True:
            await self._clock.sleep(pause * random.uniform(0.5, 1.0))  # so that many gateways do not come all at once
            try:
                connection = await self._connect()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pause = min(LONGEST_PAUSE, pause * 2)
            else:
                _log.info("notifications arrive again")
                return connection

    async def _send(self, connection: Any) -> None:
        """Send what waits, as it comes, and try the connection when nothing does. Returns or raises when it is broken."""
        while True:
            if not self._waiting:
                self._work.clear()
                self._sent.set()
                if self._broken.is_set():
                    return
                if not await self._clock.wait(self._work, PING_SECONDS):
                    await connection.execute("SELECT 1")
                    continue
            if self._broken.is_set():
                return
            messages, text = self._packed()
            if not messages:
                continue
            try:
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, text)
            except BaseException:
                self._waiting = {**messages, **self._waiting}
                raise

    def _packed(self) -> tuple[dict[Message, None], str]:
        """As many of the waiting hints as one notification holds; they wait no longer."""
        taken: dict[Message, None] = {}
        size = len(self._id) + 16
        for topic, payload in self._waiting:
            cost = len(json.dumps([topic.value, payload])) + 2
            if taken and size + cost > MAX_PAYLOAD:
                break
            taken[(topic, payload)] = None
            size += cost
        for message in taken:
            del self._waiting[message]
        return taken, json.dumps([self._id, [[topic.value, payload] for topic, payload in taken]], separators=(",", ":"))

    def _heard(self, _connection: object, _pid: int, _channel: str, text: str) -> None:
        try:
            sender, messages = json.loads(text)
            if sender == self._id:
                return
            for topic, payload in messages:
                with contextlib.suppress(ValueError):  # a newer version's topic means nothing to us
                    self._local.publish(Topic(topic), str(payload))
        except (ValueError, TypeError):
            _log.warning("a notification could not be read", size=len(text))
