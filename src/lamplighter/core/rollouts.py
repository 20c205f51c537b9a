"""The change of what serves a name, as data: its phases, the legal transitions, why it moves, and what people may order.

Writing a phase is `store.rollouts.advance`'s job alone; deciding the next one is `capacity.rollout.decide`'s.
"""

from collections.abc import Mapping
from enum import StrEnum

WHOLE = 10_000
"""All requests of a name. Weights are counted in hundredths of a percent."""
REVISION_MARK = "@"
"""Between a model's name and its revision in the name of a target. No configured name may contain it."""


class Phase(StrEnum):
    """Where a rollout stands."""

    WAKING = "waking"
    """The candidate is woken; nobody is sent there."""
    CHECKING = "checking"
    """It is awake, and asked the questions of the answer check; nobody is sent there."""
    SERVING = "serving"
    """It gets its step's share of the name's requests."""
    PAUSED = "paused"
    """A person stopped the clock: the share stays as it is. A candidate that proves bad is rolled back all the same."""
    PROMOTED = "promoted"
    """It serves the name from now on."""
    ROLLED_BACK = "rolled_back"
    """The stable target serves the name, as before."""

    @property
    def ended(self) -> bool:
        """Whether nothing is decided any more."""
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK)


P = Phase

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    P.WAKING: frozenset({P.CHECKING, P.PAUSED, P.ROLLED_BACK}),
    P.CHECKING: frozenset({P.WAKING, P.SERVING, P.PAUSED, P.ROLLED_BACK}),
    P.SERVING: frozenset({P.SERVING, P.PAUSED, P.PROMOTED, P.ROLLED_BACK}),
    P.PAUSED: frozenset({P.WAKING, P.SERVING, P.PROMOTED, P.ROLLED_BACK}),
    P.PROMOTED: frozenset({P.ROLLED_BACK}),
    P.ROLLED_BACK: frozenset(),
}
"""From `serving` to itself: the next step. From `promoted` to `rolled_back`: a person takes it back."""


class Order(StrEnum):
    """What a person may ask of a rollout."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"


class Strategy(StrEnum):
    """How the share of the candidate grows."""

    BLUE_GREEN = "blue-green"
    """All at once, after the check."""
    CANARY = "canary"
    """By steps."""


class Because(StrEnum):
    """Why a rollout moved."""

    AWAKE = "awake"
    """The candidate is ready."""
    CHECKED = "checked"
    """Its answers to the check are right."""
    STEP_PASSED = "step_passed"
    """It did no worse than the stable target for the length of the step."""
    QUIET = "quiet"
    """Nobody, or hardly anybody, asked: the check alone decided."""
    ASKED = "asked"
    """A person asked for it."""
    WAKE_FAILED = "wake_failed"
    """The candidate cannot be woken."""
    NOT_AWAKE = "not_awake"
    """The candidate was not awake in time, or not for too long."""
    CHECK_FAILED = "check_failed"
    """Its answer to the check is wrong."""
    ERRORS = "errors"
    """It fails clearly more often than the stable target."""
    SLOW = "slow"
    """Its first token comes clearly later than the stable target's."""
    UNDECIDED = "undecided"
    """What was seen neither acquits nor condemns it, for too long; or both targets fail."""
    DEADLINE = "deadline"
    """The rollout as a whole took too long."""
    ASLEEP_AGAIN = "asleep_again"
    """The candidate is not ready any more."""
    GONE = "gone"
    """One of the targets is not there any more."""
    FILE_CHANGED = "file_changed"
    """The configuration file says something new about the model: the file wins."""


def legal(current: Phase, target: Phase) -> bool:
    """Whether `target` may follow `current`."""
    return target in TRANSITIONS[current]


def target_name(model: str, revision: str) -> str:
    """The name of the target that is `model` at another `revision`."""
    return f"{model}{REVISION_MARK}{revision}"


def base(target: str) -> str:
    """The model behind a target: itself, or the one whose revision it is."""
    return target.partition(REVISION_MARK)[0]
