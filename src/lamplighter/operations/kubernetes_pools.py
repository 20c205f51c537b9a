"""What Kubernetes pools need, as findings for `doctor`. Not responsible for the examination itself (`providers.kubernetes.examine`)."""

import asyncio
from collections.abc import Iterator, Mapping

from lamplighter.config import Config, KubernetesPool
from lamplighter.core.errors import LamplighterError
from lamplighter.core.findings import Finding, Verdict
from lamplighter.engines.base import Containerised, Engine


def examine(config: Config, engines: Mapping[str, Engine]) -> Iterator[Finding]:
    """All findings; none where no pool is in a cluster. `engines`: every kind, by its name in the configuration."""
    for name, pool in config.pools.items():
        if isinstance(pool, KubernetesPool):
            yield from _pool(config, name, pool, engines)


def _pool(config: Config, pool: str, settings: KubernetesPool, engines: Mapping[str, Engine]) -> Iterator[Finding]:
    from lamplighter.providers.kubernetes import examine as of_pool  # late: who has no cluster shall not pay for its library

    images: dict[str, str] = {}
    for name, model in config.models.items():
        engine: object = engines.get(model.engine)
        if model.pool != pool or not isinstance(engine, Containerised):
            continue
        try:
            images[name] = engine.container(name, model, None).image
        except LamplighterError as error:
            yield Finding(f"model {name}", Verdict.FAIL, error.message, error.next_step)
    yield from asyncio.run(of_pool.examine(pool, settings, images))
