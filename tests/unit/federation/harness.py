"""Two pretended clusters with a pretended Liqo between them, and how to join and part them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from lamplighter.core.clock import SystemClock
from lamplighter.federation import names
from lamplighter.federation.peering import PeerSpec, PeerStatus, Retreat, advance, retreat
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.testing.kubernetes import FakeCluster
from lamplighter.testing.liqo import FakeLiqo

NODE = "10.77.0.20"


class Late(SystemClock):
    """The system's clock, so many seconds on: ages of objects are told by it."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def time(self) -> float:
        return super().time() + self.seconds


@dataclass
class Pair:
    """`home` and `gpu` are our clients; `at_home` and `at_gpu` the clusters themselves, past their API."""

    at_home: FakeCluster
    at_gpu: FakeCluster
    home: Cluster
    gpu: Cluster
    liqo: FakeLiqo
    spec: PeerSpec
    clock: Late = field(default_factory=Late)

    async def advance(self, **changed: object) -> PeerStatus:
        return await advance(self.home, self.gpu, replace(self.spec, **changed), clock=self.clock)  # type: ignore[arg-type]

    async def join(self, rounds: int = 25, **changed: object) -> PeerStatus:
        """Until it is ready, has failed, or the rounds are over."""
        status = await self.advance(**changed)
        for _ in range(rounds):
            if status.ready or status.state == "failed":
                break
            await self.liqo.step()
            status = await self.advance(**changed)
        return status

    async def retreat(self, *, planned: bool = True, remote: bool = True) -> Retreat:
        gpu = self.gpu if remote else None
        return await retreat(self.home, gpu, self.spec.cluster_id, planned, home_id=self.spec.home_id, clock=self.clock)

    async def part(self, rounds: int = 25, *, planned: bool = True, remote: bool = True) -> Retreat:
        done = await self.retreat(planned=planned, remote=remote)
        for _ in range(rounds):
            if done.done:
                break
            await self.liqo.step()
            done = await self.retreat(planned=planned, remote=remote)
        return done

    def leftovers(self, cluster: FakeCluster, peer: str) -> list[str]:
        """What is there of a peering, of any kind."""
        found = []
        for kind in cluster.kinds.all():
            for one in cluster.all(kind.kind):
                meta = one["metadata"]
                if (
                    (meta.get("labels") or {}).get(names.REMOTE_ID) == peer
                    or peer in meta["name"]
                    or meta.get("namespace") == f"liqo-tenant-{peer}"
                ):
                    found.append(f"{kind.kind} {meta['name']}")
        return sorted(found)

    def client(self, cluster: FakeCluster) -> Cluster:
        return Cluster.connect(cluster.access())


@contextmanager
def clusters() -> Iterator[tuple[FakeCluster, FakeCluster]]:
    with FakeCluster(name="home") as home, FakeCluster(name="gpu") as gpu:
        yield home, gpu


class Killed(Exception):
    """The process dies here."""


class Dying(Cluster):
    """A client whose process dies at the given moments: before a request is sent, or after it was, without hearing the answer."""

    mortal: "Fate"

    async def _send(self, method: str, *rest: object, **named: object) -> object:  # type: ignore[override]
        self.mortal.meet(method, sent=False)
        answer = await super()._send(method, *rest, **named)  # type: ignore[arg-type]
        self.mortal.meet(method, sent=True)
        return answer


class Fate:
    """After so many writes it is over."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def meet(self, method: str, *, sent: bool) -> None:
        if method != "GET" and sent:
            self.left -= 1
        if self.left <= 0:
            raise Killed


class Luck(Fate):
    """Any moment may be the last."""

    def __init__(self, dice: random.Random, chance: float) -> None:
        super().__init__(1)
        self.dice, self.chance = dice, chance

    def meet(self, method: str, *, sent: bool) -> None:
        if self.dice.random() < self.chance:
            raise Killed


def dying(pair: Pair, fate: Fate) -> tuple[Dying, Dying]:
    """Both clients, of one process that `fate` ends."""
    made = [Dying.connect(cluster.access()) for cluster in (pair.at_home, pair.at_gpu)]
    for one in made:
        one.mortal = fate
    return made[0], made[1]
