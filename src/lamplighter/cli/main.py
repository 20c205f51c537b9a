"""The program `lamplighter`: assembles the command groups and turns every error into a sentence, a next step and an exit status.

Not responsible for any command. Imports nothing heavy, so that `--help` is fast: commands import what they need when they run.
"""

import contextlib
import json
import os
import signal
import sys
import traceback
from typing import Annotated, NoReturn, TextIO

import typer

from lamplighter.cli import (
    chat,
    check,
    cloud,
    cluster,
    config,
    dev,
    doctor,
    federation,
    keys,
    login,
    mesh,
    migrate,
    models,
    status,
    up,
    usage,
    version,
    wake,
)
from lamplighter.cli.invocation import Invocation, of
from lamplighter.core.errors import LamplighterError

app = typer.Typer(
    name="lamplighter",
    help="Your own LLM endpoint: models wake when someone asks and sleep when nobody does.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for group in (
    up, dev, status, chat, check, wake, models, keys, usage, mesh, login, cloud, cluster, federation, migrate, config, doctor, version,
):  # fmt: skip
    group.register(app)

EXIT_CODES = {
    0: "It worked.",
    1: "It failed; the message says why.",
    2: "The command line was not understood.",
    3: "The configuration, or the data folder, is wrong.",
    4: "Another process has the data folder or the port.",
    5: "A model's file cannot be had.",
    6: "Lamplighter is not running, or cannot be reached.",
    7: "The server refused.",
    130: "Interrupted with Ctrl-C.",
}
"""What the exit statuses mean; `docs/reference/cli.md` is made from this."""


def _print_version(value: bool) -> None:
    if value:
        from lamplighter import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _everywhere(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    of(context).debug = debug


def main() -> NoReturn:
    """Run the command line and exit. Never shows a traceback unless asked with `--debug`."""
    status = run(sys.argv[1:])
    _let_go(sys.stdout)
    _let_go(sys.stderr)
    sys.exit(status)


def _let_go(stream: TextIO) -> None:
    """Write what is left. Where nobody takes it (a closed pipe, a full disk) it is dropped: else Python itself would end us with status 120."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(arguments: list[str]) -> int:
    """Run one command line; its exit status."""
    invocation = Invocation()
    try:
        app(arguments, prog_name="lamplighter", obj=invocation)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 0  # whoever read our output has seen enough (`| head`)
    except LamplighterError as error:
        _report(error, invocation)
        return error.exit_code
    except OSError as error:  # a full disk, a file that may not be read: not ours to explain better than the system does
        what = f"{error.filename}: " if error.filename else ""
        refused = LamplighterError(
            f"{what}{error.strerror or error}", next_step="`lamplighter doctor` looks at disk and permissions."
        )
        _report(refused, invocation, cause=error)
        return refused.exit_code
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person gets a sentence, not a traceback
        unexpected = LamplighterError(
            f"unexpected {type(error).__name__}: {error}",
            next_step="That is a defect of Lamplighter: please report it with the output of the same command with --debug.",
        )
        _report(unexpected, invocation, cause=error)
        return unexpected.exit_code
    return 0


def _report(error: LamplighterError, invocation: Invocation, *, cause: BaseException | None = None) -> None:
    if invocation.debug:
        traceback.print_exception(cause or error)
    if invocation.json:
        body = {"message": error.message, "code": error.code, "next_step": error.next_step, "exit_code": error.exit_code}
        print(json.dumps({"error": body}, ensure_ascii=False), file=sys.stderr)
        return
    print(f"error: {error.message}", file=sys.stderr)
    if error.next_step:
        print(f"  next: {error.next_step}", file=sys.stderr)
