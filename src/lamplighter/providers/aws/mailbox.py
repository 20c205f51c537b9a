"""Receives from a stack's two queues: what nodes say, and what AWS says about them. Pools of one stack share them, and so do their keepers.

A message counts only for what AWS itself wrote on it: its sender. Not responsible for what a message means.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import LamplighterError
from lamplighter.providers.aws.client import LONG_POLL, Aws, AwsError
from lamplighter.providers.aws.dial import NodeNotice
from lamplighter.providers.aws.manifest import Manifest

_log = structlog.get_logger(__name__)

OLD = 600.0
"""Seconds after which a message that nobody claims is thrown away."""
SOON = 1
"""Seconds until a message that is another pool's can be received again."""
HANDLE_WITHIN = 10
"""Seconds until a message comes again whose reader died over it."""
AGAIN = 5
"""Seconds until one that could not be handled comes again."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One message. `instance`: whom it is from, or about, proven by AWS. `sent_at`: Unix seconds."""

    instance: str
    body: Mapping[str, Any]
    sent_at: float


Handle = Callable[[Letter], Awaitable[bool]]
"""Handles a letter; False when its instance is none of this pool's."""


@dataclass(frozen=True, slots=True)
class Received:
    """How many messages of one receive were this pool's, and how many another's, given back."""

    ours: int
    foreign: int


class Mailbox:
    """The queues of one stack, for one pool."""

    def __init__(self, aws: Aws, clock: Clock, pool: str) -> None:
        self._aws = aws
        self._clock = clock
        self._log = _log.bind(pool=pool)

    async def nodes(self, manifest: Manifest, handle: Handle, *, wait: int = LONG_POLL) -> Received:
        """Receive once from the nodes' queue; what there was. Raises AwsError."""

        def read(raw: Mapping[str, Any]) -> Letter | None:
            sender = str(raw["Attributes"].get("SenderId", ""))
            role, _, instance = sender.rpartition(":")
            if role != manifest.node_role or not instance.startswith("i-"):
                self._log.warning("a message that no node of ours can have sent was thrown away", sender=sender)
                return None
            body = _json(raw["Body"])
            if body is None or body.get("version") != 1 or body.get("instance") not in (None, instance):
                self._log.warning("a message that makes no sense was thrown away", sender=sender)
                return None
            return Letter(instance, body, _sent(raw))

        return await self._receive(manifest.nodes_queue, read, handle, wait)

    async def events(self, manifest: Manifest, handle: Handle, *, wait: int = LONG_POLL) -> Received:
        """Receive once from the queue of AWS's events; what there was. Raises AwsError."""

        def read(raw: Mapping[str, Any]) -> Letter | None:
            body = _json(raw["Body"]) or {}
            detail = body.get("detail")
            instance = detail.get("instance-id") if isinstance(detail, dict) else None
            return Letter(str(instance), body, _sent(raw)) if instance else None

        return await self._receive(manifest.events_queue, read, handle, wait)

    async def _receive(
        self, queue: str, read: Callable[[Mapping[str, Any]], Letter | None], handle: Handle, wait: int
    ) -> Received:
        answer = await self._aws.receive(
            QueueUrl=queue,
            AttributeNames=["SenderId", "SentTimestamp"],
            MaxNumberOfMessages=10,
            WaitTimeSeconds=wait,
            VisibilityTimeout=HANDLE_WITHIN,
        )
        messages: list[dict[str, Any]] = answer.get("Messages") or []
        foreign = 0
        for number, raw in enumerate(messages):
            try:
                foreign += not await self._handle(queue, raw, read(raw), handle)
            except asyncio.CancelledError:
                self._aws.give_back(queue, messages[number:])
                raise
        return Received(len(messages) - foreign, foreign)

    async def _handle(self, queue: str, raw: Mapping[str, Any], letter: Letter | None, handle: Handle) -> bool:
        """Whether it was this pool's to handle."""
        try:
            claimed = letter is None or await handle(letter)
        except LamplighterError as error:
            sender = letter.instance if letter is not None else None
            self._log.warning("a message could not be handled, and comes again", error=error.message, instance=sender)
            await self._later(queue, raw, AGAIN)
            return True
        if claimed or (letter is not None and self._clock.time() - letter.sent_at > OLD):
            await self._done(queue, raw)
            return True
        await self._later(queue, raw, SOON)
        return False

    async def _done(self, queue: str, raw: Mapping[str, Any]) -> None:
        await self._aws.call("sqs", "delete_message", QueueUrl=queue, ReceiptHandle=raw["ReceiptHandle"])

    async def _later(self, queue: str, raw: Mapping[str, Any], seconds: int) -> None:
        try:
            await self._aws.call(
                "sqs",
                "change_message_visibility",
                QueueUrl=queue,
                ReceiptHandle=raw["ReceiptHandle"],
                VisibilityTimeout=seconds,
            )
        except AwsError as error:  # it comes again when its own time is over
            self._log.debug("a message could not be given back", error=error.message)


def notice_of(event: Mapping[str, Any], now: float) -> NodeNotice | None:
    """What an event of EC2 means for its instance; None when nothing. An interruption comes two minutes before."""
    kind = event.get("detail-type")
    if kind == "EC2 Spot Instance Interruption Warning":
        return NodeNotice(True, now + 120.0, None)
    if kind == "EC2 Instance Rebalance Recommendation":
        return NodeNotice(False, None, None)
    return None


def _json(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _sent(raw: Mapping[str, Any]) -> float:
    return float(raw["Attributes"].get("SentTimestamp", 0)) / 1000
