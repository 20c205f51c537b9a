"""`lamplighter wake` and `lamplighter sleep`: orders for one model."""

import time
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, KeyOption, UrlOption, of
from lamplighter.cli.words import doing, price, so_far, span
from lamplighter.core.errors import LamplighterError
from lamplighter.core.reasons import VERDICTS, WakeFailure
from lamplighter.core.units import Duration

_POLL = 0.25
_OLD_FAILURE = 5.0
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]


class WakeFailed(LamplighterError):
    """The model did not wake."""

    code = "wake_failed"


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("wake")(wake)
    app.command("sleep")(sleep)


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def wake(
    context: typer.Context,
    model: ModelArgument,
    keep: Annotated[
        Duration | None,
        typer.Option("--keep", parser=_duration, metavar="TIME", help="Keep it awake that long (30m), asked for or not."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is awake, or fail with the reason.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wake a model before anybody asks for it."""
    invocation = of(context)
    if keep == float("inf"):
        raise typer.BadParameter("`never` ends: write a time, or set the pool's sleep_after", param_hint="--keep")
    with invocation.client() as client:
        answer = client.post(f"/api/models/{quote(model, safe='')}/wake", {} if keep is None else {"keep": float(keep)})
        if answer.get("quote") and answer["state"] != "awake":
            invocation.note(f"{model}: {price(answer['quote'])}")
        if wait:
            answer = follow(invocation, model, lambda: client.get("/api/status"), until="awake")
    invocation.show(answer, f"{model}: {doing(answer, time.time())}")


def sleep(
    context: typer.Context,
    model: ModelArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is asleep.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a model to sleep now.

    Running answers finish first; the next request wakes it again."""
    invocation = of(context)
    with invocation.client() as client:
        answer = client.post(f"/api/models/{quote(model, safe='')}/sleep")
        if wait:
            answer = follow(invocation, model, lambda: client.get("/api/status"), until="asleep")
    invocation.show(answer, f"{model}: {doing(answer, time.time())}")


def follow(
    invocation: Invocation, name: str, status: Callable[[], Any], *, until: str, pause: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Poll `status` (an /api/status answer) until the model's state is `until`, telling a person of each change.

    Raises WakeFailed when it failed for good, LamplighterError when it is not there any more.
    """
    said, seen_waking, waited, cost = "", False, 0.0, None
    while True:
        answer = status()
        found: dict[str, Any] | None = next((model for model in answer["models"] if model["name"] == name), None)
        if found is None:
            raise LamplighterError(f"the model {name!r} is not there any more")
        cost = (found["wake"] or {}).get("cost") or cost
        if found["state"] == until:
            if seen_waking and found["last_wake"]:
                seconds = found["last_wake"]["seconds"]
                spent = f", {so_far(cost, found['last_wake']['at'])}" if cost else ""
                invocation.note(f"{name}: woke in {span(seconds)}{spent}")
            return found
        seen_waking = seen_waking or found["state"] == "waking"
        failure = found["failure"] if found["state"] == "failed" else None
        # Until the keeper has acted upon the order, the failure that shows is an older one.
        if failure and (seen_waking or waited > _OLD_FAILURE) and not _tried_again(failure["reason"]):
            raise WakeFailed(failure["message"], next_step=failure.get("next_step") or "")
        text = doing(found, answer["now"])
        if text != said:
            invocation.note(f"{name}: {text}")
            said = text
        pause(_POLL)
        waited += _POLL


def _tried_again(reason: str) -> bool:
    try:
        return VERDICTS[WakeFailure(reason)].retry
    except ValueError:  # a reason of a newer server
        return False
