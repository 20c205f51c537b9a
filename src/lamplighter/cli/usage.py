"""`lamplighter usage`: what was used, by key, model or day; or the last requests one by one."""

import time
from typing import Annotated, Any, Literal

import typer

from lamplighter.cli.invocation import DataOption, JsonOption, KeyOption, UrlOption, of, table
from lamplighter.cli.words import ago
from lamplighter.core.units import Duration


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("usage")(usage)


def usage(
    context: typer.Context,
    by: Annotated[Literal["key", "model", "day"], typer.Option("--by", help="What to sum over.")] = "model",
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="How far back: 90m, 7d, 30d.")] = "7d",
    requests: Annotated[
        int | None, typer.Option("--requests", metavar="N", min=1, max=1000, help="The last N requests instead, newest first.")
    ] = None,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was used: requests, tokens, time on engines and cost.

    Tokens that no engine told are estimated and marked with `~`. Up to two days back is exact to the second; longer spans are whole days (UTC).
    """
    invocation = of(context)
    with invocation.client() as client:
        if requests is not None:
            answer = client.get(f"/api/requests?limit={requests}")
            invocation.show(answer, _requests(answer["requests"]))
            return
        try:
            span = Duration.parse(since)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--since") from None
        answer = client.get(f"/api/usage?by={by}&since={int(span * 1000)}ms")
        invocation.show(answer, _totals(by, answer["totals"]))


def _totals(by: str, totals: list[dict[str, Any]]) -> Any:
    rows = [_row(total["label"], total) for total in totals]
    if len(totals) > 1:
        summed = {name: sum(total[name] for total in totals) for name in totals[0] if name not in {"name", "label"}}
        rows.append(_row("all", summed))
    return table((by, "requests", "failed", "prompt", "answer", "engine", "waited", "cost"), rows)


def _row(label: str, total: dict[str, Any]) -> tuple[str, ...]:
    mark = "~" if total["estimated"] else ""
    return (
        label,
        f"{total['requests']:,}",
        f"{total['failed']:,}",
        f"{mark}{total['prompt_tokens']:,}",
        f"{mark}{total['completion_tokens']:,}",
        _seconds(total["engine_seconds"]),
        _seconds(total["queue_seconds"] + total["wake_seconds"]),
        _cost(total["cost_micros"]),
    )


def _requests(requests: list[dict[str, Any]]) -> Any:
    rows = []
    for one in requests:
        mark = "~" if one["estimated"] else ""
        rows.append(
            (
                ago(time.time() - one["at"]),
                one["key"],
                one["route"],
                one["model"] + (f" for {one['asked']}" if one["asked"] else ""),
                str(one["status"]),
                one["outcome"],
                f"{mark}{one['prompt_tokens']}+{one['completion_tokens']}",
                _seconds(one["seconds"]),
                "-" if one["ttft"] is None else _seconds(one["ttft"]),
                "-" if one["tokens_per_second"] is None else f"{one['tokens_per_second']:.1f}",
                one["request_id"],
            )
        )
    return table(("when", "key", "route", "model", "status", "outcome", "tokens", "took", "first", "tokens/s", "id"), rows)


def _seconds(value: float) -> str:
    if value < 10:
        return f"{value:.2f} s"
    return f"{value:.0f} s" if value < 7200 else f"{value / 3600:.1f} h"


def _cost(micros: int) -> str:
    return f"{micros / 1e6:.4f}" if micros else "-"
