"""The provider kind `static`: servers that somebody else keeps running. There is nothing to scale, and each is only observed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from lamplighter.config import CommandPool, ModelConfig, StaticPool
from lamplighter.config.secrets import resolve
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ConfigError, ProviderError
from lamplighter.providers.base import Desired, Observation, Presence

HANDLE = "static"


class StaticProvider:
    """Always-on servers, each for all models of its pool. `models` is asked at every look."""

    stages: tuple[str, ...] = ()

    def __init__(self, pool: str, config: StaticPool, *, models: Callable[[], Mapping[str, ModelConfig]]) -> None:
        self._pool = pool
        self._config = config
        self._models = models

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        """Nothing: it is always there, and not ours to end."""

    async def observe(self) -> Sequence[Observation]:
        """The servers, said to run; whether they do is for their engine's health check. Raises ProviderError when the key cannot be had."""
        names = tuple(sorted(name for name, model in self._models().items() if model.pool == self._pool))
        first = endpoint(self._pool, self._config)
        return [
            Observation(_handle(self._config, url), names, Presence.RUNNING, endpoint=replace(first, url=url))
            for url in self._config.weights
        ]

    async def renew(self) -> None:
        """Nothing: it has no lease."""

    async def close(self) -> None:
        """Nothing is held."""


def _handle(config: StaticPool, url: str) -> str:
    """The same for the same server, in whatever order they are written."""
    return HANDLE if url == config.url else f"{HANDLE}-{sha256(url.encode()).hexdigest()[:8]}"


def endpoint(pool: str, config: StaticPool | CommandPool) -> Endpoint:
    """Made anew each time, so that a rotated secret counts at once. Raises ProviderError when its key cannot be had."""
    if config.key is None:
        return Endpoint(config.url, ca=config.ca)
    try:
        return Endpoint(config.url, resolve(config.key, where=f"pools.{pool}.key"), config.ca)
    except ConfigError as error:
        raise ProviderError(
            f"The key of pool {pool!r} cannot be had: {error.message}.", next_step=error.next_step or "Correct pools.*.key."
        ) from error
