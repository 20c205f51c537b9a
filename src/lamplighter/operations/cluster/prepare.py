"""From what a person asked and what the cluster is to a plan: the one place that asks the cluster, Helm and the configuration together."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamplighter.config import Config
from lamplighter.federation import install as liqo
from lamplighter.operations.cluster import parts, values
from lamplighter.operations.cluster import plan as planning
from lamplighter.operations.cluster.errors import ClusterError
from lamplighter.operations.cluster.helm import Releases
from lamplighter.operations.cluster.parts import Chart
from lamplighter.operations.cluster.plan import Step
from lamplighter.operations.cluster.sight import Seen, look
from lamplighter.providers.kubernetes.client import Cluster

NO_FEDERATION = "no pool of the configuration asks for a federation; `--only liqo` installs it all the same"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person said. `add`: whether parts may be added."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    values: Path | None = None
    add: bool = True


async def plan(cluster: Cluster, releases: Releases, config: Config, asked: Asked) -> tuple[Seen, Sequence[Step]]:
    """What is there, and what is to be done. Raises ClusterError, KubernetesError, HelmFailed."""
    wanted = {part.name for part in parts.chosen(asked.only, asked.skip)}
    person = values.read(asked.values)
    seen, known = await asyncio.gather(look(cluster), asyncio.to_thread(releases.list))
    federated = federates(config) or "liqo" in asked.only
    installed = any(release.part == "liqo" for release in known)
    told = await _liqo(cluster, config) if "liqo" in wanted and (federated or installed) else None
    needless = {} if federated else {"liqo": NO_FEDERATION}

    liqo_chart = Chart(liqo.CHART, config.federation.liqo_version, parts.BY_NAME["liqo"].chart.repository)
    wished = [replace(part, chart=liqo_chart) if part.name == "liqo" else part for part in parts.PARTS]

    def decide(monitors: bool) -> Sequence[Step]:
        whole = values.complete(person, monitors=monitors, liqo=told, federation=federates(config))
        return planning.install(seen, known, wanted, whole, add=asked.add, needless=needless, parts=wished)

    return seen, decide(planning.has_monitors(decide(False), seen))


def federates(config: Config) -> bool:
    """Whether the configuration has a pool whose machines join by Liqo."""
    return any(getattr(pool, "federation", "none") == "liqo" for pool in config.pools.values())


async def _liqo(cluster: Cluster, config: Config) -> Mapping[str, Any]:
    """Liqo's values for this cluster as the home of the federation. Raises ClusterError when its networks cannot be found out."""
    settings = config.federation
    kind, networks = await liqo.examine(cluster)
    if settings.distribution != "auto":
        kind = settings.distribution
    pods = settings.pod_cidr or (networks.pods if networks else None)
    services = settings.service_cidr or (networks.services if networks else None)
    if pods is None or services is None:
        raise ClusterError(
            "the cluster does not tell its networks of pods and services, which Liqo must know",
            next_step="Set federation.pod_cidr and federation.service_cidr in lamplighter.yaml, or leave Liqo out: --skip liqo.",
        )
    if networks is not None and networks.problems:
        raise ClusterError(
            f"the network of pods is not {networks.pods}: {networks.problems[0]}",
            next_step="Correct federation.pod_cidr in lamplighter.yaml.",
        )
    return liqo.values(
        kind,
        cluster_id=settings.cluster_id,
        api_server=settings.api_server or cluster.server,
        pod_cidr=pods,
        service_cidr=services,
        reserved=(str(config.mesh.network),),
        version=settings.liqo_version,
    )
