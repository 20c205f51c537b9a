"""`lamplighter federation`: joins clusters with GPUs to the home cluster by Liqo, and parts them again. This file: install, peer and unpeer.

Not responsible for doing any of it: `lamplighter.federation` does. Offloading, status, canary and doctor are in `federation_watch`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli import federation_watch
from lamplighter.cli.config import ConfigOption
from lamplighter.cli.federation_shared import (
    AddressOption,
    ClusterArgument,
    ContextOption,
    Desk,
    KubeconfigOption,
    LimitOption,
    YesOption,
)
from lamplighter.cli.invocation import DataOption, JsonOption
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.federation.install import Release
    from lamplighter.federation.peering import PeerSpec, PeerStatus, Retreat, Slice
    from lamplighter.providers.kubernetes.client import Cluster

federation = typer.Typer(help="Join clusters with GPUs to the home cluster by Liqo, over the mesh.", no_args_is_help=True)
_PAUSE = 2.0


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    federation_watch.register(federation)
    app.add_typer(federation, name="federation")


@federation.command("install")
def install(
    context: typer.Context,
    kubeconfig: KubeconfigOption = None,
    kube_context: ContextOption = None,
    cluster_id: Annotated[
        str | None,
        typer.Option("--cluster-id", metavar="ID", help="Of a cluster that is not home; it cannot be changed afterwards."),
    ] = None,
    api_server: Annotated[
        str | None,
        typer.Option(
            "--api-server", metavar="URL", help="Its API server as the other side reaches it: by its address in the mesh."
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="talos, k3s or generic; default: as its nodes say.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="It has GPUs to share: its virtual node gets node-type=gpu.")] = False,
    show: Annotated[
        bool, typer.Option("--print", help="Print namespace, values and commands instead, for GitOps or by hand.")
    ] = False,
    yes: YesOption = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install Liqo with the settings that these clusters need: at home, or with --kubeconfig in a cluster that is to be joined.

    Safe to run again: it is upgraded to what the configuration says, unless clusters are joined."""
    desk = Desk.at(context, named)
    if (kubeconfig is None) != (cluster_id is None):
        raise LamplighterError(
            "a cluster that is not home needs --kubeconfig and --cluster-id", next_step="Without both, Liqo is installed at home."
        )

    async def prepare() -> "Release":
        async with desk.cluster(kubeconfig, kube_context) as cluster:
            return await _release(desk, cluster, cluster_id, api_server, kind, gpu=gpu)

    release = desk.run(prepare())
    if show:
        _print(desk, release)
        return
    done = _helm(desk, release, kubeconfig, kube_context, yes)
    desk.invocation.note(
        f"Liqo {release.version} is {done}. Next: `lamplighter federation {'offload' if cluster_id is None else 'peer ' + cluster_id}`."
    )
    if desk.invocation.json:
        desk.invocation.show({"release": asdict(release), "done": done})


