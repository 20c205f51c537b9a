"""`lamplighter federation offload`, `status`, `canary` and `doctor`: the open namespace, and what is seen of the federation."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.config import ConfigOption
from lamplighter.cli.federation_shared import Desk, LimitOption
from lamplighter.cli.invocation import DataOption, JsonOption, table
from lamplighter.cli.words import ago
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.federation.canary import CanaryResult
    from lamplighter.federation.offload import OffloadStatus
    from lamplighter.federation.status import FederationStatus, Finding

_PAUSE = 1.0
_MARKS = {"good": "ok", "waiting": "..", "wrong": "!!"}


def register(group: typer.Typer) -> None:
    """Add the commands to the group."""
    group.command("offload")(offload)
    group.command("status")(status)
    group.command("canary")(canary)
    group.command("doctor")(doctor)


def offload(
    context: typer.Context,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Delete pods that came too early and that something makes again.")
    ] = False,
    limit: LimitOption = 60,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open the namespace of the configuration, so that its pods run in joined clusters only. Safe to run again.

    Exit status 1 when it is not open, or pods are there that came too early."""
    desk = Desk.at(context, named)
    space = desk.config.federation.namespace

    async def open_() -> "tuple[OffloadStatus, tuple[str, ...]]":
        import asyncio

        from lamplighter.federation import offload as work

        async with desk.cluster(None, None) as home:
            loop = asyncio.get_running_loop()
            end = loop.time() + limit
            found = await work.ensure(home, space)
            while not found.ready and found.reason == "in_progress" and loop.time() < end:
                await asyncio.sleep(_PAUSE)
                found = await work.ensure(home, space)
            again = await work.recreate(home, space) if recreate and found.early else ()
            return (await work.ensure(home, space) if again else found), again

    found, again = desk.run(open_())
    if desk.invocation.json:
        desk.invocation.show({"namespace": space, **asdict(found), "recreated": again})
    for name in again:
        desk.invocation.note(f"Deleted {name}; whoever made it makes it again.")
    if found.reason is None:
        twins = ", ".join(found.twins) or "no cluster yet"
        desk.invocation.note(f"Namespace {space} is open: {twins}.")
        return
    if not desk.invocation.json:
        raise LamplighterError(str(found.detail), code=found.reason, next_step=found.next_step)
    raise typer.Exit(1)


def status(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show joined clusters and what is wrong with them, as seen from home. Exit status 1 when something is wrong."""
    desk = Desk.at(context, named)
    config = desk.config.federation

    async def look() -> "FederationStatus":
        from lamplighter.federation.status import look as work

        async with desk.cluster(None, None) as home:
            return await work(home, config.namespace, home_id=config.cluster_id, mtu=config.mtu, version=config.liqo_version)

    seen = desk.run(look())
    if desk.invocation.json:
        desk.invocation.show({**asdict(seen), "well": seen.well})
    else:
        _table(desk, seen)
        _say(desk, seen.findings)
    if not seen.well:
        raise typer.Exit(1)


def canary(
    context: typer.Context,
    cluster_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The joined cluster to send it to; default: whichever takes it.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", help="Instead of the usual one; it must answer as traefik/whoami does."),
    ] = None,
    limit: LimitOption = 180,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a small pod to a joined cluster, ask it something short and something long, and remove it.

    Exit status 1 when it was not placed, did not start, or was not heard."""
    desk = Desk.at(context, named)

    async def fly() -> "CanaryResult":
        from lamplighter.federation import canary as work

        async with desk.cluster(None, None) as home:
            return await work.run(
                home, desk.config.federation.namespace, cluster_id, image=image or work.IMAGE, limit=limit,
                told=lambda words: desk.invocation.note(f"  it {words}"),
            )  # fmt: skip

    found = desk.run(fly())
    if desk.invocation.json:
        desk.invocation.show(asdict(found))
    if found.ok:
        times = ", ".join(f"{step} after {seconds} s" for step, seconds in found.seconds.items())
        desk.invocation.note(f"A pod on {found.node} answered at {found.address}, short and long ({times}); it is removed.")
        return
    if not desk.invocation.json:
        raise LamplighterError(str(found.detail), code=str(found.reason), next_step=found.next_step)
    raise typer.Exit(1)


def doctor(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check what must be right at home before clusters are joined, and what is joined. Changes nothing. Exit status 1 when something is wrong."""
    desk = Desk.at(context, named)
    config, mesh = desk.config.federation, desk.config.mesh

    async def examine() -> "Sequence[Finding]":
        from lamplighter.federation import check
        from lamplighter.federation.status import look

        async with desk.cluster(None, None) as home:
            findings = await check.home(
                home, home_id=config.cluster_id, mesh=mesh.network, mesh_mtu=mesh.mtu, mtu=config.mtu, version=config.liqo_version,
                pods=config.pod_cidr, services=config.service_cidr,
            )  # fmt: skip
            seen = await look(home, config.namespace, home_id=config.cluster_id, mtu=config.mtu, version=config.liqo_version)
            known = {finding.text for finding in findings}
            return [*findings, *(finding for finding in seen.findings if finding.text not in known)]

    findings = desk.run(examine())
    if desk.invocation.json:
        desk.invocation.show({"findings": [asdict(one) for one in findings]})
    else:
        _say(desk, findings)
    if any(one.level == "wrong" for one in findings):
        raise typer.Exit(1)


def _table(desk: Desk, seen: "FederationStatus") -> None:
    rows = [
        (
            peer.cluster_id, peer.level, peer.node or "-", peer.tunnel or "-", peer.latency or "-", "-" if peer.mtu is None else str(peer.mtu),
            ", ".join(f"{amount} {name}" for name, amount in peer.granted.items() if name in ("cpu", "memory") or "/" in name) or "-",
            str(len(peer.pods)), ago(peer.age_seconds),
        )
        for peer in seen.peers
    ]  # fmt: skip
    desk.invocation.note(f"Liqo {seen.version or '?'} as {seen.cluster_id!r}, namespace {desk.config.federation.namespace}.")
    if rows:
        columns = ("cluster", "state", "node", "tunnel", "latency", "mtu", "granted", "pods", "joined")
        desk.invocation.show(None, table(columns, rows))


def _say(desk: Desk, findings: "Sequence[Finding]") -> None:
    lines = []
    for one in findings:
        step = f" {one.next_step}" if one.next_step and one.level != "good" else ""
        lines.append(f"{_MARKS[one.level]}  {one.about}: {one.text}{step}")
    desk.invocation.show(None, "\n".join(lines) or "Nothing is joined.")
