"""Resolves a secret's reference (`env:NAME`, `file:PATH`) at the moment of use. Never logs or stores what it read."""

import os
from collections.abc import Iterator
from pathlib import Path

from lamplighter.config.model import Config
from lamplighter.config.pools import CommandPool, StaticPool
from lamplighter.core.errors import ConfigError

ADMIN_KEY = "LAMPLIGHTER_ADMIN_KEY"
"""The environment variable that presets the first administrator's key."""


def admin_key() -> str | None:
    """The preset first key, if the environment has one."""
    return os.environ.get(ADMIN_KEY, "").strip() or None  # noqa: TID251 - a secret, and this module is where those are resolved


def check(config: Config) -> None:
    """Resolve every reference in `config` and forget the values. Raises ConfigError, all missing ones in one message."""
    problems = []
    for where, reference in _references(config):
        try:
            resolve(reference, where=where)
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise ConfigError(
            "\n".join(f"{problem.where}: {problem.message}" for problem in problems),
            where=problems[0].where,
            next_step="Set what is missing where `lamplighter up` runs, or correct the references.",
        )


def _references(config: Config) -> Iterator[tuple[str, str]]:
    """Every secret's reference in the tree, by its path."""
    for name, pool in config.pools.items():
        if isinstance(pool, StaticPool | CommandPool) and pool.key is not None:
            yield f"pools.{name}.key", pool.key
    for name, model in config.models.items():
        if model.hub_token is not None:
            yield f"models.{name}.hub_token", model.hub_token
    if config.mesh.passphrase is not None:
        yield "mesh.passphrase", config.mesh.passphrase
    if config.redis.url is not None and config.redis.url.startswith(("env:", "file:")):
        yield "redis.url", config.redis.url
    if config.store.url is not None:
        yield "store.url", config.store.url
    if config.store.listen_url is not None:
        yield "store.listen_url", config.store.listen_url


def resolve(reference: str, *, where: str = "") -> str:
    """The secret behind `reference`, stripped of surrounding white space.

    Raises ConfigError when the variable is unset, the file cannot be read, or the value is empty.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name, "")  # noqa: TID251 - this module is where references to the environment are resolved
        problem = f"the environment variable {name} is not set"
    else:
        try:
            value = Path(name).expanduser().read_text(encoding="utf-8")
            problem = f"the file {name} is empty"
        except (UnicodeDecodeError, RuntimeError) as error:  # RuntimeError: there is no home folder for `~`
            raise ConfigError(f"the secret's file {name} cannot be read as text", where=where) from error
        except OSError as error:
            raise ConfigError(f"the secret's file {name} cannot be read: {error.strerror}", where=where) from error
    value = value.strip()
    if not value:
        raise ConfigError(problem, where=where, next_step="Set it, or correct the reference.")
    return value
