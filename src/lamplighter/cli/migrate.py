"""`lamplighter migrate`: bring the database's schema to this version, and end. What each start does by itself, as a step of its own before an
update changes the first process.

Not responsible for the migrations (`store.migrate`).
"""

import asyncio

import typer

from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, JsonOption, of


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("migrate")(migrate)


def migrate(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the database to the schema of this version, and end. Safe to run again, and while others run.

    Only for a database in PostgreSQL: a start on SQLite, which has one process, needs no step before it.
    """
    invocation = of(context)
    config, _ = read(invocation, named)
    from lamplighter.cli.compose import open_store
    from lamplighter.core.clock import SystemClock
    from lamplighter.core.errors import ConfigError
    from lamplighter.store.migrate import newest

    if config.store.url is None:
        raise ConfigError(
            "there is nothing to migrate ahead: the store is SQLite, which `lamplighter up` brings up to date as it starts",
            where="store.url",
            next_step="Only with PostgreSQL (`store.url`) is this a step of its own.",
        )

    async def run() -> None:
        store = await open_store(config.store, invocation.folder, SystemClock())
        await store.close()

    asyncio.run(run())
    invocation.show({"schema": newest()}, f"The database has schema {newest()}, that of this version.")
