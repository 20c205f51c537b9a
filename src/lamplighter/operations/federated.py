"""The federation as findings for `doctor`. Not responsible for the examination itself (`federation.status`), nor for machines in AWS."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamplighter.config import AwsPool, Config
from lamplighter.core.errors import ProviderError
from lamplighter.core.findings import Finding, Verdict

if TYPE_CHECKING:
    from lamplighter.federation.status import FederationStatus

_LIMIT = 30.0


def examine(config: Config) -> Iterator[Finding]:
    """All findings; none where no pool is federated."""
    if not any(isinstance(pool, AwsPool) and pool.federation == "liqo" for pool in config.pools.values()):
        return
    try:
        status = asyncio.run(_look(config))
    except ProviderError as error:
        yield Finding("federation", Verdict.FAIL, error.message, error.next_step)
        return
    except TimeoutError:
        yield Finding(
            "federation",
            Verdict.FAIL,
            f"the home cluster did not tell within {_LIMIT:g} s",
            "Try `lamplighter federation status`.",
        )
        return
    levels = {"good": Verdict.OK, "waiting": Verdict.WARN, "wrong": Verdict.FAIL}
    for one in status.findings:
        yield Finding(f"federation, {one.about}", levels[one.level], one.text, one.next_step)
    if status.well:
        yield Finding(
            "federation",
            Verdict.OK,
            f"Liqo {status.version} as {status.cluster_id}, {len(status.peers)} clusters joined",
            "`lamplighter federation status` shows each.",
        )


async def _look(config: Config) -> "FederationStatus":
    from lamplighter.federation.node_provider import home_access  # late: who has no cluster shall not pay for its library
    from lamplighter.federation.status import look
    from lamplighter.providers.kubernetes.client import Cluster

    settings = config.federation
    home = Cluster.connect(home_access(settings))
    try:
        async with asyncio.timeout(_LIMIT):
            return await look(
                home, settings.namespace, home_id=settings.cluster_id, mtu=settings.mtu, version=settings.liqo_version
            )
    finally:
        await home.close()
