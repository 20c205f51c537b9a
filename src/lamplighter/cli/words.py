"""How times, sizes and states read in a terminal. Pure functions."""

from typing import Any


def span(seconds: float) -> str:
    """`4:10` for a countdown or an elapsed time, `1:02:03` from an hour on."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def ago(seconds: float) -> str:
    """How long since something was, in the largest unit that fits."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(seconds // size)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def ahead(seconds: float) -> str:
    """How long until something, in the largest unit that fits."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(seconds // size)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{max(0, round(seconds))} seconds"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and downloads are sold."""
    for unit in ("TB", "GB", "MB", "KB"):
        factor = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "KB": 1e3}[unit]
        if count >= factor:
            return f"{count / factor:.{0 if count / factor >= 100 else 1}f} {unit}"
    return f"{int(count)} B"


def doing(model: dict[str, Any], now: float) -> str:
    """What a model (a ModelStatus of the control API) is doing, in a few words: `waking: load 40 %, about 0:03 more`."""
    state = model["state"]
    if state == "waking":
        return _waking(model["wake"], now)
    if state == "failed" and model["failure"]:
        failure = model["failure"]
        again = failure.get("retry_at")
        return f"failed: {failure['message']}" + (f" Tries again in {span(again - now)}." if again and again > now else "")
    if state == "awake":
        if model["always_on"]:
            return "always on"
        busy = model["in_flight"] + model["queued"]
        if busy:
            return f"awake: {busy} request{'s' if busy > 1 else ''}"
        return f"awake, sleeps in {span(model['sleeping_at'] - now)}" if model["sleeping_at"] else "awake"
    return str(state)


def circuits(status: dict[str, Any]) -> list[str]:
    """A sentence for each endpoint that a Status of the control API calls failing: the gateway does not ask it for now."""
    lines = []
    for pool in status["pools"]:
        for replica in pool["replicas"]:
            circuit = replica.get("breaker")
            if not circuit or circuit["state"] == "closed":
                continue
            left = (circuit["retry_at"] or 0.0) - status["now"]
            again = f"tried again in {span(left)}" if circuit["state"] == "open" and left > 0 else "being tried again"
            lines.append(
                f"{replica['id']} in pool {pool['name']} ({', '.join(replica['models'])}) has been failing for "
                f"{span(status['now'] - circuit['since'])}: {circuit['reason'] or 'unknown'}; {again}."
            )
    return lines


def _waking(wake: dict[str, Any] | None, now: float) -> str:
    if wake is None:
        return "waking"
    current = next((stage for stage in wake["stages"] if stage["started_at"] and not stage["ended_at"]), None)
    text = "waking" if current is None else f"waking: {current['name']}"
    if current and current["progress"] is not None:
        text += f" {current['progress']:.0%}"
    eta = wake["eta"]["p50"] if wake["eta"] else None
    if eta is not None and eta > now - wake["started_at"]:
        return f"{text}, about {span(eta - (now - wake['started_at']))} more"
    return f"{text}, for {span(now - wake['started_at'])}"
