"""What an examination finds. Not responsible for examining (`doctor`, `cloud.examine`) nor for showing it."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result: a sentence, and what to do when it is not well."""

    name: str
    verdict: Verdict
    message: str
    next_step: str = ""
