"""Short ways to say what a check of the mesh found. Not responsible for any check."""

from collections.abc import Iterable

from lamplighter.core.findings import Finding, Verdict


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
