"""What the cloud commands share: the installation's id, the question before anything that costs or cannot be undone, and money in tables."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from decimal import Decimal
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.invocation import Invocation, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lamplighter.config import Config
    from lamplighter.providers.aws.standing import Standing


InstallationOption = Annotated[
    str | None,
    typer.Option(
        "--installation", metavar="ID", help="Of another installation, such as one whose store was lost; `cloud apply` names it."
    ),
]


def installation_of(invocation: Invocation, config: "Config", given: str | None = None) -> str:
    """The id that everything in the account carries: `given`, else the store's; it is made now when nothing was ever started here.

    Raises StoreError."""
    from lamplighter.operations.cloud import beliefs

    if given is not None:
        return given

    known = beliefs.read(config.store, invocation.folder).installation
    if known is not None:
        return known
    from lamplighter.cli.compose import open_store
    from lamplighter.core.clock import SystemClock

    async def make() -> str:
        invocation.folder.prepare()
        store = await open_store(config.store, invocation.folder, SystemClock())
        try:
            return store.installation
        finally:
            await store.close()

    return asyncio.run(make())


def ask(invocation: Invocation, yes: bool, question: str, *, what: str, other: str = "") -> None:
    """Go on only when a person says yes, or said `--yes`. Raises Refused."""
    from lamplighter.operations.cloud.errors import Refused

    if yes:
        return
    if invocation.json or not sys.stdin.isatty():
        raise Refused(f"{what} was not confirmed", next_step=f"Add --yes. {other}".strip())
    if not typer.confirm(question, default=False, err=True):
        raise Refused("nothing was done: you said no", next_step=other)


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, end the command as Ctrl-C does: what it started in AWS is ended first."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def money(amount: Decimal | None, *, digits: int = 2) -> str:
    """`12.34 USD`; a dash when it is not known."""
    return f"{amount:.{digits}f} USD" if amount is not None else "-"


def standing_table(standing: "Standing") -> "RenderableType":
    """What it costs while everything sleeps."""
    rows = [
        (one.what, str(one.count), money(one.monthly) if one.monthly is not None else "by use", one.basis)
        for one in standing.lines
    ]
    rows.append(("in all, while everything sleeps", "", money(standing.monthly), _source(standing)))
    return table(("standing", "count", "a month", "reckoned as"), rows)


def _source(standing: "Standing") -> str:
    dated = f"list prices of {standing.checked}, without taxes"
    return f"{dated}; {standing.region} is not in our table: the dearest known region" if standing.guessed else dated
