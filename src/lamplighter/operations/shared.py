"""Looks at the services that several gateways share: PostgreSQL and Redis. Reads only, waits a few seconds at most.

Not responsible for telling a person: `doctor` makes findings of what is raised and returned here.
"""

import asyncio
from dataclasses import dataclass

from lamplighter.config.store import StoreConfig

SECONDS = 5.0
"""The longest that one service is waited for."""


@dataclass(frozen=True, slots=True)
class Database:
    """What was found of a PostgreSQL. `schema`: None when Lamplighter has never used it. `admins`: living admin keys in it."""

    version: str
    place: str
    schema: str | None
    admins: int = 0


def look_at_postgres(config: StoreConfig, url: str) -> Database:
    """Connect and read. Raises OSError, TimeoutError, asyncpg's errors, ConfigError for a URL of something else."""
    return asyncio.run(_look(url, config))


async def _look(url: str, config: StoreConfig) -> Database:
    import asyncpg

    from lamplighter.store.postgres import place

    where = place(url)
    limit = min(SECONDS, float(config.connect_timeout))
    connection = await asyncpg.connect(url, timeout=limit, command_timeout=SECONDS)
    try:
        version = str(await connection.fetchval("SHOW server_version"))
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
            return Database(version, where, None)
        schema = await connection.fetchval("SELECT version_num FROM alembic_version")
        admins = await connection.fetchval("SELECT count(*) FROM keys WHERE revoked_at IS NULL AND admin")
        return Database(version, where, schema, int(admins))
    finally:
        await connection.close(timeout=SECONDS)


def look_at_redis(url: str) -> str:
    """The version of the Redis at `url`. Raises redis.RedisError, OSError."""
    from redis import Redis

    with Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as client:
        found = client.info("server")
        return str(found["redis_version"]) if isinstance(found, dict) else "?"
