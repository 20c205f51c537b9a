"""`lamplighter dev`: everything but the engines and the machines is real. For work on the page and on the keeper, anywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.invocation import DataOption, Invocation, of
from lamplighter.cli.up import FormatOption, HostOption, LevelOption, OpenOption, PortOption

if TYPE_CHECKING:
    from lamplighter.config import Config

_STAGES = {"capacity": 8.0, "boot": 12.0, "mesh": 4.0, "pull": 10.0, "load": 6.0}
"""Seconds of a wake that pretends to be a spot machine's."""
_QUICK_STAGES = {"start": 0.3, "load": 0.7}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("dev")(dev)


def dev(
    context: typer.Context,
    host: HostOption = None,
    port: PortOption = None,
    data: DataOption = None,
    speed: Annotated[
        float,
        typer.Option("--speed", metavar="FACTOR", min=0.1, max=1000, help="How many times faster than life the stages pass."),
    ] = 1,
    sleep_after: Annotated[str, typer.Option("--sleep-after", metavar="TIME", help="Idle time until the models sleep.")] = "2m",
    log_format: FormatOption = None,
    log_level: LevelOption = None,
    open_browser: OpenOption = False,
) -> None:
    """Serve two pretended models, for development.

    `big` takes a slow wake of five stages, `quick` answers meanwhile. No GPU, no network, a data folder of its own."""
    invocation = of(context)
    config = configuration(speed=speed, sleep_after=sleep_after)
    from lamplighter.cli.serve import plan, serve

    serve(
        plan(
            config,
            Invocation(data=invocation.data or _default_data()).folder,
            host=host,
            port=port,
            log_format=log_format,
            log_level=log_level,
            config_file="pretended models (lamplighter dev)",
            open_browser=open_browser,
        )
    )


def _default_data() -> Path:
    from platformdirs import user_data_path

    return user_data_path("lamplighter-dev", appauthor=False)


def configuration(*, speed: float = 1.0, sleep_after: str = "2m") -> "Config":
    """Two pretended models, the slow one with the quick one as its stand-in. Raises ConfigError."""
    from lamplighter.config import parse

    def stages(seconds: dict[str, float]) -> str:
        return ", ".join(f"{name}: {max(1, round(1000 * value / speed))}ms" for name, value in seconds.items())

    return parse(
        f"""
models:
  big:   {{engine: fake, pool: cloud, while_waking: quick}}
  quick: {{engine: fake, pool: here}}
pools:
  cloud: {{kind: fake, price: 0.21 USD/hour, budget: 5 USD/month, sleep_after: {sleep_after}, stages: {{{stages(_STAGES)}}}}}
  here:  {{kind: fake, sleep_after: {sleep_after}, stages: {{{stages(_QUICK_STAGES)}}}}}
""",
        name="lamplighter dev",
    )
