"""What holds a pod up: the value that everything about reasons speaks of."""

from dataclasses import dataclass

from lamplighter.core.reasons import WakeFailure

FOREVER = float("inf")
AT_ONCE = 0.0
BRIEF = 10.0
"""Seconds for what somebody may be about to make: a Secret, a claim."""
A_WHILE = 60.0
LONG = 120.0


@dataclass(frozen=True, slots=True)
class Hindrance:
    """What holds a pod up. `patience`: seconds for which it may pass by itself; infinite: only the wake's own deadline ends the waiting."""

    failure: WakeFailure
    detail: str
    patience: float = AT_ONCE
