"""What nodes say through the queue, and what AWS says about them: stages, hellos that are admitted, last words, notices.

Not responsible for receiving (`mailbox`) nor for what an admission is (`admission`).
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import ProviderError
from lamplighter.providers.aws.admission import Admission
from lamplighter.providers.aws.mailbox import SOON, Letter, Mailbox, Received, notice_of
from lamplighter.providers.aws.manifest import Manifest, Manifests
from lamplighter.providers.aws.picture import Machine

if TYPE_CHECKING:
    from lamplighter.providers.aws.poller import Poller

_log = structlog.get_logger(__name__)

PAUSE = 1.0
STEP_BACK = SOON + 0.5
FOREIGN_FOR = 60.0
"""Seconds for which an instance that is none of this pool's is not asked for again."""
LETTERS_AFTER = 60.0
"""Seconds for which the queues are still read after the last node is gone."""
ADMIT_AGAIN = 10.0
"""Seconds in which a node that was admitted is not admitted again: its hello may come twice."""


class Letters:
    """Of one pool."""

    def __init__(self, poller: "Poller", mailbox: Mailbox, manifests: Manifests, admission: Admission, clock: Clock) -> None:
        self._poller = poller
        self._mailbox = mailbox
        self._manifests = manifests
        self._admission = admission
        self._clock = clock
        self._foreign: dict[str, float] = {}
        self._log = _log.bind(pool=poller.name)

    async def catch_up(self, manifest: Manifest) -> None:
        """Read what nodes said while nobody listened. Raises ProviderError."""
        while (await self._mailbox.nodes(manifest, self._from_node, wait=0)).ours:
            continue

    async def read_nodes(self) -> None:
        """What nodes say, for as long as somebody asks."""
        await self._letters(lambda manifest: self._mailbox.nodes(manifest, self._from_node))

    async def read_events(self) -> None:
        """What AWS says of them."""
        await self._letters(lambda manifest: self._mailbox.events(manifest, self._about_node))

    async def _letters(self, receive: Callable[[Manifest], Awaitable[Received]]) -> None:
        while self._poller.used:
            if self._clock.monotonic() - self._poller.busy_at > LETTERS_AFTER:
                await self._clock.sleep(PAUSE)
                continue
            try:
                manifest, _ = await self._manifests.pool(self._poller.name)
                received = await receive(manifest)
                if received.foreign:
                    await self._clock.sleep(STEP_BACK)  # else we would take it again before the pool that it is for
            except ProviderError as error:
                self._log.warning("a queue could not be read", error=error.message)
                await self._clock.sleep(2 * PAUSE)

    async def _from_node(self, letter: Letter) -> bool:
        """What a node says. False: it is no node of this pool."""
        machine = await self._of_ours(letter.instance)
        if machine is None:
            return False
        node = self._poller.node(machine)
        if letter.body.get("kind") != "hello":
            node.told(letter.body)
            if letter.body.get("kind") == "end":
                self._poller.hurry()
            return True
        key = letter.body.get("public_key")
        if not isinstance(key, str) or not machine.living or not machine.replica or machine.replica in self._poller.doomed:
            return True
        if node.met_at is not None and node.public_key not in ("", key):
            self._log.warning("a node that runs asked for a certificate for another key, and gets none", instance=machine.id)
            return True
        if node.failure is not None or (
            node.assigned_at is not None and self._clock.time() - node.assigned_at < ADMIT_AGAIN and node.public_key == key
        ):
            return True
        node.public_key = key
        manifest, part = await self._manifests.pool(self._poller.name)
        used = [
            other.overlay
            for other in self._poller.machines
            if other.overlay is not None and other.living and other.id != machine.id
        ]
        await self._admission.admit(manifest, part, machine, node, used)
        self._poller.hurry()
        return True

    async def _about_node(self, letter: Letter) -> bool:
        """What AWS says of an instance."""
        machine = await self._of_ours(letter.instance)
        if machine is None:
            return False
        notice = notice_of(letter.body, letter.sent_at or self._clock.time())
        node = self._poller.node(machine)
        if notice is not None and (node.notice is None or not node.notice.certain):
            self._log.warning(
                "AWS takes a machine back" if notice.certain else "AWS recommends to leave a machine", instance=machine.id
            )
            node.notice = notice
        self._poller.hurry()
        return True

    async def _of_ours(self, instance: str) -> Machine | None:
        """The instance, if it is one of this pool; a new picture is taken for one that is new."""
        machine = self._poller.picture.machine(instance) if self._poller.picture is not None else None
        fresh = machine is not None and (machine.replica or not machine.living)
        now = self._clock.monotonic()
        if not fresh and now - self._foreign.get(instance, float("-inf")) > FOREIGN_FOR:
            await self._poller.refresh()
            machine = self._poller.picture.machine(instance) if self._poller.picture is not None else None
            if machine is None:
                self._foreign = {other: at for other, at in self._foreign.items() if now - at < FOREIGN_FOR} | {instance: now}
        return machine
