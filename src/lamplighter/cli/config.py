"""`lamplighter config`: check, show and describe the configuration. Also the rule where the file is looked for."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, of

if TYPE_CHECKING:
    from lamplighter.config import Config

FILE = "lamplighter.yaml"

config = typer.Typer(help="Check, show and describe the configuration.", no_args_is_help=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="LAMPLIGHTER_CONFIG",
        metavar="FILE",
        help=f"The configuration; default: ./{FILE}, else {FILE} in the data folder, else one small model.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(config, name="config")


def find(invocation: Invocation, named: Path | None) -> Path | None:
    """The configuration file in force; None when there is none and the defaults hold."""
    if named is not None:
        return named.expanduser()
    return next((path for path in (Path(FILE), invocation.folder.config) if path.exists()), None)


def read(invocation: Invocation, named: Path | None) -> "tuple[Config, Path | None]":
    """The configuration in force, and its file if it has one. Raises ConfigError."""
    from lamplighter.config import defaults, load

    path = find(invocation, named)
    return (defaults() if path is None else load(path)), path


@config.command("check")
def check(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration: every mistake with its line, or what it defines. Exit status 3 when it is wrong."""
    from lamplighter.config.secrets import check as check_secrets

    invocation = of(context)
    tree, path = read(invocation, named)
    check_secrets(tree)
    invocation.show(
        {"ok": True, "file": str(path) if path else None, "models": list(tree.models), "pools": list(tree.pools)},
        f"{path or 'no file, the defaults'}: good. "
        f"Models: {', '.join(tree.models) or 'none'}. Pools: {', '.join(tree.pools) or 'none'}.",
    )


@config.command("show")
def show(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the whole configuration in force, defaults included: a file to begin from. Secrets stay references."""
    invocation = of(context)
    tree, path = read(invocation, named)
    plain = tree.model_dump(mode="json", exclude_none=True)
    invocation.note(f"# {path or 'no file: these are the defaults'}")
    if invocation.json:
        invocation.show(plain)
        return
    import yaml

    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120), end="")


@config.command("schema")
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from lamplighter.config.reference import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
