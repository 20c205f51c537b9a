"""`lamplighter cloud status`, `orphans` and `logs`: what runs and costs now, whose it is, and what it wrote."""

from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli.cloud_shared import InstallationOption, ask, installation_of, money
from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, of, table
from lamplighter.cli.words import ago, ahead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamplighter.operations.cloud.owners import Judged
    from lamplighter.operations.cloud.watch import Picture

RegionOption = Annotated[
    list[str] | None, typer.Option("--region", metavar="REGION", help="Look here; default: every region in use. Repeatable.")
]
_ORDER = ("instance", "volume", "snapshot", "image", "address", "nat", "endpoint", "secret", "bucket", "other")


def register(group: typer.Typer) -> None:
    """Add the commands to the group."""
    group.command("status")(status)
    group.command("orphans")(orphans)
    group.command("logs")(logs)


def status(
    context: typer.Context,
    regions: RegionOption = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also what costs nothing while nobody uses it.")] = False,
    everywhere: Annotated[bool, typer.Option("--all-regions", help="Look into every region of the account.")] = False,
    installation: InstallationOption = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything of this installation that runs or costs in AWS, and whose it is.

    Needs no running Lamplighter. Exit status 1 when something bills that nobody owns, or lacks its dead-man."""
    invocation = of(context)
    picture = _look(invocation, named, regions, installation, everywhere=everywhere)
    if invocation.json:
        invocation.show(_as_json(picture))
    else:
        _tell(invocation, picture, everything=everything)
    if not picture.well:
        raise typer.Exit(1)


def orphans(
    context: typer.Context,
    end: Annotated[bool, typer.Option("--end", help="End them, and prove that they are gone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    limit: Annotated[
        float, typer.Option("--limit", min=1, metavar="SECONDS", help="How long to wait until machines are gone.")
    ] = 300,
    regions: RegionOption = None,
    everywhere: Annotated[bool, typer.Option("--all-regions", help="Look into every region of the account.")] = False,
    installation: InstallationOption = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what carries our tags and nobody owns; end it with --end.

    Exit status 1 when something is left."""
    from lamplighter.operations.cloud import watch

    invocation = of(context)
    found = (picture := _look(invocation, named, regions, installation, everywhere=everywhere)).unowned
    left = list(found)
    if found and not invocation.json:
        invocation.show(None, _judged_table(found, picture.at))
    if found and end:
        ask(invocation, yes, f"End these {len(found)}? Data on them is lost.", what="ending them")
        ended = watch.end(
            found, installation_of(invocation, read(invocation, named)[0], installation), limit=limit, told=invocation.note
        )
        left = list(ended.untouched)
        for one in left:
            invocation.note(
                f"Not touched: {one.item.kind} {one.item.id} ({one.why}). `lamplighter cloud destroy` takes whole stacks down."
            )
    elif found:
        invocation.note("`lamplighter cloud orphans --end` ends them.")
    else:
        invocation.note("Nothing that bills is without an owner.")
    unread = [line for region in picture.regions for line in region.unread]
    for line in unread:
        invocation.note(f"Could not look at {line}")
    if invocation.json:
        gone = [one for one in found if one not in left]
        invocation.show({"found": [_item(one) for one in found], "ended": [one.item.id for one in gone], "unread": unread})
    if left or unread:
        raise typer.Exit(1)


def logs(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="REPLICA|INSTANCE", help="A replica's id, or a machine's (i-...).")],
    name: Annotated[str, typer.Option("--name", metavar="LOG", help="bootstrap, agent, nebula or engine.")] = "engine",
    size: Annotated[int, typer.Option("--bytes", min=1, max=2**22, metavar="N", help="How much of its end.")] = 65_536,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a machine wrote, also after its end.

    From its agent while it lives, else from the stack's bucket, where its last words stay for a week."""
    from lamplighter.operations.cloud import beliefs, lastwords
    from lamplighter.operations.cloud.stacks import select

    if name not in lastwords.NAMES:
        raise typer.BadParameter(f"must be one of {', '.join(lastwords.NAMES)}", param_hint="--name")
    invocation = of(context)
    config, _ = read(invocation, named)
    found = lastwords.read(select(config, None), beliefs.read(config.store, invocation.folder), which, name, limit=size)
    invocation.note(f"# {found.source}")
    invocation.show({"text": found.text, "source": found.source}, found.text)


def _look(
    invocation: Invocation, named: Any, regions: "list[str] | None", installation: str | None, *, everywhere: bool
) -> "Picture":
    from lamplighter.operations.cloud import beliefs, watch
    from lamplighter.providers.aws.inventory import regions_in_use

    config, _ = read(invocation, named)
    known = beliefs.read(config.store, invocation.folder)
    if installation not in (None, known.installation):  # our keeper and our replicas are none of its
        known = beliefs.Beliefs(installation)
    asked: Sequence[str] | None = regions
    if everywhere:
        asked = regions_in_use((regions or watch.in_use(config, invocation.folder.root) or ["us-east-1"])[0])
    return watch.look(config, invocation.folder.root, known, regions=asked)


