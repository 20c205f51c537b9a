"""Brings a database to the newest schema. Migrations are ordered files in `migrations/versions`; they only ever go up.

Alembic, which takes time and memory to load, is imported only when there is something to do.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from lamplighter.core.errors import StoreTooNew

_FOLDER = Path(__file__).parent / "migrations"


def known_revisions() -> frozenset[str]:
    """The schemas that this program can read: the numbers in the names of its migrations (`r0001_first.py` is `0001`)."""
    return frozenset(path.name[1:5] for path in (_FOLDER / "versions").glob("r[0-9][0-9][0-9][0-9]_*.py"))


def newest() -> str:
    """The schema that this program writes."""
    return max(known_revisions())


def revision(connection: Connection) -> str | None:
    """The schema of a database; None: an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def due(connection: Connection) -> bool:
    """Whether something is missing. Raises StoreTooNew when the database is ahead of this program."""
    current = revision(connection)
    if current is not None and current not in known_revisions():
        raise StoreTooNew(
            f"the store was written by a newer version of Lamplighter (schema {current})",
            next_step="Upgrade Lamplighter, or use another --data folder or database.",
        )
    return current != newest()


def upgrade(connection: Connection) -> None:
    """Run what is missing, inside the caller's transaction. Raises StoreTooNew."""
    if not due(connection):
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
