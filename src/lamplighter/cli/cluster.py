"""`lamplighter cluster`: what Lamplighter needs on a Kubernetes cluster, put there and taken away again.

Not responsible for doing any of it: `operations.cluster` does.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, of, table

if TYPE_CHECKING:
    from lamplighter.operations.cluster.helm import Helm
    from lamplighter.operations.cluster.plan import Step
    from lamplighter.providers.kubernetes.client import Cluster

T = TypeVar("T")

cluster = typer.Typer(help="Put on a Kubernetes cluster what Lamplighter needs there, and take it away.", no_args_is_help=True)

ContextOption = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="The kubeconfig's context; default: its current one.")
]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="The kubeconfig; default: $KUBECONFIG, or ~/.kube/config.")
]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", metavar="PART", help="Only this part; may be given again.")]
SkipOption = Annotated[list[str] | None, typer.Option("--skip", metavar="PART", help="Not this part; may be given again.")]
ValuesOption = Annotated[
    Path | None,
    typer.Option("--values", metavar="FILE", help="Your values: parts at the top, under each the values of its chart. They win."),
]
ChartsOption = Annotated[
    Path | None,
    typer.Option(
        "--charts", metavar="DIR", help="A folder with the charts, for clusters without the internet; default: download."
    ),
]
TimeoutOption = Annotated[
    int, typer.Option("--timeout", min=10, metavar="SECONDS", help="How long one part may take, its images' download included.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(cluster, name="cluster")


@cluster.command("install")
def install(
    context: typer.Context,
    kube_context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    only: OnlyOption = None,
    skip: SkipOption = None,
    values: ValuesOption = None,
    charts: ChartsOption = None,
    timeout: TimeoutOption = 900,
    yes: YesOption = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring every part to where it should be, after saying what is there, what is yours, and what will be done.

    Safe to run again: what is as it should be stays, what was interrupted is brought to its end, what is your own is used and never touched."""
    _bring(context, kube_context, kubeconfig, only, skip, values, charts, timeout, yes, named, add=True)


