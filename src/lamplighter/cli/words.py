"""How times, sizes, money and states read in a terminal. Pure functions."""

from decimal import Decimal
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


def amount(text: str, currency: str) -> str:
    """An amount of money for people: `0.21 USD`; what is less than a tenth has one more digit."""
    value = Decimal(text)
    if 0 < value < Decimal("0.001"):
        return f"less than 0.001 {currency}"
    if value < Decimal("0.1"):
        return f"{value:.3f}".removesuffix("0") + f" {currency}"
    return f"{value:,.2f} {currency}"


def price(quote: dict[str, Any]) -> str:
    """What a wake would cost, from a Quote of the control API."""
    hourly, least = (amount(quote[part], quote["currency"]) for part in ("hourly", "least"))
    return f"waking costs about {hourly}/h, at least {least} (an estimate: {quote['basis']}; {quote['source']})"


def so_far(cost: dict[str, Any], now: float) -> str:
    """What a machine has cost until `now`, from a replica's or a wake's `cost`."""
    return amount(str(Decimal(cost["hourly"]) * Decimal(str(max(0.0, now - cost["since"]))) / 3600), cost["currency"])


def bills(status: dict[str, Any]) -> list[str]:
    """A sentence for each pool of a Status of the control API that costs money now, or has a budget."""
    lines = []
    for pool in status["pools"]:
        running = [replica["cost"] for replica in pool["replicas"] if replica.get("cost")]
        said = []
        if running:
            hourly = sum((Decimal(cost["hourly"]) for cost in running), Decimal(0))
            what = ", ".join(sorted({cost["basis"] for cost in running}))
            said.append(f"{amount(str(hourly), running[0]['currency'])}/h now ({what})")
        if budget := pool.get("budget"):
            used, left = (amount(budget[part], budget["currency"]) for part in ("spent", "left"))
            said.append(f"{used} of {budget['limit']} {budget['currency']}/{budget['period']} spent, {left} left")
        if said:
            lines.append(f"pool {pool['name']}: {'; '.join(said)}.")
    return lines


def doing(model: dict[str, Any], now: float) -> str:
    """What a model (a ModelStatus of the control API) is doing, in a few words: `waking: load 40 %, about 0:03 more`.

    With who answers in its place, when its name was switched to another target, or is being.
    """
    return "; ".join([_doing(model, now), *_switched(model)])


def _switched(model: dict[str, Any]) -> list[str]:
    switch = model.get("switch")
    if not switch:
        return []
    if switch["of"]:
        return [f"a revision of {switch['of']}"]
    found = [] if switch["target"] == model["name"] else [f"{switch['target']} serves its name"]
    if switch["candidate"]:
        found.append(f"{switch['weight']:g}% to {switch['candidate']} ({switch['phase']})")
    return found


def _doing(model: dict[str, Any], now: float) -> str:
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
    quote = model.get("quote")
    if quote and state == "asleep":
        return f"asleep, wakes for about {amount(quote['hourly'], quote['currency'])}/h"
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
    cost = f", {so_far(wake['cost'], now)} so far" if wake.get("cost") else ""
    eta = wake["eta"]["p50"] if wake["eta"] else None
    if eta is not None and eta > now - wake["started_at"]:
        return f"{text}, about {span(eta - (now - wake['started_at']))} more{cost}"
    return f"{text}, for {span(now - wake['started_at'])}{cost}"
