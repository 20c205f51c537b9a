"""A pretended Liqo for several clusters: its controllers as clients of their API servers, pretended or real. See the package for what it is not.

`step` is one round of everything, for tests that want to see each; `running` does rounds in the background.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.testing.liqo import access, pods, slices, tunnels
from lamplighter.testing.liqo.member import Member

_OUR_FAULT = (400, 415, 422)
"""What an API server answers to what no controller of Liqo's would write: a defect of this pretence."""


class FakeLiqo:
    """`not_ready_after`: seconds until a lost cluster's virtual node is NotReady (Kubernetes takes 40). `schedules`: place pods here.

    A member's `faults`: `nonce-missing`, `nonce-unsigned`, `identity-pending`, `configuring`, `gateway-pod`, `slice-denied`,
    `slice-reduced`, `slice-unanswered`, `node-pending`, `node-not-ready`.
    """

    def __init__(self, *, not_ready_after: float = 40.0, schedules: bool = True, clock: Clock | None = None) -> None:
        self.members: dict[str, Member] = {}
        self.not_ready_after = not_ready_after
        self.schedules = schedules
        self._clock = clock or SystemClock()
        self._cut: set[frozenset[str]] = set()
        self._lost_at: dict[str, float] = {}

    async def add(self, member_id: str, cluster: Cluster, *, install: bool = True, **facts: object) -> Member:
        """A cluster takes part. `cluster`: a client for Liqo's own use in it. `facts`: fields of Member."""
        member = Member(cluster, member_id, **facts)  # type: ignore[arg-type] # the dataclass checks the names
        if install:
            await member.install()
        self.members[member_id] = member
        self._lost_at.pop(member_id, None)
        return member

    def remove(self, member_id: str) -> None:
        """It takes part no more, and nobody asks after it."""
        self.members.pop(member_id, None)

    def lose(self, member_id: str) -> None:
        """Its machine is gone this instant, with its API server, its pods and its end of the tunnel."""
        self.members[member_id].lost = True
        self._lost_at[member_id] = self._clock.monotonic()

    def cut(self, one: str, other: str) -> None:
        """No packet passes between the two."""
        self._cut.add(frozenset((one, other)))

    def mend(self, one: str, other: str) -> None:
        """Packets pass again."""
        self._cut.discard(frozenset((one, other)))

    def reaches(self, one: Member, other: Member) -> bool:
        """Whether packets pass."""
        return frozenset((one.id, other.id)) not in self._cut

    def noticed(self, member: Member) -> bool:
        """Whether Kubernetes has noticed by now that this cluster's node tells nothing any more."""
        began = self._lost_at.get(member.id)
        return began is None or self._clock.monotonic() - began >= self.not_ready_after

    async def drain(self, member: Member, node: str, lost: bool) -> bool:
        """End a node's pods; whether some are left."""
        return await pods.drain(member, node, lost)

    async def step(self) -> None:
        """One round of every controller of every cluster that is there."""
        for member in list(self.members.values()):
            if not member.lost and not member.down:
                for module in (access, tunnels, slices, pods):
                    for one in self.members.values():
                        one.refresh()
                    await module.reconcile(self, member)

    async def settle(self, rounds: int = 12) -> None:
        """Rounds enough for everything that does not wait for somebody else."""
        for _ in range(rounds):
            await self.step()

    @asynccontextmanager
    async def running(self, every: float = 0.05) -> AsyncGenerator["FakeLiqo"]:
        """Rounds in the background, until the end. An API server that does not answer is asked again."""

        async def rounds() -> None:
            while True:
                try:
                    await self.step()
                except KubernetesError as error:
                    if error.status in _OUR_FAULT:
                        raise
                await asyncio.sleep(every)

        task = asyncio.create_task(rounds(), name="fake-liqo")
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
