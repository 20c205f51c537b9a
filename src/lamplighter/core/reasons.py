"""Why something happened, as enums with exhaustive maps. A reason is not a state: it rides along with one.

`VERDICTS` is the single place that says, for each way a wake can fail: try again? fall back? what to tell the person, which HTTP status.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class WakeFailure(StrEnum):
    """The ways in which a wake fails."""

    NO_CAPACITY = "no_capacity"
    QUOTA = "quota"
    BAD_IMAGE = "bad_image"
    OUT_OF_MEMORY = "out_of_memory"
    MESH_TIMEOUT = "mesh_timeout"
    FEDERATION_FAILED = "federation_failed"
    BOOT_DEADLINE = "boot_deadline"
    BUDGET = "budget"
    GATED_MODEL = "gated_model"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_CORRUPT = "model_corrupt"
    DOWNLOAD_FAILED = "download_failed"
    DISK_FULL = "disk_full"
    ENGINE_MISSING = "engine_missing"
    ENGINE_CRASHED = "engine_crashed"
    ENGINE_REFUSED = "engine_refused"
    UNREACHABLE = "unreachable"
    PROVIDER_ERROR = "provider_error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failed wake."""

    retry: bool
    """The keeper tries again by itself, after a backoff, while somebody still asks."""
    fall_back: bool
    """Another way to the same capacity (on-demand, another zone) may be tried at once."""
    status: int
    """HTTP status for those who waited."""
    message: str
    """One sentence for a person."""
    next_step: str
    """What that person can do."""


VERDICTS: Mapping[WakeFailure, Verdict] = {
    WakeFailure.NO_CAPACITY: Verdict(
        True, True, 503, "There is no free machine of the wanted kind at the moment.", "Wait, or allow on-demand machines or another zone."
    ),
    WakeFailure.QUOTA: Verdict(False, True, 503, "The account's quota does not allow another machine.", "Ask the provider for a higher quota."),
    WakeFailure.BAD_IMAGE: Verdict(False, False, 503, "The engine's image cannot be used.", "Check the image's name and its credentials."),
    WakeFailure.OUT_OF_MEMORY: Verdict(
        False, False, 503, "The model does not fit into memory.", "Use a smaller model, fewer slots or a shorter context, or a larger machine."
    ),
    WakeFailure.MESH_TIMEOUT: Verdict(True, False, 503, "The machine booted but did not join the mesh in time.", "Run `lamplighter doctor`."),
    WakeFailure.FEDERATION_FAILED: Verdict(
        False, False, 503, "The machine could not join the cluster.", "See the detail, and run `lamplighter federation status`."
    ),
    WakeFailure.BOOT_DEADLINE: Verdict(
        True, False, 503, "The model was not ready before its boot deadline.", "Raise the pool's boot_deadline, or read the engine's log."
    ),
    WakeFailure.BUDGET: Verdict(False, False, 402, "The budget does not allow this wake.", "Raise the budget, or wait for its next period."),
    WakeFailure.GATED_MODEL: Verdict(
        False, False, 503, "The model's owner asks for a licence to be accepted first.", "Accept it on the hub and set HF_TOKEN, or use another model."
    ),
    WakeFailure.MODEL_NOT_FOUND: Verdict(False, False, 503, "The model's source does not exist.", "Correct the model's `source`."),
    WakeFailure.MODEL_CORRUPT: Verdict(
        False, False, 503, "The model's file is damaged or not a model.", "Delete it and pull it again: `lamplighter models pull NAME --force`."
    ),
    WakeFailure.DOWNLOAD_FAILED: Verdict(
        True, False, 503, "The model could not be downloaded.", "Check the network; the download resumes where it stopped."
    ),
    WakeFailure.DISK_FULL: Verdict(
        False, False, 503, "The disk has no room for the model.", "Free some space, or point --data at a larger disk."
    ),
    WakeFailure.ENGINE_MISSING: Verdict(
        False, False, 503, "The engine cannot run on this machine.", "Run `lamplighter doctor`: it names what is missing."
    ),
    WakeFailure.ENGINE_CRASHED: Verdict(True, False, 503, "The engine ended while it was starting.", "Read its log: `lamplighter doctor` says where."),
    WakeFailure.ENGINE_REFUSED: Verdict(
        False, False, 503, "The engine does not accept its settings.", "Correct the model's `arguments`; the engine's log says more."
    ),
    WakeFailure.UNREACHABLE: Verdict(True, False, 503, "The server behind this model does not answer.", "Check that it runs and that its URL is right."),
    WakeFailure.PROVIDER_ERROR: Verdict(True, False, 503, "The provider refused or failed.", "See the detail, and run `lamplighter doctor`."),
}  # fmt: skip


class LossReason(StrEnum):
    """Why a replica vanished without our asking."""

    CRASHED = "crashed"
    """Its process ended."""
    VANISHED = "vanished"
    """The provider no longer knows it."""
    SPOT_RECLAIMED = "spot_reclaimed"


class StopReason(StrEnum):
    """Why we ended a replica."""

    IDLE = "idle"
    SWAP = "swap"
    SCALE_DOWN = "scale_down"
    ASKED = "asked"
    UNOWNED = "unowned"
    """No pool or model of the configuration owns it any more."""
    SHUTDOWN = "shutdown"
    FAILED = "failed"
    DEADLINE = "deadline"
    """The drain's own limit ran out."""
    RECLAIMED = "reclaimed"
    """The provider announced that it takes it back; it is replaced while it still answers."""
    BUDGET_SPENT = "budget_spent"
    """The pool's budget is used up."""


class HealthReason(StrEnum):
    """Why a serving replica is judged unwell, or well again."""

    HUNG = "hung"
    """Its process lives but does not answer."""
    NO_ANSWER = "no_answer"
    ANSWERED = "answered"


Reason = WakeFailure | LossReason | StopReason | HealthReason

_BY_TEXT: Mapping[str, Reason] = {
    reason.value: reason for kind in (WakeFailure, LossReason, StopReason, HealthReason) for reason in kind
}


def parse_reason(text: str | None) -> Reason | None:
    """The reason behind its stored text. Raises ValueError for a text that no enum knows."""
    if text is None:
        return None
    try:
        return _BY_TEXT[text]
    except KeyError:
        raise ValueError(f"unknown reason {text!r}") from None
