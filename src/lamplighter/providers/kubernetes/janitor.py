"""Puts to sleep what nobody looks after: `python -m lamplighter.providers.kubernetes.janitor`, run by a CronJob (`cronjobs.janitor`).

A keeper that runs renews its workloads every minute. When it is gone for good (a laptop that was closed, a database that is lost), its pods would
go on for ever, and with them the nodes that an autoscaler gave them. Not responsible for anything that a keeper still renews.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from lamplighter.core.errors import LamplighterError
from lamplighter.providers.kubernetes import names
from lamplighter.providers.kubernetes.client import Access, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import DEPLOYMENT, LEADER_WORKER_SET, STATEFUL_SET, Manifest
from lamplighter.providers.kubernetes.reading import annotations, created, moment, name

MANAGER = "lamplighter-janitor"
AFTER = 900.0
"""Seconds without renewal: far longer than a keeper's restart or a database's failover."""


async def release(cluster: Cluster, namespace: str, *, after: float = AFTER, now: float | None = None) -> Sequence[str]:
    """Scale to nothing what was not renewed for `after` seconds; the names of what was. Raises ProviderError."""
    at = time.time() if now is None else now
    released: list[str] = []
    for kind in (DEPLOYMENT, STATEFUL_SET, LEADER_WORKER_SET):
        try:
            found = await cluster.list(kind, namespace, labels={names.MANAGED_BY: names.OURS, names.NAME: names.APP})
        except KubernetesError as error:
            if kind is LEADER_WORKER_SET and error.status in (403, 404):
                continue  # nobody installed it, or this account need not know of it
            raise
        for workload in found:
            if abandoned(workload, at, after):
                await cluster.patch_scale(kind, name(workload), namespace, 0, manager=MANAGER)
                released.append(name(workload))
    return released


def abandoned(workload: Manifest, now: float, after: float) -> bool:
    """Whether it has replicas that nobody looks after."""
    if not int((workload.get("spec") or {}).get("replicas", 1) or 0):
        return False
    renewed = moment(annotations(workload).get(names.RENEWED)) or created(workload)
    return now - renewed >= after


async def _run(namespace: str | None, after: float) -> Sequence[str]:
    cluster = Cluster.connect(Access(namespace=namespace))
    try:
        return await release(cluster, cluster.namespace, after=after)
    finally:
        await cluster.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="lamplighter-janitor", description="Put to sleep what no keeper has renewed for a while."
    )
    parser.add_argument("--namespace", help="of the models; default: this pod's own")
    parser.add_argument("--after", type=float, default=AFTER, metavar="SECONDS", help="without renewal (default: %(default)g)")
    given = parser.parse_args(arguments)
    try:
        released = asyncio.run(_run(given.namespace, given.after))
    except LamplighterError as error:
        print(error.advice, file=sys.stderr)  # noqa: T201 - a program's own output
        return error.exit_code
    print(f"put to sleep: {', '.join(released)}" if released else "everything is looked after")  # noqa: T201 - a program's own output
    return 0


if __name__ == "__main__":
    sys.exit(main())
