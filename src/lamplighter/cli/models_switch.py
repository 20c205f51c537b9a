"""`lamplighter models switch`: change which model, or which revision of it, serves a name, without downtime; watch it, and take it back."""

import time
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, KeyOption, UrlOption, of, table
from lamplighter.cli.words import ago, span
from lamplighter.core.errors import LamplighterError
from lamplighter.core.units import Duration

if TYPE_CHECKING:
    from lamplighter.operations.client import Client

_POLL = 0.5
_ORDERS = ("promote", "rollback", "pause", "resume")


class RolledBack(LamplighterError):
    """The change was rolled back."""

    code = "rolled_back"


def _duration(text: str) -> Duration:
    try:
        found = Duration.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if found == float("inf"):
        raise typer.BadParameter("`never` ends nothing: write a time")
    return found


def percent(text: str) -> float:
    """`5%` or `5`, as 5.0. Raises ValueError."""
    return float(text.strip().removesuffix("%"))


def _percents(text: str) -> list[float]:
    try:
        return [percent(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"write percents such as 5%,25%,50%; got {text!r}") from None


def _share(text: str) -> float:
    try:
        return percent(text) / 100
    except ValueError:
        raise typer.BadParameter(f"write a percent such as 2%; got {text!r}") from None


def register(models: typer.Typer) -> None:
    """Add the command to the group `models`."""
    models.command("switch")(switch)


def switch(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The name that clients ask for.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="MODEL", help="Let this model of the configuration serve it.")] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REVISION", help="Let the same model at this revision serve it.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", metavar="canary|blue-green", help="By steps (default), or all at once after the check."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option("--steps", metavar="PERCENTS", help="Shares of the canary, such as 5%,25%,50% (default); then everything."),
    ] = None,
    every: Annotated[
        Duration | None, typer.Option("--every", parser=_duration, metavar="TIME", help="Length of a step; default: 10m.")
    ] = None,
    settle: Annotated[
        Duration | None,
        typer.Option(
            "--settle", parser=_duration, metavar="TIME", help="How long the old one stays awake at the end; default: 10m."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Requests of a step below which nothing is compared; default: 20.")
    ] = None,
    max_errors: Annotated[
        str | None,
        typer.Option("--max-errors", metavar="PERCENT", help="Failures that it may have beyond the old one's; default: 2%."),
    ] = None,
    max_ttft_ratio: Annotated[
        float | None, typer.Option("--max-ttft-ratio", help="Times by which its first token may come later; default: 1.5.")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option("--check", metavar="PROMPT", help="A question that it must answer right; with --expect. Repeat both."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", metavar="REGEX", help="What must be found in the answer to the --check before it."),
    ] = None,
    within: Annotated[
        Duration | None,
        typer.Option(
            "--within", parser=_duration, metavar="TIME", help="Limit for all of it, then it is rolled back; default: 1d."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; fail when it is rolled back.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show how it goes.")] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Let the candidate serve everything now.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Take it back now, also after it was promoted.")] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Keep the share as it is. What is bad is rolled back all the same.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after --pause.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show every name that was changed, or is being changed.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change which model, or which revision of it, serves a name, without downtime.

    The candidate is woken and checked before anybody is sent there, then gets a growing share (canary) or everything at once (blue-green). It is
    promoted, or rolled back for errors, a late first token or a wrong answer, by itself.

    With --wait: exit status 1 when it was rolled back.
    """
    invocation = of(context)
    orders = [order for order, given in zip(_ORDERS, (promote, rollback, pause, resume), strict=True) if given]
    modes = len(orders) + status + list_ + (to is not None or revision is not None)
    if modes > 1:
        raise typer.BadParameter("give one of --to, --revision, --status, --promote, --rollback, --pause, --resume and --list")
    if (to is not None) and (revision is not None):
        raise typer.BadParameter("give either --to or --revision")
    if list_:
        with invocation.client() as client:
            _list(invocation, client.get("/api/switches"))
        return
    if name is None:
        raise typer.BadParameter("say which name; --list shows those that were changed", param_hint="NAME")
    path = f"/api/models/{quote(name, safe='')}/switch"
    asked: dict[str, Any] = {
        "to": to,
        "revision": revision,
        "strategy": strategy,
        "steps": _percents(steps) if steps is not None else None,
        "every": every,
        "settle": settle,
        "samples": samples,
        "max_errors": _share(max_errors) if max_errors is not None else None,
        "max_ttft_ratio": max_ttft_ratio,
        "checks": _checks(check or [], expect or []) or None,
        "within": within,
    }
    settings = {setting: value for setting, value in asked.items() if value is not None}
    if settings and to is None and revision is None:
        raise typer.BadParameter("these options begin a change: say --to MODEL or --revision REVISION")
    with invocation.client() as client:
        if settings:
            answer = client.post(path, settings)
        elif orders:
            answer = client.post(f"{path}/{orders[0]}")
        else:
            answer = client.get(path)
        for note in answer["notes"] if settings else ():
            invocation.note(f"note: {note}")
        if wait:
            answer = _follow(invocation, client, path, answer)
    invocation.show(answer, "\n".join(_told(answer)))


def _checks(prompts: list[str], expected: list[str]) -> list[dict[str, str]]:
    if len(prompts) != len(expected):
        raise typer.BadParameter("each --check needs its --expect, and the other way round", param_hint="--check")
    return [{"prompt": prompt, "expect": regex} for prompt, regex in zip(prompts, expected, strict=True)]


def _follow(invocation: Invocation, client: "Client", path: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Poll until the change has ended, telling a person of each move. Raises RolledBack when it was."""
    said = 0
    while (rollout := answer["rollout"]) is not None:
        events = rollout["events"]
        for event in events[said:]:
            invocation.note(f"{answer['name']}: {_event(event)}")
        said = len(events)
        if rollout["ended_at"] is not None:
            if rollout["phase"] == "rolled_back" and rollout["reason"] != "asked":
                raise RolledBack(
                    f"the change of {answer['name']} to {rollout['candidate']} was rolled back: {rollout['reason']}"
                    + (f" ({rollout['detail']})" if rollout["detail"] else ""),
                    next_step=f"{rollout['stable']} serves it as before.",
                )
            break
        time.sleep(_POLL)
        answer = client.get(path)
    return answer


def _told(answer: dict[str, Any]) -> list[str]:
    """A SwitchStatus for a person."""
    name, rollout = answer["name"], answer["rollout"]
    lines = [
        f"{name}: served by {answer['target']}" + (f" since {ago(time.time() - answer['since'])}" if answer["since"] else "")
    ]
    if rollout is None:
        return lines
    if rollout["ended_at"] is not None:
        why = f": {rollout['reason']}" if rollout["reason"] else ""
        lines.append(
            f"last change: to {rollout['candidate']}, {rollout['phase'].replace('_', ' ')} {ago(time.time() - rollout['ended_at'])}{why}"
        )
    else:
        left = f", {span(rollout['passes_at'] - time.time())} to go" if rollout["passes_at"] else ""
        lines.append(f"change under way: {rollout['candidate']} gets {rollout['weight']:g}% ({rollout['phase']}{left})")
        lines += [
            f"  {label}: {_side(rollout[side])}"
            for label, side in ((rollout["stable"], "stable_seen"), (rollout["candidate"], "candidate_seen"))
        ]
    if rollout["detail"]:
        lines.append(f"  {rollout['detail']}")
    return lines + [f"  {_event(event)}" for event in rollout["events"]]


def _side(seen: dict[str, Any]) -> str:
    first = (
        f", first token {seen['ttft_p50']:.3g} s (p50), {seen['ttft_p90']:.3g} s (p90)" if seen["ttft_p50"] is not None else ""
    )
    return f"{seen['requests']} requests, {seen['failed']} failed{first}"


def _event(event: dict[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    why = f", {event['reason']}" if event["reason"] else ""
    detail = f" ({event['detail']})" if event["detail"] else ""
    return f"{at} {event['to_phase'].replace('_', ' ')} {event['weight']:g}%{why}{detail}"


def _list(invocation: Invocation, answer: dict[str, Any]) -> None:
    rows = []
    for one in answer["switches"]:
        rollout = one["rollout"]
        change = f"{rollout['candidate']} {rollout['weight']:g}%" if rollout else "-"
        rows.append(
            (
                one["name"],
                one["target"],
                change,
                rollout["phase"] if rollout else "-",
                (rollout["reason"] or "-") if rollout else "-",
            )
        )
    invocation.show(answer, table(("name", "served by", "change", "phase", "why"), rows))
