"""What an examination finds, as a sentence with what to do: the doctor's, the mesh's, a cluster's. Not responsible for examining, nor for showing it."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended. UNKNOWN: it could not be told from here, which is neither well nor wrong."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result: a sentence, and what to do when it is not well."""

    name: str
    verdict: Verdict
    message: str
    next_step: str = ""