def _tell(invocation: Invocation, picture: "Picture", *, everything: bool) -> None:
    who = picture.identity
    invocation.note(f"Account {who.account} ({who.arn}){', EMULATED: this is not AWS' if who.emulated else ''}")
    judged = [one for region in picture.regions for one in region.judged]
    shown = [one for one in judged if everything or one.item.hourly != 0 or one.item.kind == "bucket"]
    shown.sort(key=lambda one: (_ORDER.index(one.item.kind), one.item.region, one.item.id))
    invocation.show(None, _judged_table(shown, picture.at))
    for region in picture.regions:
        for group in region.groups:
            when = f"AWS sets it to zero in {ahead(group.dead_man - picture.at)}" if group.dead_man else "no dead-man"
            if group.desired or group.instances or everything:
                invocation.note(
                    f"{group.name}: {len(group.instances)} of {group.desired} wanted machines, at most {group.maximum}; {when}."
                )
    for budget in picture.budgets:
        spent = f"{money(budget.spent)} spent" if budget.spent is not None else "nothing seen yet"
        ahead_of = f", {money(budget.forecast)} forecast" if budget.forecast is not None else ""
        invocation.note(f"AWS's budget {budget.name}: {spent} of {money(budget.limit)} this month{ahead_of}.")
    running = sum(one.item.runs for one in judged)
    invocation.note(
        f"{running} machines run. All with a known price: {money(picture.hourly, digits=4)} an hour, "
        f"{money(picture.hourly * 730)} a month if it stayed so."
    )
    if not picture.kept:
        invocation.note("No keeper runs: nobody renews what is awake, so it ends itself.")
    for found in picture.told:
        what = "ended" if found.ended else "found"
        invocation.note(f"The keeper {what} {found.kind} {found.id} {ago(picture.at - found.at)}: {found.detail}.")
    for replica in picture.missing:
        invocation.note(
            f"The store believes in replica {replica}, for which AWS shows no machine; the keeper finds that out by itself."
        )
    for region in picture.regions:
        for alarm in region.alarms:
            invocation.note(f"CAREFUL: group {alarm.group.name} {alarm.why}. `lamplighter cloud apply` repairs it.")
        for line in region.unread:
            invocation.note(f"CAREFUL: could not look at {line}")
    for one in picture.unowned:
        invocation.note(
            f"NOBODY'S: {one.item.kind} {one.item.id} in {one.item.region}: {one.why}. `lamplighter cloud orphans --end`"
        )


def _judged_table(judged: "Sequence[Judged]", now: float) -> Any:
    rows = []
    for one in judged:
        item = one.item
        so_far = item.cost(now) if item.kind == "instance" else None
        price = f"{item.hourly:.4f}" if item.hourly is not None and item.kind == "instance" else ""
        a_month = money(item.hourly * 730) if item.hourly is not None and item.kind != "instance" else ""
        age = ago(now - item.since).removesuffix(" ago") if item.since is not None else ""
        rows.append(
            (item.kind, item.id, item.state, item.detail, age, f"{price} USD/h" if price else a_month, money(so_far) if so_far is not None else "",
             f"{one.standing.value}: {one.why}")
        )  # fmt: skip
    return table(("kind", "id", "state", "what", "age", "price", "so far", "whose"), rows)


def _item(one: "Judged", now: float | None = None) -> dict[str, Any]:
    item = one.item
    cost: Decimal | None = item.cost(now) if now is not None else None
    return {
        "kind": item.kind, "id": item.id, "region": item.region, "stack": item.stack, "pool": item.pool, "replica": item.replica,
        "state": item.state, "detail": item.detail, "since": item.since, "hourly": str(item.hourly) if item.hourly is not None else None,
        "cost": str(round(cost, 4)) if cost is not None and item.kind == "instance" else None,
        "standing": one.standing.value, "why": one.why,
    }  # fmt: skip


def _as_json(picture: "Picture") -> dict[str, Any]:
    return {
        "ok": picture.well,
        "at": picture.at,
        "account": picture.identity.account,
        "emulated": picture.identity.emulated,
        "keeper": picture.kept,
        "hourly": str(picture.hourly),
        "currency": "USD",
        "items": [_item(one, picture.at) for region in picture.regions for one in region.judged],
        "groups": [
            {
                "name": group.name, "region": group.region, "min": group.minimum, "desired": group.desired, "max": group.maximum,
                "instances": list(group.instances), "dead_man": group.dead_man,
            }
            for region in picture.regions
            for group in region.groups
        ],
        "alarms": [{"group": alarm.group.name, "why": alarm.why} for region in picture.regions for alarm in region.alarms],
        "unread": [line for region in picture.regions for line in region.unread],
        "missing": list(picture.missing),
        "keeper_found": [asdict(one) for one in picture.told],
        "budgets": [
            {
                "name": one.name, "limit": str(one.limit), "spent": str(one.spent) if one.spent is not None else None,
                "forecast": str(one.forecast) if one.forecast is not None else None,
            }
            for one in picture.budgets
        ],
    }  # fmt: skip
