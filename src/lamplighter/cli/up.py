"""`lamplighter up`: serve, on this machine, both planes in one process; or one of them, or several gateways beside a keeper."""

from enum import StrEnum
from typing import Annotated

import typer

from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, of


class LogFormat(StrEnum):
    """Shapes of the log."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Only(StrEnum):
    """The halves of an installation."""

    GATEWAY = "gateway"
    KEEPER = "keeper"


HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address to listen on; default: server.host, which is 127.0.0.1. 0.0.0.0: every address.",
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port", metavar="NUMBER", min=0, max=65535, help="Port; 0 takes a free one; default: server.port, which is 8080."
    ),
]
FormatOption = Annotated[
    LogFormat | None,
    typer.Option("--log-format", metavar="text|json", help="Shape of the log on standard error; default: log.format."),
]
LevelOption = Annotated[
    LogLevel | None,
    typer.Option("--log-level", metavar="debug|info|warning|error", help="The least important level logged; default: log.level."),
]
OnlyOption = Annotated[
    Only | None,
    typer.Option(
        "--only",
        metavar="gateway|keeper",
        help="Run one half: the gateway, which answers clients, or the keeper, which wakes and ends engines; default: both. Needs PostgreSQL.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="NUMBER",
        min=1,
        max=256,
        help="Gateway processes on this port; default: server.workers, which is 1. More need PostgreSQL.",
    ),
]
OpenOption = Annotated[bool, typer.Option("--open/--no-open", help="Open the chat page in the browser.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("up")(up)


def up(
    context: typer.Context,
    host: HostOption = None,
    port: PortOption = None,
    data: DataOption = None,
    named: ConfigOption = None,
    log_format: FormatOption = None,
    log_level: LevelOption = None,
    only: OnlyOption = None,
    workers: WorkersOption = None,
    open_browser: OpenOption = False,
) -> None:
    """Serve the chat page, the API and the models, until Ctrl-C.

    With no configuration at all, one small model is served: it is fetched at the first start, wakes at the first request and sleeps when
    nobody asks. LAMPLIGHTER_ADMIN_KEY presets the first key.
    """
    invocation = of(context)
    config, path = read(invocation, named)
    from lamplighter.cli.roles import Role
    from lamplighter.cli.serve import plan, serve

    serve(
        plan(
            config,
            invocation.folder,
            host=host,
            port=port,
            log_format=log_format,
            log_level=log_level,
            config_file=str(path) if path else None,
            open_browser=open_browser,
            role=Role(only.value) if only is not None else Role.BOTH,
            workers=workers,
        )
    )
