"""`lamplighter cloud`: what is built in AWS, what it costs, what runs there. This file: the group, and plan, apply and destroy.

Not responsible for doing any of it: `operations.cloud` does, and `cloud_watch`, `cloud_bake` and `cloud_smoke` hold the other commands.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli import cloud_bake, cloud_smoke, cloud_watch
from lamplighter.cli.cloud_shared import InstallationOption, ask, installation_of, money, standing_table
from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, of

if TYPE_CHECKING:
    from lamplighter.config import Config
    from lamplighter.operations.cloud.build import Outlook, Session, Site
    from lamplighter.operations.cloud.stacks import Stack

cloud = typer.Typer(help="Build, watch and take down what cloud pools need in AWS.", no_args_is_help=True)

StackOption = Annotated[
    str | None, typer.Option("--stack", metavar="NAME[/REGION]", help="Only this stack; default: all of the configuration.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    for part in (cloud_watch, cloud_bake, cloud_smoke):
        part.register(cloud)
    app.add_typer(cloud, name="cloud")


@cloud.command("plan")
def plan(
    context: typer.Context,
    stack: StackOption = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what `apply` would make, change and destroy, and what that costs while nothing runs. Changes nothing."""
    invocation = of(context)
    shown = [
        _with_session(invocation, named, one, lambda session: _outlook(invocation, session))
        for one in _chosen(invocation, named, stack)
    ]
    if invocation.json:
        invocation.show({"stacks": [_as_json(outlook) for outlook in shown]})


