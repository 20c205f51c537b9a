"""What the keeper knows of each node beside AWS's own picture: what it said through the queue, and what its agent answers over the mesh.

All of it can be lost: after a restart the agent tells it again. Not responsible for asking (`dial`, `mailbox`) nor for admitting (`admission`).
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.aws.dial import NodeFailure, NodeNotice, NodeStage, NodeStatus, clean, number, read_failure, share

STAGES = frozenset({"boot", "mesh", "cluster", "pull", "load"})
"""The stages that a node itself may go through, after `capacity`: which, and in what order, says its duty."""
READY = "ready"


@dataclass(slots=True)
class Node:
    """One instance. Unix seconds, except `asked_at` and `pushed_at` (monotonic).

    `reports`: its stages as last told. `met_at`: when its agent first answered. `ready_at`: when it first said that its engine serves.
    `last_words`: why it ended itself: reason and detail. `given`: what its Nebula was last given (a digest);
    `bundle`: the authorities in it; `confirmed`: of which bundle and certificate the mesh's authority was told.
    """

    instance: str
    public_key: str = ""
    reports: dict[str, NodeStage] = field(default_factory=dict)
    status: NodeStatus | None = None
    asked_at: float = float("-inf")
    missed: int = 0
    met_at: float | None = None
    ready_at: float | None = None
    assigned_at: float | None = None
    admitting: bool = False
    failure: NodeFailure | None = None
    notice: NodeNotice | None = None
    last_words: tuple[str, str | None] | None = None
    given: str = ""
    bundle: str = ""
    confirmed: tuple[str, str] = ("", "")

    def hear(self, status: NodeStatus, now: float) -> None:
        """What its agent answered."""
        self.status, self.missed = status, 0
        self.met_at = self.met_at or now
        for stage in status.stages:
            self.reports[stage.name] = stage
        self.notice = status.notice or self.notice
        self.failure = status.failure or self.failure
        self.public_key = status.public_key or self.public_key
        if status.engine == READY and status.failure is None:
            self.ready_at = self.ready_at or now

    def told(self, message: Mapping[str, Any]) -> None:
        """A message of it from the queue, whose sender AWS has proven."""
        if message.get("kind") == "stage":
            self._stage(message)
        elif message.get("kind") == "end":
            self.last_words = (clean(message.get("reason")) or "", clean(message.get("detail")))
            failure = message.get("failure")
            self.failure = read_failure(failure if isinstance(failure, dict) else {}) or self.failure

    def _stage(self, message: Mapping[str, Any]) -> None:
        name, state, at = message.get("name"), message.get("state"), number(message.get("at"))
        if name not in STAGES or at is None:
            return
        old = self.reports.get(str(name))
        if state == "fail":
            self.failure = read_failure({"reason": message.get("reason"), "detail": message.get("detail")})
        if old is not None and old.ended_at is not None:
            return  # queues may deliver late and twice
        self.reports[str(name)] = NodeStage(
            name=str(name),
            started_at=old.started_at if old is not None else at,
            ended_at=at if state == "end" else None,
            progress=share(message.get("progress")),
            detail=clean(message.get("detail")),
        )

    def refuse(self, reason: WakeFailure, detail: str) -> None:
        """It will never serve, for a reason on our side."""
        self.failure = NodeFailure(reason, detail)


@dataclass(frozen=True, slots=True)
class Facts:
    """One node, for whoever does more with it. `ready`: it says that its work is done. `gone`: proven to cost nothing any more."""

    instance: str
    kind: str
    model: str
    living: bool
    gone: bool
    overlay: IPv4Address | None
    ready: bool


class Keys:
    """The keys that nodes are given, made from one secret of this installation: whoever adopts a node knows them again, and nothing is stored.

    The secret lies beside the mesh's authority, in `<data>/aws/secret`, 0600.
    """

    def __init__(self, data: Path) -> None:
        self._path = data / "aws" / "secret"
        self._secret: bytes | None = None

    def agent(self, instance: str, order: str) -> str:
        """The bearer token of a node's agent. Raises ProviderError."""
        return self._make("lla", "agent", instance, order)

    def engine(self, instance: str, order: str) -> str:
        """The bearer key of a node's engine. Raises ProviderError."""
        return self._make("lle", "engine", instance, order)

    def name(self, *parts: str) -> str:
        """A stable name of `parts` that tells nothing about them. Raises ProviderError."""
        return self._make("", *parts)[1:]

    def _make(self, prefix: str, *parts: str) -> str:
        return f"{prefix}-{hmac.new(self._read(), '|'.join(parts).encode(), hashlib.sha256).hexdigest()}"

    def _read(self) -> bytes:
        if self._secret is None:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                try:
                    descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                except FileExistsError:
                    self._secret = self._path.read_bytes()
                else:
                    with os.fdopen(descriptor, "wb") as file:
                        self._secret = secrets.token_bytes(32)
                        file.write(self._secret)
            except OSError as error:
                raise ProviderError(
                    f"{self._path} cannot be used: {error.strerror or error}.",
                    next_step="Check the data folder's owner and room.",
                ) from error
            if len(self._secret) != 32:
                self._secret = None
                raise ProviderError(f"{self._path} is damaged.", next_step="Delete it; nodes that run now are then replaced.")
        return self._secret
