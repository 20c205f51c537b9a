"""What a check of the mesh found, as sentences with what to do. Not responsible for any check."""

from collections.abc import Iterable
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
    """One check's result."""

    name: str
    verdict: Verdict
    message: str
    next_step: str = ""


def ok(name: str, message: str) -> Finding:
    """It is well."""
    return Finding(name, Verdict.OK, message)


def unknown(name: str, message: str, next_step: str = "") -> Finding:
    """It cannot be told."""
    return Finding(name, Verdict.UNKNOWN, message, next_step)


def warn(name: str, message: str, next_step: str) -> Finding:
    """It works, and will not always."""
    return Finding(name, Verdict.WARN, message, next_step)


def fail(name: str, message: str, next_step: str) -> Finding:
    """It does not work."""
    return Finding(name, Verdict.FAIL, message, next_step)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any of them failed."""
    return any(finding.verdict is Verdict.FAIL for finding in findings)


__all__ = ["Finding", "Verdict", "fail", "failed", "ok", "unknown", "warn"]
