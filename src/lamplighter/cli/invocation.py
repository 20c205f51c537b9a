"""What one run of the program was asked to do beyond its command: the folder, the address, the shape of its output.

Also where output leaves the program. Standard output carries the answer and nothing else; progress, hints and errors go to standard error.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lamplighter.operations.client import Client
    from lamplighter.operations.datafolder import DataFolder


@dataclass
class Invocation:
    """Filled by the options' callbacks, read by the commands and by the error handler of `main`."""

    json: bool = False
    debug: bool = False
    data: Path | None = None
    url: str | None = None
    key: str | None = None

    @property
    def folder(self) -> "DataFolder":
        """The data folder: `--data`, else the platform's place for a user's data."""
        from lamplighter.operations.datafolder import DataFolder

        return DataFolder((self.data or default_data()).expanduser().absolute())

    def client(self) -> "AbstractContextManager[Client]":
        """The API's client: of `--url` and `--key`, else of the server that serves the data folder. Raises NotRunning."""
        from lamplighter.operations.client import Client

        if self.url is None:
            return Client.of_folder(self.folder)
        if self.key is None:
            raise LamplighterError(
                "--url needs a key", next_step="Give --key, or set LAMPLIGHTER_KEY; on the server, `lamplighter keys create NAME` makes one."
            )  # fmt: skip
        return Client(self.url, self.key)

    @property
    def tty(self) -> bool:
        """Whether a person reads standard output."""
        return sys.stdout.isatty()

    def show(self, answer: Any, text: "RenderableType | None" = None) -> None:
        """Print `answer` as JSON when a program reads, else `text` for a person."""
        if self.json or text is None:
            print(json.dumps(answer, indent=2, ensure_ascii=False, default=str))
        elif isinstance(text, str):  # as it is: Rich would turn tabs into spaces
            print(text)
        else:
            console().print(text, soft_wrap=True)

    def note(self, text: str) -> None:
        """A sentence beside the answer, for a person; nothing when a program reads."""
        if not self.json:
            console(stderr=True).print(text, soft_wrap=True, highlight=False, markup=False)


def default_data() -> Path:
    """Where a user's data belongs on this platform."""
    from platformdirs import user_data_path

    return user_data_path("lamplighter", appauthor=False)


def console(*, stderr: bool = False) -> "Console":
    """A terminal as Rich sees it; plain text when it is none, and with NO_COLOR."""
    from rich.console import Console

    return Console(stderr=stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> "RenderableType":
    """A table for a terminal; tab-separated lines with a header when standard output is none, so that `cut` and `awk` work."""
    listed = [list(row) for row in rows]
    if not sys.stdout.isatty():
        return "\n".join("\t".join(row) for row in [list(columns), *listed])
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(*columns, title=title, box=box.SIMPLE, header_style="bold", title_justify="left")
    for row in listed:
        drawn.add_row(*(escape(cell) for cell in row))
    return drawn


def _set_json(context: typer.Context, value: bool) -> bool:
    of(context).json = value or of(context).json
    return value


def _set_data(context: typer.Context, value: Path | None) -> Path | None:
    of(context).data = value
    return value


def _set_url(context: typer.Context, value: str | None) -> str | None:
    of(context).url = value
    return value


def _set_key(context: typer.Context, value: str | None) -> str | None:
    of(context).key = value
    return value


def of(context: typer.Context) -> Invocation:
    """The invocation that a command belongs to."""
    found = context.find_object(Invocation)
    if found is None:  # a command run outside `main`, as by a documentation tool
        found = context.obj = Invocation()
    return found


JsonOption = Annotated[
    bool, typer.Option("--json", callback=_set_json, is_eager=True, help="Print JSON, errors included, for programs.")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        callback=_set_data,
        envvar="LAMPLIGHTER_DATA",
        metavar="DIR",
        help="The installation's data folder; default: the platform's place for a user's data.",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        callback=_set_url,
        envvar="LAMPLIGHTER_URL",
        help="A Lamplighter elsewhere; default: the one of the data folder.",
    ),
]
KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY", callback=_set_key, envvar="LAMPLIGHTER_KEY", help="The key for --url.")
]
