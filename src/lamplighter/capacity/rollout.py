"""What becomes of a rollout: a pure function of its row, what was seen of both targets, and the time. No I/O, no logging.

The comparisons (docs/decisions/0020-rollouts.md says why these): shares of failures by the lower end of Wilson's interval, times to the first
token by the order statistics around the median and the 90th percentile. Both ask for what is clear at 95 %, one-sided; what is not clear
waits for more requests, for a bounded time. Not responsible for gathering what was seen, nor for writing (`capacity.rollouts`).
"""

import math
from dataclasses import dataclass, field
from enum import Enum, auto

from lamplighter.core.rollouts import Because, Order, Phase
from lamplighter.store.outcomes import Seen
from lamplighter.store.rollouts import Rollout

Z = 1.645
"""Standard deviations: 95 % of a normal distribution lie below."""
FEW_FAILURES = 3
"""So many failures are judged although there are fewer requests than samples: who fails each time shall not be asked twenty times."""
FLOOR = 0.05
"""Seconds by which a first token may always come later: nobody feels them, and a ratio of two small times says little."""
PATIENCE = 3.0
"""Times a step's length after which too little traffic, or an unclear picture, is no reason to wait any longer."""
P = Phase


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer check's newest result. `at`: when it began, Unix seconds."""

    at: float
    passed: bool
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a rollout now. `stable`, `candidate`: what gateways saw; `candidate` in the current step alone.

    `elsewhere`: the stable target's requests in the current step. `ready`: the candidate's replicas that can be asked; `wanted`: how many there
    should be for its share; `room`: why there cannot be so many (None: there can). `unready_for`: seconds since there was one, once it served.
    `hopeless`: why the candidate will never wake. `patience`: seconds that its wake may take. `gone`: a target is not there any more.
    `changed`: the file says something new of the model.
    """

    ready: int = 0
    wanted: int = 1
    room: str | None = None
    unready_for: float = 0.0
    hopeless: str | None = None
    patience: float = 900.0
    checked: Checked | None = None
    stable: Seen = field(default_factory=Seen)
    candidate: Seen = field(default_factory=Seen)
    elsewhere: int = 0
    gone: str | None = None
    changed: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. `phase` None: nothing is to be written. `check`: ask the candidate the questions of the answer check now."""

    phase: Phase | None = None
    step: int | None = None
    reason: Because | None = None
    detail: str | None = None
    check: bool = False


STAY = Decision()


class Verdict(Enum):
    """What one comparison says of the candidate."""

    GOOD = auto()
    BAD = auto()
    UNCLEAR = auto()
    """It looks worse, but that may be chance."""
    BOTH = auto()
    """It fails too often, and so does the stable target."""


def decide(rollout: Rollout, seen: Observed, now: float) -> Decision:
    """The next move. Asking again with its outcome gives nothing new until something is seen or time has passed."""
    if rollout.asked is Order.ROLLBACK and rollout.phase is not P.ROLLED_BACK:
        return _back(Because.ASKED, None)
    if rollout.phase.ended:
        return STAY
    if seen.changed is not None:
        return _back(Because.FILE_CHANGED, seen.changed)
    if seen.gone is not None:
        return _back(Because.GONE, seen.gone)
    if now >= rollout.created_at + rollout.settings.within:
        return _back(
            Because.DEADLINE, f"it was not done within {rollout.settings.within:.0f} s, the last phase was {rollout.phase}"
        )
    if rollout.asked is Order.PROMOTE and seen.ready and rollout.step >= 0:
        return Decision(P.PROMOTED, reason=Because.ASKED)
    if rollout.asked is Order.PAUSE and rollout.phase is not P.PAUSED:
        return Decision(P.PAUSED, reason=Because.ASKED)
    if rollout.asked is Order.RESUME and rollout.phase is P.PAUSED:
        return Decision(P.SERVING if rollout.step >= 0 else P.WAKING, reason=Because.ASKED)
    if seen.hopeless is not None and not seen.ready:
        return _back(Because.WAKE_FAILED, seen.hopeless)
    match rollout.phase:
        case P.WAKING:
            return _waking(rollout, seen, now)
        case P.CHECKING:
            return _checking(rollout, seen)
        case _:
            return _serving(rollout, seen, now)


def _waking(rollout: Rollout, seen: Observed, now: float) -> Decision:
    if seen.ready >= seen.wanted:
        return Decision(P.CHECKING, reason=Because.AWAKE, detail=seen.room)
    if seen.ready and (seen.room is not None or now - rollout.since >= seen.patience):
        return Decision(
            P.CHECKING, reason=Because.AWAKE, detail=f"{seen.ready} of {seen.wanted} replicas: {seen.room or 'it took too long'}"
        )
    if now - rollout.since >= seen.patience:
        why = seen.room or "its wake took too long"
        return _back(Because.NOT_AWAKE, f"not awake after {now - rollout.since:.0f} s: {why}")
    return STAY


