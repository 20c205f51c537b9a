"""What the pretended AWS knows beside moto: its clock, what happens next, who is told, how quick it is. One per process, as moto's own state is.

Not responsible for any service: each has its own file here, whose functions take the place of moto's and ask `current()`.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lamplighter.testing.aws.capacity import Capacity

DONE = {"Successful", "Failed", "Cancelled"}
_TICK = 0.2


@dataclass
class Pace:
    """How long the emulated AWS takes, in seconds of its clock; real ones are tens of times slower."""

    launch: float = 0.05
    """From a raised desired capacity to an instance that exists."""
    pending: float = 0.05
    """From there to `running`."""
    shutdown: float = 0.05
    """From a termination that was asked for to `terminated`."""
    health: float = 0.3
    """Until a group notices that an instance ended by itself."""
    retry: float = 1.0
    """Until a group tries again what failed."""
    forget: float = 3600.0
    """How long a terminated instance stays visible."""


class Clock:
    """Real time that can be moved forward."""

    def __init__(self) -> None:
        self.offset = 0.0

    def time(self) -> float:
        """Unix seconds as the emulated AWS has them."""
        return time.time() + self.offset


@dataclass
class Record:
    """What we know of one instance beside what moto knows. `notice`: Unix seconds at which it is taken."""

    instance: Any
    region: str
    market: str
    group: str | None = None
    notice: float | None = None
    rebalance: float | None = None
    interrupted: bool = False
    """It is ended by AWS, not by anybody's wish."""
    ended_by: str = ""
    role: Any = None
    credentials: dict[str, str] = field(default_factory=dict)


class World:
    """One emulated AWS. Everything that changes it holds `lock`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = Clock()
        self.pace = Pace()
        self.capacity = Capacity()
        self.appeared: list[Callable[[str], None]] = []
        """Told of each instance that is running."""
        self.vanished: list[Callable[[str], None]] = []
        """Told of each instance as soon as it stops: its operating system is gone."""
        self.clear()

    def clear(self) -> None:
        """Forget everything but who is told."""
        with self.lock:
            self.records: dict[str, Record] = {}
            self.activities: dict[tuple[str, str], list[dict[str, Any]]] = {}
            self.actions: dict[tuple[str, str, str], Any] = {}
            self.budget_tags: dict[str, list[dict[str, str]]] = {}
            self.quotas: dict[str, float] = {}
            """Values of quotas, by code, where they are not the usual ones."""
            self.denied: list[str] = []
            """What a node's credentials were refused, for tests to look at."""
            self.calls: list[str] = []
            """What people (the keeper) asked for, such as `autoscaling:SetDesiredCapacity`, in order."""
            self.history: list[tuple[float, str, str]] = []
            """When what happened to which group or instance: `desired N` of a group, an instance's states."""
            self.keeper_policy: dict[str, Any] | None = None
            """What people may do; None: everything."""
            self.cut_off = False
            """Whether people reach AWS no more: home's internet is down, or the keeper is dead. Nodes still do."""
            self.cut_after: tuple[str, int] | None = None
            """After so many of such calls it is cut off."""
            self._due: list[tuple[float, int, Callable[[], None]]] = []
            self._order = itertools.count()
            self.capacity.clear()

    def now(self) -> float:
        """Unix seconds."""
        return self.clock.time()

    def moment(self) -> datetime:
        """The same as a datetime."""
        return datetime.fromtimestamp(self.now(), UTC)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` in `seconds`, with the lock held."""
        self.at(self.now() + seconds, act)

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Call `act` at `moment`, with the lock held."""
        with self.lock:
            heapq.heappush(self._due, (moment, next(self._order), act))

    def tick(self) -> float:
        """Do what is due; how many seconds until something else is."""
        with self.lock:
            while self._due and self._due[0][0] <= self.now():
                heapq.heappop(self._due)[2]()
            return min(_TICK, max(0.0, self._due[0][0] - self.now())) if self._due else _TICK

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once: everything that becomes due happens in its order, at its own time."""
        with self.lock:
            end = self.now() + seconds
            while self._due and self._due[0][0] <= end:
                self.clock.offset += max(0.0, self._due[0][0] - self.now())
                self.tick()
            self.clock.offset += max(0.0, end - self.now())
            self.tick()

    def tell(self, listeners: list[Callable[[str], None]], instance: str) -> None:
        """Tell `listeners` of an instance, outside of the lock's owner's work."""
        for listener in listeners:
            listener(instance)


_world = World()


def current() -> World:
    """The only one."""
    return _world
