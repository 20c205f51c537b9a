"""What the store believes of machines in the cloud, read beside whoever is using it: the installation's id, the living replicas, the keeper's lease.

Reads only, migrates nothing, and needs no running server: what bills is asked about most when nothing else works.
"""

import asyncio
import sqlite3
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lamplighter.config.secrets import resolve
from lamplighter.config.store import StoreConfig
from lamplighter.core.errors import StoreUnavailable
from lamplighter.operations.datafolder import DataFolder
from lamplighter.operations.shared import SECONDS
from lamplighter.store.leases import KEEPER

_INSTALLATION = "SELECT value FROM meta WHERE name = 'installation'"
_REPLICAS = "SELECT id, pool, handle, state FROM replicas WHERE state <> 'gone'"
_LEASE = f"SELECT expires_at FROM leases WHERE name = '{KEEPER}'"  # noqa: S608 - a constant of ours


@dataclass(frozen=True, slots=True)
class Believed:
    """One replica that the store holds for living. `handle`: the provider's id of it, once it has one."""

    id: str
    pool: str
    handle: str | None
    state: str


@dataclass(frozen=True, slots=True)
class Beliefs:
    """`installation`: None before anything was ever started here. `kept_until`: Unix seconds until which a keeper's lease runs."""

    installation: str | None = None
    replicas: tuple[Believed, ...] = ()
    kept_until: float = 0.0

    def kept(self, now: float) -> bool:
        """Whether a keeper is at work, anywhere."""
        return self.kept_until > now

    def replica(self, handle: str | None) -> Believed | None:
        """The living replica with that handle."""
        return next((one for one in self.replicas if one.handle is not None and one.handle == handle), None)


def read(config: StoreConfig, folder: DataFolder) -> Beliefs:
    """Raises StoreUnavailable, ConfigError."""
    if config.url is not None:
        return _postgres(config, resolve(config.url, where="store.url"))
    path = folder.store
    if not path.exists():
        return Beliefs()
    # Without a write-ahead log nobody has it open: then not even SQLite's own side files need to be made.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=SECONDS)
        try:
            return _beliefs(*(connection.execute(query).fetchall() for query in (_INSTALLATION, _REPLICAS, _LEASE)))
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # it was made this moment, or is of a version without one
            return Beliefs()
        raise StoreUnavailable(f"{path} cannot be read: {error}", next_step="Run `lamplighter doctor`.") from error
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path} cannot be read: {error}", next_step="Run `lamplighter doctor`.") from error


def _postgres(config: StoreConfig, url: str) -> Beliefs:
    import asyncpg

    async def look() -> Beliefs:
        limit = min(SECONDS, float(config.connect_timeout))
        connection = await asyncpg.connect(url, timeout=limit, command_timeout=SECONDS)
        try:
            if await connection.fetchval("SELECT to_regclass('meta')") is None:
                return Beliefs()
            return _beliefs(*[await connection.fetch(query) for query in (_INSTALLATION, _REPLICAS, _LEASE)])
        finally:
            await connection.close(timeout=SECONDS)

    try:
        return asyncio.run(look())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnavailable(f"PostgreSQL cannot be read: {error}", next_step="Run `lamplighter doctor`.") from error


def _beliefs(installation: Any, replicas: Any, lease: Any) -> Beliefs:
    return Beliefs(
        installation=str(installation[0][0]) if installation else None,
        replicas=tuple(Believed(str(row[0]), str(row[1]), row[2], str(row[3])) for row in replicas),
        kept_until=float(lease[0][0]) if lease else 0.0,
    )


__all__ = ["Beliefs", "Believed", "read"]
