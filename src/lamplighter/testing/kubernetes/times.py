"""Moments as Kubernetes writes them."""

from datetime import UTC, datetime


def now_text(*, micro: bool = False) -> str:
    """Now, in UTC: to the second, or to the microsecond as Leases have it."""
    now = datetime.now(UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


__all__ = ["now_text"]