def _checking(rollout: Rollout, seen: Observed) -> Decision:
    if not seen.ready:
        return Decision(P.WAKING, reason=Because.ASLEEP_AGAIN)
    checked = seen.checked
    if checked is None or checked.at < rollout.since:
        return Decision(check=True)
    if not checked.passed:
        return _back(Because.CHECK_FAILED, checked.detail)
    return Decision(P.SERVING, step=0, reason=Because.CHECKED)


def _serving(rollout: Rollout, seen: Observed, now: float) -> Decision:
    """Also while paused: what is bad is rolled back whether the clock stands or not."""
    settings = rollout.settings
    if rollout.step < 0:
        return STAY  # paused before anybody was sent there
    errors = failures(seen.candidate, seen.stable, allowed=settings.max_errors, samples=settings.samples)
    if errors is Verdict.BAD:
        return _back(Because.ERRORS, _shares(seen))
    if slowness(seen.candidate, seen.stable, ratio=settings.max_ttft_ratio, samples=settings.samples) is Verdict.BAD:
        return _back(Because.SLOW, _times(seen))
    if not seen.ready and seen.unready_for >= seen.patience:
        return _back(
            Because.NOT_AWAKE, f"it has not been awake for {seen.unready_for:.0f} s: {seen.room or 'its wake takes too long'}"
        )
    if rollout.phase is P.PAUSED or not seen.ready:
        return STAY
    lasted, length = now - rollout.since, settings.lasts(rollout.step)
    if lasted < length:
        return STAY
    impatient = lasted >= PATIENCE * length
    if errors is not Verdict.GOOD:  # unclear, or both fail
        return _back(Because.UNDECIDED, _shares(seen)) if impatient else STAY
    quiet = seen.candidate.requests < settings.samples
    if quiet and not impatient and not rollout.last_step and (seen.candidate.requests or seen.elsewhere):
        return STAY  # somebody asks: a little later there is something to compare
    checked = seen.checked
    if checked is None or checked.at < rollout.since + length:
        return Decision(check=True)
    if not checked.passed:
        return _back(Because.CHECK_FAILED, checked.detail)
    reason, detail = (Because.QUIET, f"{seen.candidate.requests} requests") if quiet else (Because.STEP_PASSED, _shares(seen))
    if rollout.last_step:
        return Decision(P.PROMOTED, reason=reason, detail=detail)
    return Decision(P.SERVING, step=rollout.step + 1, reason=reason, detail=detail)


def _back(reason: Because, detail: str | None) -> Decision:
    return Decision(P.ROLLED_BACK, reason=reason, detail=detail)


# -- comparing


def failures(candidate: Seen, stable: Seen, *, allowed: float, samples: int) -> Verdict:
    """Whether the candidate fails clearly more often than the stable target does, and than `allowed` beside that."""
    if not candidate.failed:
        return Verdict.GOOD
    usual = stable.failed / stable.requests if stable.requests >= samples else 0.0
    if candidate.requests < samples and candidate.failed < FEW_FAILURES:
        return Verdict.UNCLEAR
    least = wilson_lower(candidate.failed, candidate.requests)
    if least > usual + allowed:
        return Verdict.BAD
    if least > allowed:
        return Verdict.BOTH
    return Verdict.GOOD if candidate.failed / candidate.requests <= usual + allowed else Verdict.UNCLEAR


def slowness(candidate: Seen, stable: Seen, *, ratio: float, samples: int) -> Verdict:
    """Whether the candidate's first token comes clearly later: its median, or its 90th percentile, by more than `ratio` and `FLOOR`."""
    if candidate.first_tokens.total() < samples or stable.first_tokens.total() < samples:
        return Verdict.GOOD  # nothing to compare, or nothing to compare it with
    for share in (0.5, 0.9):
        least, most = candidate.quantile(share, -Z)[0], stable.quantile(share, Z)[1]
        if least > most * ratio and least > most + FLOOR:
            return Verdict.BAD
    return Verdict.GOOD


def wilson_lower(failed: int, requests: int) -> float:
    """The share of failures that is exceeded with 95 % confidence (Wilson 1927), between 0 and the share that was seen."""
    if requests <= 0 or failed <= 0:
        return 0.0
    share, z2 = failed / requests, Z * Z
    middle = share + z2 / (2 * requests)
    spread = Z * math.sqrt(share * (1 - share) / requests + z2 / (4 * requests * requests))
    return max(0.0, (middle - spread) / (1 + z2 / requests))


def _shares(seen: Observed) -> str:
    candidate, stable = (f"{side.failed} of {side.requests}" for side in (seen.candidate, seen.stable))
    return f"{candidate} requests failed, of the stable target {stable}"


def _times(seen: Observed) -> str:
    def words(side: Seen) -> str:
        half, most = (side.quantile(share)[1] for share in (0.5, 0.9))
        return f"{half:.3g} s (p50), {most:.3g} s (p90)"

    return f"first token after {words(seen.candidate)}, of the stable target {words(seen.stable)}"