@cluster.command("upgrade")
def upgrade(
    context: typer.Context,
    kube_context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    only: OnlyOption = None,
    skip: SkipOption = None,
    values: ValuesOption = None,
    charts: ChartsOption = None,
    timeout: TimeoutOption = 900,
    yes: YesOption = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the parts that are there to the versions and values of this Lamplighter. Adds none.

    Give --values again: what a file once said is not remembered."""
    _bring(context, kube_context, kubeconfig, only, skip, values, charts, timeout, yes, named, add=False)


@cluster.command("status")
def status(
    context: typer.Context,
    kube_context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each part: whose it is, its version, and whether it is ready. Exit status 1 when one of ours is not."""
    invocation = of(context)
    from lamplighter.operations.cluster import run

    async def ask(home: "Cluster", helm: "Helm") -> Any:
        return await run.status(home, helm)

    seen, standing = _with(kube_context, kubeconfig, None, 60, ask)
    invocation.note(f"{seen.server}, Kubernetes {seen.version}")
    invocation.show(
        {
            "server": seen.server,
            "kubernetes": seen.version,
            "parts": [{"part": one.part.name, "state": one.state, "version": one.version, "text": one.text} for one in standing],
        },
        table(("part", "state", "version", ""), [(one.part.name, one.state, one.version or "-", one.text) for one in standing]),
    )
    if any(one.state in ("failed", "starting") for one in standing):
        raise typer.Exit(1)


@cluster.command("uninstall")
def uninstall(
    context: typer.Context,
    kube_context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    only: OnlyOption = None,
    skip: SkipOption = None,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete the volumes of what is removed, too. Nothing brings them back.")
    ] = False,
    timeout: TimeoutOption = 900,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take away what `install` put there, the last first. Volumes stay unless you say otherwise; what is your own is never touched."""
    invocation = of(context)
    from lamplighter.operations.cluster import parts, plan, run
    from lamplighter.operations.cluster.sight import look

    wanted = {part.name for part in parts.chosen(only or (), skip or ())}

    async def work(home: "Cluster", helm: "Helm") -> Any:
        seen = await look(home)
        steps = plan.uninstall(seen, await asyncio.to_thread(helm.list), wanted)
        _show(invocation, seen.server, steps)
        run.guard(steps, seen)
        left = run.Left()
        if any(step.action.changes for step in steps):
            question = "Remove this, and delete its volumes for ever?" if delete_data else "Remove this?"
            _ask(invocation, yes, question)
            left = await run.uninstall(home, helm, steps, _teller(invocation), delete_data=delete_data)
        return steps, left

    steps, left = _with(kube_context, kubeconfig, None, timeout, work)
    for claim in left.claims:
        invocation.note(f"Kept: the volume claim {claim}. --delete-data deletes it.")
    for space in left.namespaces:
        invocation.note(f"Kept: the namespace {space}, which was there before, or holds something else.")
    if invocation.json:
        kept = {"claims": left.claims, "namespaces": left.namespaces}
        invocation.show({"steps": run.as_json(steps), "kept": kept, "deleted_claims": left.deleted})


def _bring(
    context: typer.Context,
    kube_context: str | None,
    kubeconfig: Path | None,
    only: list[str] | None,
    skip: list[str] | None,
    values: Path | None,
    charts: Path | None,
    timeout: int,
    yes: bool,
    named: Path | None,
    *,
    add: bool,
) -> None:
    """Both `install` and `upgrade`."""
    invocation = of(context)
    from lamplighter.operations.cluster import prepare, run

    config, _ = read(invocation, named)
    asked = prepare.Asked(tuple(only or ()), tuple(skip or ()), values, add)

    async def work(home: "Cluster", helm: "Helm") -> Any:
        seen, steps = await prepare.plan(home, helm, config, asked)
        _show(invocation, seen.server, steps)
        run.guard(steps, seen)
        if any(step.action.changes for step in steps):
            _ask(invocation, yes, "Do this?")
            await run.install(home, helm, steps, _teller(invocation))
            invocation.note("Done. `lamplighter cluster status` shows how each part stands.")
        else:
            invocation.note("Nothing to do: everything is as it should be.")
        return steps

    steps = _with(kube_context, kubeconfig, charts, timeout, work)
    if invocation.json:
        invocation.show({"steps": run.as_json(steps)})


def _with(
    kube_context: str | None,
    kubeconfig: Path | None,
    charts: Path | None,
    timeout: int,
    work: Callable[["Cluster", "Helm"], Awaitable[T]],
) -> T:
    """Do `work` with the cluster and Helm. Raises ProviderError, ClusterError."""
    from lamplighter.operations.cluster.helm import Helm
    from lamplighter.providers.kubernetes.client import Access, Cluster

    access = Access(context=kube_context, kubeconfig=kubeconfig)
    helm = Helm(access, charts, timeout)

    async def go() -> T:
        home = Cluster.connect(access)
        try:
            return await work(home, helm)
        finally:
            await home.close()

    return asyncio.run(go())


def _show(invocation: Invocation, server: str, steps: "Sequence[Step]") -> None:
    """The plan, for a person."""
    if invocation.json:
        return
    invocation.note(f"The cluster: {server}")
    rows = [(step.part.name, step.action.value, step.version or "-", step.part.namespace, step.why) for step in steps]
    invocation.show(None, table(("part", "what", "now", "namespace", "because"), rows))


def _teller(invocation: Invocation) -> "Callable[[Step, str], None]":
    def tell(step: "Step", event: str) -> None:
        invocation.note(f"{step.part.name}: {step.action.value} ..." if event == "begins" else f"{step.part.name}: done")

    return tell


def _ask(invocation: Invocation, yes: bool, question: str) -> None:
    """Go on only when a person says yes, or said `--yes`. Raises Refused."""
    from lamplighter.operations.cluster.errors import Refused

    if yes:
        return
    if invocation.json or not sys.stdin.isatty():
        raise Refused("changing the cluster was not confirmed", next_step="Add --yes.")
    if not typer.confirm(question, default=False, err=True):
        raise Refused("nothing was done: you said no")
