"""Brings a database to the newest schema. Migrations are ordered files in `migrations/versions`; they only ever go up."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from lamplighter.core.errors import StoreTooNew


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def known_revisions() -> frozenset[str]:
    """The schemas that this program can read."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def upgrade(connection: Connection) -> None:
    """Run what is missing, inside the caller's transaction. Raises StoreTooNew when the database is ahead of this program."""
    config = _config()
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known_revisions():
        raise StoreTooNew(
            f"the store was written by a newer version of Lamplighter (schema {current})",
            next_step="Upgrade Lamplighter, or use another --data folder.",
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
