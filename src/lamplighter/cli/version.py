"""`lamplighter version`."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version

import typer

from lamplighter import __version__
from lamplighter.cli.invocation import JsonOption, of


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("version")(version)


def version(context: typer.Context, as_json: JsonOption = False) -> None:
    """Print the versions of Lamplighter and its parts."""
    try:
        engine: str | None = distribution_version("xllamacpp")
    except PackageNotFoundError:
        engine = None
    answer = {
        "lamplighter": __version__,
        "python": platform.python_version(),
        "llamacpp": engine,
        "platform": f"{platform.system()} {platform.machine()}",
    }
    of(context).show(
        answer,
        f"Lamplighter {__version__}, Python {answer['python']}, llama.cpp {engine or 'missing'}, {answer['platform']}",
    )