@federation.command("peer")
def peer(
    context: typer.Context,
    cluster_id: ClusterArgument,
    kubeconfig: KubeconfigOption = None,
    kube_context: ContextOption = None,
    address: AddressOption = None,
    instance_type: Annotated[
        str | None, typer.Option("--instance-type", metavar="TYPE", help="Share by this instance type instead of by its nodes.")
    ] = None,
    share: Annotated[
        float | None, typer.Option("--share", min=0.01, max=1, help="Share of what is allocatable; default: the configuration's.")
    ] = None,
    cpu: Annotated[str | None, typer.Option("--cpu", help="Ask for this much, such as 3 or 3500m.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Ask for this much, such as 12Gi.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=0, help="Ask for so many GPUs.")] = None,
    bidirectional: Annotated[
        bool | None,
        typer.Option("--bidirectional/--one-way", help="May it use the home cluster too? Default: the configuration's."),
    ] = None,
    limit: LimitOption = 300,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join a cluster, or go on with it, and wait until its virtual node is ready. Safe to run again.

    Exit status 1 when it is not ready within the limit; what was done stays, and the next call goes on."""
    desk = Desk.at(context, named)

    async def join() -> "PeerStatus":
        from lamplighter.federation.peering import advance

        async with desk.cluster(None, None) as home, desk.cluster(_needed(kubeconfig), kube_context) as remote:
            spec = await _spec(desk, remote, cluster_id, address, instance_type, share)
            asked = {"cpu": cpu, "memory": memory, "gpus": gpus, "bidirectional": bidirectional}
            spec = replace(spec, **{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
            desk.invocation.note(
                f"Asking {cluster_id} for {', '.join(f'{amount} {name}' for name, amount in spec.resources().items())}; "
                f"tunnel to {spec.gateway_address}:{spec.gateway_port} (UDP), MTU {spec.mtu}."
            )
            return await _until_ready(desk, lambda: advance(home, remote, spec), limit)

    status = desk.run(join())
    if desk.invocation.json:
        desk.invocation.show(asdict(status))
    if status.ready:
        desk.invocation.note(f"{cluster_id} is joined: virtual node {status.node} is ready.")
        return
    if not desk.invocation.json:
        raise LamplighterError(str(status.detail), code=str(status.reason), next_step=status.next_step)
    raise typer.Exit(1)


@federation.command("unpeer")
def unpeer(
    context: typer.Context,
    cluster_id: ClusterArgument,
    kubeconfig: KubeconfigOption = None,
    kube_context: ContextOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="The cluster is gone for good: do not ask it, and end pods that hang on its node.")
    ] = False,
    limit: LimitOption = 300,
    yes: YesOption = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Part from a cluster, so that nothing is left on either side. Its pods end first, in their own time.

    With --force nothing is asked of the other side; it is refused while Liqo still reaches it. Exit status 1 when something is left."""
    desk = Desk.at(context, named)
    if not force and kubeconfig is None:
        raise LamplighterError(
            "parting needs the other cluster's --kubeconfig, so that nothing is left there",
            next_step="Give it; or --force when that cluster is gone for good.",
        )
    what = (
        "End what runs there, and remove all that is left of it at home"
        if force
        else "End what runs there, and part on both sides"
    )
    desk.ask(yes, f"{what} ({cluster_id})?", what=f"parting from {cluster_id}")

    async def part() -> "Retreat":
        from lamplighter.federation.peering import retreat

        config = desk.config.federation
        async with desk.cluster(None, None) as home, desk.cluster_or_none(None if force else kubeconfig, kube_context) as remote:
            return await _until_parted(
                desk, lambda: retreat(home, remote, cluster_id, planned=not force, home_id=config.cluster_id), limit
            )

    done = desk.run(part())
    if desk.invocation.json:
        desk.invocation.show(asdict(done))
    if done.done:
        desk.invocation.note(f"Nothing of {cluster_id} is left.")
        return
    if not desk.invocation.json:
        raise LamplighterError(
            f"{len(done.remains)} things of {cluster_id} are still there: {'; '.join(done.remains)}",
            code="not_parted",
            next_step="Run it again; `lamplighter federation status` tells what holds them.",
        )
    raise typer.Exit(1)


async def _release(
    desk: Desk, cluster: "Cluster", cluster_id: str | None, api_server: str | None, kind: str | None, *, gpu: bool
) -> "Release":
    from lamplighter.federation import install as settings
    from lamplighter.federation.names import NODE_LABEL

    config = desk.config.federation
    seen, networks = await settings.examine(cluster)
    home = cluster_id is None
    wanted = kind or (config.distribution if home and config.distribution != "auto" else None)
    chosen = next((one for one in ("talos", "k3s", "generic") if one == (wanted or seen)), None)
    if chosen is None:
        raise LamplighterError(f"there is no kind {wanted!r} of clusters", next_step="It is talos, k3s or generic.")
    pods = (config.pod_cidr if home else None) or (networks and networks.pods)
    services = (config.service_cidr if home else None) or (networks and networks.services)
    if not pods or not services:
        raise LamplighterError(
            "the cluster does not tell the networks of its pods and services",
            next_step="Set `federation.pod_cidr` and `federation.service_cidr`; another cluster than home must be asked where it can be told.",
        )
    if networks is not None and networks.problems:
        raise LamplighterError(
            f"the network of pods is not {networks.pods}: {networks.problems[0]}", next_step="Correct `federation.pod_cidr`."
        )
    url = api_server or (str(config.api_server) if home and config.api_server else cluster.server)
    told = settings.values(
        chosen,
        cluster_id=cluster_id or config.cluster_id,
        api_server=url,
        pod_cidr=pods,
        service_cidr=services,
        reserved=[desk.config.mesh.network],
        version=config.liqo_version,
        cluster_labels=dict([NODE_LABEL]) if gpu else None,
    )
    return settings.release(told, config.liqo_version)


def _print(desk: Desk, release: "Release") -> None:
    import yaml

    from lamplighter.federation import install as settings

    if desk.invocation.json:
        desk.invocation.show({"namespace": settings.namespace(), **asdict(release), "commands": settings.commands(release)})
        return
    lines = [
        "# liqo-namespace.yaml",
        yaml.safe_dump(settings.namespace(), sort_keys=False),
        "---",
        "# liqo-values.yaml",
        settings.values_text(release),
    ]
    desk.invocation.show(None, "\n".join([*lines, *(f"# {command}" for command in settings.commands(release))]))


def _helm(desk: Desk, release: "Release", kubeconfig: Path | None, kube_context: str | None, yes: bool) -> str:
    from lamplighter.federation import install as settings
    from lamplighter.operations.cluster.helm import Helm
    from lamplighter.operations.cluster.parts import PARTS
    from lamplighter.operations.cluster.plan import digest

    part = next(one for one in PARTS if one.name == "liqo")
    part = replace(part, chart=replace(part.chart, version=release.version))
    helm = Helm(desk.access(kubeconfig, kube_context))
    there = next((one for one in helm.list() if (one.name, one.namespace) == (part.release, part.namespace)), None)
    stamp = digest(release.version, release.values)
    if there is not None and there.digest == stamp and there.status == "deployed":
        return "installed as it should be already"

    async def ready() -> Sequence[str]:
        async with desk.cluster(kubeconfig, kube_context) as cluster:
            from lamplighter.federation import names
            from lamplighter.providers.kubernetes.kinds import NODE

            await cluster.apply(settings.namespace(), force=True)
            nodes = await cluster.list(NODE, labels={names.NODE_TYPE: names.VIRTUAL})
            return [node["metadata"]["name"] for node in nodes]

    if there is not None:
        joined = desk.run(ready())
        if joined and there.version != release.version:
            raise LamplighterError(
                f"Liqo {there.version} cannot be upgraded while clusters are joined ({', '.join(joined)})",
                next_step="Part from them first: `lamplighter federation unpeer`.",
            )
    desk.ask(yes, f"{'Upgrade' if there else 'Install'} Liqo {release.version}?", what="installing Liqo")
    desk.run(ready())
    desk.invocation.note("Helm waits until Liqo's pods run; this takes a few minutes.")
    if there is None:
        helm.install(part, release.values, stamp)
        return "installed"
    helm.upgrade(part, release.values, stamp)
    return "upgraded"


async def _spec(
    desk: Desk, remote: "Cluster", cluster_id: str, address: str | None, instance_type: str | None, share: float | None
) -> "PeerSpec":
    from lamplighter.federation.peering import PeerSpec

    config = desk.config.federation
    amounts = await _amounts(remote, instance_type, share or config.share)
    spec = PeerSpec(
        cluster_id=cluster_id,
        home_id=config.cluster_id,
        mtu=config.mtu,
        gateway_address=desk.in_mesh(address, remote.server),
        gateway_port=config.gateway_port,
        bidirectional=config.bidirectional,
    )
    return spec.with_slice(amounts)


async def _amounts(remote: "Cluster", instance_type: str | None, share: float) -> "Slice":
    from lamplighter.federation.peering import slice_for, slice_of
    from lamplighter.providers.kubernetes.kinds import NODE

    if instance_type is not None:
        return slice_for(instance_type, share)
    return slice_of(await remote.list(NODE), share)


async def _until_ready(desk: Desk, step: Any, limit: float) -> "PeerStatus":
    loop = asyncio.get_running_loop()
    end, told = loop.time() + limit, ""
    while True:
        status: PeerStatus = await step()
        if status.ready or status.state == "failed":
            return status
        if status.detail and status.detail != told:
            told = status.detail
            desk.invocation.note(f"  {status.state}: {told}")
        if loop.time() + _PAUSE > end:
            late = f"{cluster_words(status)} It was not ready within {limit:.0f} s."
            return replace(status, detail=late)
        await asyncio.sleep(_PAUSE)


async def _until_parted(desk: Desk, step: Any, limit: float) -> "Retreat":
    loop = asyncio.get_running_loop()
    end, told = loop.time() + limit, ""
    while True:
        done: Retreat = await step()
        if done.done or loop.time() + _PAUSE > end:
            return done
        if done.remains and done.remains[0] != told:
            told = done.remains[0]
            desk.invocation.note(
                f"  still there: {told}" + (f" and {len(done.remains) - 1} more" if len(done.remains) > 1 else "")
            )
        await asyncio.sleep(_PAUSE)


def cluster_words(status: "PeerStatus") -> str:
    """Where a peering stands, as a sentence."""
    return str(status.detail or f"It stands at {status.state}.")


def _needed(kubeconfig: Path | None) -> Path:
    if kubeconfig is None:
        raise LamplighterError(
            "joining needs the other cluster's --kubeconfig",
            next_step="k3s writes it to /etc/rancher/k3s/k3s.yaml; put its address in the mesh into it.",
        )
    return kubeconfig
