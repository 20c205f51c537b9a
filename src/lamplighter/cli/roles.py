"""What one process of an installation is: a gateway, a keeper, or both; one of several workers, or alone.

Not responsible for starting any (`serve`, `workers`) nor for what it does then (`running`).
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from lamplighter.config import Config
from lamplighter.core.errors import ConfigError


class Role(StrEnum):
    """The planes that a process runs."""

    BOTH = "both"
    GATEWAY = "gateway"
    KEEPER = "keeper"

    @property
    def serves(self) -> bool:
        """Whether it answers clients."""
        return self is not Role.KEEPER

    @property
    def keeps(self) -> bool:
        """Whether it looks after the pools."""
        return self is not Role.GATEWAY


@dataclass(frozen=True, slots=True)
class Part:
    """This process's place. Everything but `role` is for one of several workers.

    `name`: how logs and metrics tell it from the others. `first`: it makes the first keys and tells where the server is. `parent`: the process
    that stands for all of them. `leash`: a pipe's end that closes when the parent is gone. `ready`: a pipe's end to write to when it serves.
    `metrics`: where it tells its metrics to the others. `siblings`: where the others tell theirs, by name.
    """

    role: Role = Role.BOTH
    name: str | None = None
    first: bool = True
    parent: int | None = None
    leash: int | None = None
    ready: int | None = None
    metrics: socket.socket | None = None
    siblings: Mapping[str, str] = field(default_factory=dict)


def check_roles(config: Config, role: Role, workers: int) -> None:
    """Whether the installation can be spread like this. Raises ConfigError."""
    if role is Role.KEEPER and workers > 1:
        raise ConfigError(
            "a keeper does not come in several workers: one leads, the others would only wait",
            where="server.workers",
            next_step="Leave --workers out; start further keepers on other machines.",
        )
    if role is Role.BOTH and workers == 1:
        return
    what = f"{workers} gateway processes" if workers > 1 else f"a {role.value} on its own"
    if config.store.url is None:
        raise ConfigError(
            f"{what} needs PostgreSQL: SQLite serves one process only"
            if workers == 1
            else f"{what} need PostgreSQL: SQLite serves one only",
            where="store.url",
            next_step="Set store.url, for example `store: {url: env:DATABASE_URL}`; docs/guides/several-gateways.md tells all.",
        )
    if workers > 1 and config.redis.url is None and limits_anything(config):
        raise ConfigError(
            f"{what} need Redis to share the limits of this configuration: each would count for itself",
            where="redis.url",
            next_step="Set redis.url, for example `redis: {url: env:REDIS_URL}`, or take the limits out.",
        )


def limits_anything(config: Config) -> bool:
    """Whether the file limits any key or model."""
    parts = [config.limits.default, *(part for model in config.models.values() for part in (model.limits, model.limits_per_key))]
    return any(part is not None and not part.empty for part in parts)
