"""How fast the count of one model's replicas may follow its demand: down late, up after a moment, a batch at a time. Pure values.

As the stabilisation windows of Kubernetes' HorizontalPodAutoscaler. Not responsible for the counts themselves: that is `plan`.
"""

from dataclasses import dataclass

from lamplighter.capacity.plan import Policy


@dataclass(frozen=True, slots=True)
class Window:
    """The greatest count needed within a sliding window, as a value: what stabilises scaling down (as in Kubernetes' autoscaler)."""

    samples: tuple[tuple[float, int], ...] = ()
    """(Unix seconds, needed), the needed strictly falling with time."""

    def note(self, needed: int, now: float, span: float) -> "Window":
        """With one more sample; those older than `span` seconds are forgotten."""
        kept = tuple((at, count) for at, count in self.samples if at > now - span and count > needed)
        return Window((*kept, (now, needed)))

    @property
    def most(self) -> int:
        """0 when nothing was noted."""
        return self.samples[0][1] if self.samples else 0


@dataclass(frozen=True, slots=True)
class Trough:
    """The least count needed all through a sliding window: what stabilises scaling up. A sample counts until the next one."""

    samples: tuple[tuple[float, int], ...] = ()
    """(Unix seconds, the least that was needed from then on), strictly rising with time; the first also stands for all before it."""

    def note(self, needed: int, now: float, span: float) -> "Trough":
        """With one more sample; those that no longer count, `span` seconds long, are forgotten."""
        smaller = tuple(sample for sample in self.samples if sample[1] < needed)
        enough = self.samples[len(smaller) :]  # so much was needed since the first of these
        kept = (*smaller, (enough[0][0] if enough else now, needed))
        while len(kept) > 1 and kept[1][0] <= now - span:
            kept = kept[1:]
        return Trough(kept)

    @property
    def least(self) -> int:
        """0 when nothing was noted."""
        return self.samples[0][1] if self.samples else 0

    def rises_at(self, span: float) -> float | None:
        """When the least count rises if nothing new is noted (Unix seconds); None when it will not."""
        return self.samples[1][0] + span if len(self.samples) > 1 else None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the count of one model's replicas may follow its demand, as a value: down late, up after a moment, a batch at a time."""

    high: Window = Window()
    low: Trough = Trough()

    @classmethod
    def begin(cls, present: int, now: float, policy: Policy) -> "Pace":
        """What was needed before is not known: the present count stands for it."""
        return cls(Window().note(present, now, policy.scale_down_after), Trough(((now, present),)))

    def note(self, needed: int, now: float, policy: Policy) -> "Pace":
        """With what is needed now."""
        return Pace(self.high.note(needed, now, policy.scale_down_after), self.low.note(needed, now, policy.scale_up_after))

    def launched(self, present: int, now: float) -> "Pace":
        """After a batch was launched: `present` replicas now. The next batch must be needed anew for the whole window."""
        return Pace(self.high, Trough(((now, present),)))
