"""`lamplighter status`: what every model is doing, once or live."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, KeyOption, UrlOption, of, table
from lamplighter.cli.words import ago, bills, circuits, doing

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lamplighter.operations.client import Client

_REFRESH = 0.5


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("status")(status)


def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show every change; Ctrl-C ends it.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what every model is doing.

    Asleep, waking (stage and time left), or awake, and when it goes to sleep; what waking costs, what runs costs and what is left of
    the budgets. Looking wakes nothing.

    Exit status 6 when Lamplighter is not running.
    """
    invocation = of(context)
    with invocation.client() as client:
        answer = client.get("/api/status")
        if watch and invocation.json:
            _stream(client, answer)
        elif watch:
            _watch(client, answer)
        else:
            shown = picture(answer, client.url)
            invocation.show({**answer, "server": _server(invocation, client.url)}, shown)
            for line in (*bills(answer), *circuits(answer)) if isinstance(shown, str) else ():
                invocation.note(line)


def _server(invocation: Invocation, url: str) -> dict[str, Any]:
    """Where the answer comes from; with the process, when it is this machine's."""
    info = None if invocation.url else invocation.folder.read_server()
    return {"url": url, "pid": info.pid if info else None}


def picture(answer: dict[str, Any], url: str) -> "RenderableType":
    """A Status of the control API as a table; times count from the server's own clock."""
    now = answer["now"]
    rows = []
    for model in answer["models"]:
        woke = model["last_wake"]
        rows.append(
            (
                model["name"],
                doing(model, now),
                model["engine"],
                model["pool"],
                str(model["in_flight"] + model["queued"]),
                f"{woke['seconds']:.1f} s, {ago(now - woke['at'])}" if woke else "-",
            )
        )
    columns = ("model", "state", "engine", "pool", "requests", "last wake")
    up_for = ago(now - answer["started_at"]).removesuffix(" ago")
    shown = table(columns, rows, title=f"{url}  ·  Lamplighter {answer['version']}, up {up_for}")
    money, failing = bills(answer), circuits(answer)
    if not (money or failing) or isinstance(shown, str):  # a table for programs stays one
        return shown
    from rich.console import Group
    from rich.text import Text

    return Group(shown, *map(Text, money), *(Text(line, style="yellow") for line in failing))


def _watch(client: "Client", answer: dict[str, Any]) -> None:
    from rich.live import Live

    with Live(picture(answer, client.url), auto_refresh=False, transient=False) as live:
        while True:
            time.sleep(_REFRESH)
            live.update(picture(client.get("/api/status"), client.url), refresh=True)


def _stream(client: "Client", answer: dict[str, Any]) -> None:
    """One JSON object a line, whenever something other than the clock changed."""
    import json

    said: dict[str, Any] | None = None
    while True:
        if {**answer, "now": 0} != said:
            said = {**answer, "now": 0}
            print(json.dumps({**answer, "server": {"url": client.url}}, ensure_ascii=False), flush=True)
        time.sleep(_REFRESH)
        answer = client.get("/api/status")
