"""How pods turn out on a pretended node, as a test wants it. Not responsible for making it so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lamplighter.providers.kubernetes.kinds import Manifest

MODEL_NAME = "lamplighter.dev/model-name"


class Fault(StrEnum):
    """What goes wrong with a pod."""

    IMAGE_PULL = "image_pull"
    """Its image cannot be pulled: ErrImagePull, then ImagePullBackOff, with `message`."""
    OOM_KILLED = "oom_killed"
    """Its container is killed for memory, again and again."""
    CRASH = "crash"
    """Its container ends with status `exit` after the lines `logs`, again and again."""
    NEVER_READY = "never_ready"
    """It runs and never answers."""
    PRELOAD = "preload"
    """Its first init container ends with status `exit` after the lines `logs`, again and again."""
    REJECTED = "rejected"
    """The node refuses it after it was assigned: UnexpectedAdmissionError."""
    EVICTED = "evicted"
    """Once ready it is evicted, for a lack of disk."""


_MESSAGES = {
    Fault.IMAGE_PULL: "failed to pull and unpack image: failed to resolve reference: unexpected status from HEAD request: 403 Forbidden",
    Fault.REJECTED: "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu, which is unexpected",
    Fault.EVICTED: "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 8Gi.",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pod's life. Seconds of each step.

    `preload`: of its init containers; `load`: from the container's start until it listens; `after`: of a faulty container until it ends.
    `times`: for how many starts of its container the fault holds; None: for all. `logs`: what its container writes. `engine`: the pretended
    engine's behaviour (`testing.engine.Behaviour`). `drain`: whether on SIGTERM it finishes what it answers, within the grace.
    """

    fault: Fault | None = None
    message: str = ""
    pull: float = 0.02
    preload: float = 0.02
    load: float = 0.05
    after: float = 0.05
    exit: int = 1
    times: int | None = None
    logs: Sequence[str] = ()
    engine: Mapping[str, Any] = field(default_factory=dict)
    drain: bool = True

    def told(self) -> str:
        """The message of its fault."""
        return self.message or (_MESSAGES.get(self.fault, "") if self.fault else "")


class Outcomes:
    """Outcomes by model name or part of an image's name; `*` is for the others. May be changed at any time; it counts for pods from then on."""

    def __init__(self, outcomes: Mapping[str, Outcome] | None = None) -> None:
        self._outcomes = dict(outcomes or {})

    def __setitem__(self, key: str, outcome: Outcome) -> None:
        self._outcomes = {**self._outcomes, key: outcome}

    def __delitem__(self, key: str) -> None:
        self._outcomes = {one: outcome for one, outcome in self._outcomes.items() if one != key}

    def of(self, pod: Manifest) -> Outcome:
        """That of a pod."""
        model = (pod["metadata"].get("annotations") or {}).get(MODEL_NAME)
        images = " ".join(one["image"] for one in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]])
        for key, outcome in self._outcomes.items():
            if key == model or (key != "*" and key in images):
                return outcome
        return self._outcomes.get("*", Outcome())


__all__ = ["MODEL_NAME", "Fault", "Outcome", "Outcomes"]
