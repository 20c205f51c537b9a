"""The bus: tells the planes that something in the store changed. It carries hints, never data: whoever is told reads the store.

In one process it is this module. Across processes the same protocol stands on PostgreSQL's LISTEN/NOTIFY, so payloads are short texts.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Protocol

from lamplighter.core.clock import Clock


class Topic(StrEnum):
    """What changed."""

    DEMAND = "demand"
    """Somebody asks for a model that is not ready, or orders (wake, sleep) changed. Payload: model."""
    REPLICAS = "replicas"
    """A replica's state, or a wake's progress. Payload: pool."""
    ACKS = "acks"
    """A gateway acknowledged a drain. Payload: replica id."""
    SUSPECT = "suspect"
    """A gateway saw an endpoint fail: look at once. Payload: replica id."""
    MODELS = "models"
    """The overlay of models."""
    KEYS = "keys"
    CHATS = "chats"
    """Payload: `principal_id chat_id`."""
    GENERATIONS = "generations"
    """New events of a generation. Payload: generation id."""
    CANCELS = "cancels"
    """Somebody asked to stop a generation that another gateway writes. Payload: generation id."""


Message = tuple[Topic, str]


class Subscription:
    """A bounded, coalescing mailbox: the same message twice before it is read counts once."""

    _BOUND = 10_000

    def __init__(self, topics: frozenset[Topic], clock: Clock) -> None:
        self.topics = topics
        self._clock = clock
        self._event = asyncio.Event()
        self._pending: dict[Message, None] = {}

    def offer(self, message: Message) -> None:
        if len(self._pending) < self._BOUND:
            self._pending[message] = None
        else:  # too slow a reader: it must look at everything of the topic
            self._pending[(message[0], "")] = None
        self._event.set()

    async def wait(self, timeout: float | None = None) -> list[Message]:
        """What was published since the last call, oldest first; empty when `timeout` seconds passed in silence.

        An empty payload means: anything of that topic may have changed.
        """
        await self._clock.wait(self._event, timeout)
        messages = list(self._pending)
        self._pending.clear()
        self._event.clear()
        return messages


class Bus(Protocol):
    """Publish hints, subscribe to hints."""

    def publish(self, topic: Topic, payload: str = "") -> None:
        """Tell every subscriber of `topic`; never waits, never fails."""
        ...

    def subscribe(self, *topics: Topic) -> AbstractContextManager[Subscription]:
        """A mailbox for `topics`, from now until the context ends."""
        ...


class LocalBus:
    """The bus of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._subscriptions: set[Subscription] = set()

    def publish(self, topic: Topic, payload: str = "") -> None:
        """Tell every subscriber of `topic`; never waits, never fails."""
        for subscription in self._subscriptions:
            if topic in subscription.topics:
                subscription.offer((topic, payload))

    @contextmanager
    def subscribe(self, *topics: Topic) -> Iterator[Subscription]:
        """A mailbox for `topics`, from now until the context ends."""
        subscription = Subscription(frozenset(topics), self._clock)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