@cloud.command("apply")
def apply(
    context: typer.Context,
    stack: StackOption = None,
    yes: YesOption = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build what the configuration asks for, after saying what and for how much.

    Safe to run again: what is there already stays. Ctrl-C lets Terraform finish what it has begun."""
    invocation = of(context)

    def build(session: "Session") -> "Outlook":
        outlook = _outlook(invocation, session)
        if outlook.changes:
            ask(
                invocation, yes, f"Build this in account {outlook.identity.account}, {outlook.stack.region}?",
                what="building in your AWS account",
            )  # fmt: skip
            session.apply()
        session.verify()
        invocation.note(f"The stack {outlook.stack.title} is as the configuration says, and its manifest can be read.")
        invocation.note(f"Everything in it carries the installation {session.site.installation}.")
        return outlook

    done = [_with_session(invocation, named, one, build) for one in _chosen(invocation, named, stack)]
    if invocation.json:
        invocation.show({"stacks": [_as_json(outlook) for outlook in done]})


@cloud.command("destroy")
def destroy(
    context: typer.Context,
    stack: StackOption = None,
    yes: YesOption = False,
    keep_backups: Annotated[
        bool,
        typer.Option("--keep-backups", help="Leave the stack's bucket with all that is in it; it goes on costing by its size."),
    ] = False,
    limit: Annotated[
        float, typer.Option("--limit", min=1, metavar="SECONDS", help="How long to wait until machines are gone.")
    ] = 600,
    installation: InstallationOption = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a stack down: end its machines and prove it, delete what it keeps, and show what is left.

    Exit status 1 when something of it is still there."""
    invocation = of(context)
    results = []
    for one in _chosen(invocation, named, stack):
        site = _site(invocation, named, installation)
        results.append(_destroy(invocation, site, one, yes=yes, keep_backups=keep_backups, limit=limit))
    if invocation.json:
        invocation.show({"stacks": results})
    if any(result["left"] for result in results):
        raise typer.Exit(1)


def _destroy(
    invocation: Invocation, site: "Site", stack: "Stack", *, yes: bool, keep_backups: bool, limit: float
) -> dict[str, Any]:
    from lamplighter.operations.cloud import build

    with build.opened(site, stack, destroying=True) as session:
        found = build.doomed(site, stack)
        outlook = session.outlook(destroy=True)
        invocation.note(f"{stack.title}, account {outlook.identity.account}:")
        for line in outlook.words or ["Terraform's state is empty: it knows nothing to destroy."]:
            invocation.note(f"  {line}")
        for item in found.running:
            invocation.note(f"  end {item.id}: {item.detail}")
        if found.images:
            invocation.note(f"  delete {len(found.images)} baked images with {len(found.snapshots)} snapshots")
        if found.bucket is not None and found.objects and not keep_backups:
            from lamplighter.cli.words import size

            listed = ", ".join(f"{count} in {head}/" for head, count in sorted(found.objects.items()))
            invocation.note(f"  delete the bucket {found.bucket} with {listed}; {size(found.size)} in all")
        ask(invocation, yes, f"Destroy all this in {stack.region}?", what="destroying it")
        if found.objects.get("backups") and not keep_backups:
            ask(
                invocation, yes, f"Also delete the {found.objects['backups']} objects under backups/? They cannot be had again.",
                what="deleting backups", other="Or keep the bucket with --keep-backups.",
            )  # fmt: skip
        build.stop_everything(site, stack, limit=limit, told=invocation.note)
        build.clear(stack, found, keep_backups=keep_backups, told=invocation.note)
        if keep_backups and session.keep_bucket():
            invocation.note(f"The bucket {found.bucket} stays, and Terraform knows it no longer.")
            session.outlook(destroy=True)  # the plan is of a state that is no more
        session.apply()
    left, cost = build.leftovers(site, stack)
    kept = [item for item in left.items if keep_backups and item.id in (found.bucket, f"arn:aws:s3:::{found.bucket}")]
    rest = [item for item in left.items if item not in kept]
    for item in kept:
        invocation.note(f"Kept: bucket {item.id} ({item.detail}).")
    for item in rest:
        invocation.note(f"LEFT: {item.kind} {item.id} {item.detail}")
    for line in left.unread:
        invocation.note(f"Could not look at {line}")
    if rest or left.groups:
        invocation.note(
            f"What is left costs {money(cost)} a month. Run the command again; docs/runbooks/cloud-bill.md says more."
        )
    elif not left.unread:
        invocation.note(f"Nothing in {stack.region} carries the tags of this stack any more{' but the bucket' if kept else ''}.")
    return {
        "stack": stack.name, "region": stack.region, "kept": [item.id for item in kept],
        "left": [item.id for item in rest] + [group.name for group in left.groups], "unread": list(left.unread), "monthly": str(cost),
    }  # fmt: skip


def _outlook(invocation: Invocation, session: "Session") -> "Outlook":
    outlook = session.outlook()
    if not invocation.json:
        _tell(invocation, outlook)
    return outlook


def _tell(invocation: Invocation, outlook: "Outlook") -> None:
    from lamplighter.operations.cloud.rates import wakes

    who = outlook.identity
    invocation.note(
        f"{outlook.stack.title}, account {who.account} ({who.arn}){', EMULATED: this is not AWS' if who.emulated else ''}"
    )
    for line in outlook.words or ["Nothing is to be changed."]:
        invocation.note(f"  {line}")
    for loss in outlook.losses:
        invocation.note(f"  CAREFUL: this destroys or interrupts {loss}.")
    invocation.show(None, standing_table(outlook.standing))
    for wake in wakes(outlook.stack):
        invocation.note(f"A wake of pool {wake.pool}: {wake.text}")
    for note in outlook.notes:
        invocation.note(note)


def _as_json(outlook: "Outlook") -> dict[str, Any]:
    from lamplighter.operations.cloud.rates import wakes

    standing = outlook.standing
    return {
        "stack": outlook.stack.name,
        "region": outlook.stack.region,
        "account": outlook.identity.account,
        "emulated": outlook.identity.emulated,
        "changes": [{"verb": one.verb.value, "type": one.type, "address": one.address} for one in outlook.changes],
        "losses": outlook.losses,
        "standing": {
            "monthly": str(standing.monthly), "currency": "USD", "checked": standing.checked, "guessed": standing.guessed,
            "lines": [
                {"what": one.what, "count": one.count, "monthly": str(one.monthly) if one.monthly is not None else None, "basis": one.basis}
                for one in standing.lines
            ],
        },
        "wakes": [{"pool": one.pool, "text": one.text} for one in wakes(outlook.stack)],
        "notes": list(outlook.notes),
    }  # fmt: skip


def _chosen(invocation: Invocation, named: Any, wanted: str | None) -> "tuple[Stack, ...]":
    from lamplighter.operations.cloud.stacks import select

    return select(_config(invocation, named), wanted)


def _config(invocation: Invocation, named: Any) -> "Config":
    return read(invocation, named)[0]


def _site(invocation: Invocation, named: Any, installation: str | None = None) -> "Site":
    from lamplighter.operations.cloud.build import Site

    config = _config(invocation, named)
    return Site(config, invocation.folder.root, installation_of(invocation, config, installation), invocation.note)


def _with_session(invocation: Invocation, named: Any, stack: "Stack", work: "Callable[[Session], Outlook]") -> "Outlook":
    from lamplighter.operations.cloud import build

    session: AbstractContextManager[Session] = build.opened(_site(invocation, named), stack)
    with session as ready:
        return work(ready)
