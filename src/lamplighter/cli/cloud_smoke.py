"""`lamplighter cloud smoke`: proves a pool on the account that is signed in, within a limit of money, and writes down what it saw."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.cloud_shared import installation_of, orderly
from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, KeyOption, UrlOption, of
from lamplighter.core.units import Money

if TYPE_CHECKING:
    from lamplighter.config import Config
    from lamplighter.operations.client import Client

_START_LIMIT = 60.0


def register(group: typer.Typer) -> None:
    """Add the command to the group."""
    group.command("smoke")(smoke)


def _amount(text: str) -> Money:
    try:
        return Money.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def smoke(
    context: typer.Context,
    pool: Annotated[str | None, typer.Argument(metavar="[POOL]", help="The pool; default: the only one of kind aws.")] = None,
    at_most: Annotated[
        Money | None,
        typer.Option("--at-most", parser=_amount, metavar="MONEY", help="What it may cost at the worst, such as '0.50 USD'."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The model to ask; default: the pool's first.")
    ] = None,
    transcript: Annotated[Path | None, typer.Option("--transcript", metavar="FILE", help="Default: ./smoke-DATE.md.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Yes, it may start a machine that costs.")] = False,
    named: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wake a pool in AWS, get one token, let it sleep, and prove that nothing runs any more.

    Costs real money, so it wants --yes and --at-most. Uses the Lamplighter that runs, or starts one for as long. Exit status 1 when it
    did not work; the transcript says what was seen."""
    from lamplighter.operations.cloud.errors import Refused
    from lamplighter.operations.cloud.smoke import Prover, Transcript, markdown, terms
    from lamplighter.operations.cloud.stacks import find_pool
    from lamplighter.providers.aws import account

    invocation = of(context)
    config, _ = read(invocation, named)
    stack, name = find_pool(config, pool)
    chosen = _model(config, name, model)
    if at_most is None or at_most.currency != "USD":
        raise Refused("it needs a limit in USD, as AWS's prices are", next_step="Add --at-most '0.50 USD'.")
    agreed, price = terms(stack, name, at_most.amount)
    if not yes:
        raise Refused(
            f"this starts a machine in {stack.region} ({price.text}), {agreed.worst:.2f} USD at the worst", next_step="Add --yes."
        )
    who = account.identity(stack.region)
    installation = installation_of(invocation, config)
    with orderly(), _served(invocation, named) as client:
        seen = Transcript(stack, name, chosen, who, price, agreed, time.time())
        file = transcript or Path(time.strftime("smoke-%Y%m%d-%H%M%S.md", time.gmtime(seen.began)))
        try:
            Prover(client, seen, installation, invocation.note).run()
        finally:
            file.write_text(markdown(seen), encoding="utf-8")
            invocation.note(f"What was seen is in {file}.")
    first = seen.first_token - seen.began if seen.first_token is not None else None
    answer = {
        "ok": seen.worked, "emulated": who.emulated, "transcript": str(file), "first_token": first, "cost": f"{seen.cost:.4f}",
        "currency": "USD", "gone": seen.proven, "failure": seen.failure or None,
    }  # fmt: skip
    text = f"{'It worked' if seen.worked else 'It did not work'}: {seen.cost:.3f} USD, estimated."
    invocation.show(answer, text)
    if not seen.worked:
        raise typer.Exit(1)


def _model(config: "Config", pool: str, wanted: str | None) -> str:
    from lamplighter.operations.cloud.errors import CloudError

    there = [name for name, model in config.models.items() if model.pool == pool]
    if not there:
        raise CloudError(f"no model is served by pool {pool}", next_step="Give it one in lamplighter.yaml.")
    if wanted is not None and wanted not in there:
        raise CloudError(f"the model {wanted!r} is not of pool {pool}", next_step=f"There is: {', '.join(there)}.")
    return wanted or there[0]


@contextmanager
def _served(invocation: Invocation, named: Path | None) -> "Iterator[Client]":
    """The Lamplighter that runs, else one that lives as long as this. Raises NotRunning."""
    from lamplighter.operations.client import NotRunning

    try:
        with invocation.client() as client:
            client.get("/api/status")
            yield client
            return
    except NotRunning:
        if invocation.url is not None:
            raise
    with _own(invocation, named) as client:
        yield client


@contextmanager
def _own(invocation: Invocation, named: Path | None) -> "Iterator[Client]":
    from lamplighter.operations.client import Client, NotRunning

    folder = invocation.folder
    folder.prepare()
    log = folder.root / "run" / "smoke.log"
    command = [sys.executable, "-m", "lamplighter", "up", "--port", "0", "--data", str(folder.root)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *(["--config", str(named)] if named is not None else [])],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    invocation.note(f"Started a Lamplighter for this (process {process.pid}, its log is {log}).")
    try:
        deadline = time.monotonic() + _START_LIMIT
        while True:
            info = folder.read_server()
            if info is not None and info.pid == process.pid:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotRunning("Lamplighter did not start", next_step=f"Read {log}.")
            time.sleep(0.1)
        with Client.of_folder(folder) as client:
            yield client
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
