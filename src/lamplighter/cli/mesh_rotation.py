"""`lamplighter mesh rotate`: replacing an authority, step by step, without losing a packet."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli.config import ConfigOption
from lamplighter.cli.invocation import DataOption, JsonOption
from lamplighter.cli.mesh_common import CaKeyOption, Desk, life, role_named
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.mesh.rotation import Progress

rotate = typer.Typer(help="Replace an authority, step by step: start, sign, finish.", no_args_is_help=True)


def register(group: typer.Typer) -> None:
    """Add the commands to `lamplighter mesh`."""
    group.add_typer(rotate, name="rotate")


@rotate.command("start")
def start(
    context: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="`offline` or `online`.")],
    days: Annotated[float | None, typer.Option("--days", help="Life of the new authority.")] = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new authority and trust it beside the old one, which still signs. Again: says how far it is."""
    from lamplighter.mesh.administration import start_rotation
    from lamplighter.mesh.rotation import progress

    desk = Desk.at(context, named)
    chosen = role_named(role)
    under_way = progress(desk.folder.read(), desk.now)
    if under_way is None or under_way.role != chosen:
        if chosen == "online":
            desk.key(chosen)  # the keeper opens both with one passphrase, so it must be the one of now
        start_rotation(desk.folder, desk.config, chosen, desk.passphrase(chosen, new=True), desk.now, life=life(days))
    _then(desk, after="The new authority was added")


@rotate.command("status")
def status(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which step a rotation is at, and what is left to do for each node."""
    _show(Desk.at(context, named))


@rotate.command("delivered")
def delivered(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="The nodes.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All nodes for which the rotation waits.")] = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that these nodes run with the ca.crt and node.crt of their folders: they were copied, and Nebula has read them.

    What is said wrongly here cuts that node off in the next step."""
    from lamplighter.mesh.administration import delivered as do_delivered
    from lamplighter.mesh.rotation import progress

    desk = Desk.at(context, named)
    under_way = progress(desk.folder.read(), desk.now)
    chosen = list(names or ()) or (list(under_way.waiting) if every and under_way is not None else [])
    if not chosen and not every:
        raise LamplighterError("name the nodes, or all with --all", next_step="`lamplighter mesh rotate status` lists them.")
    do_delivered(desk.folder, chosen, desk.now)
    _show(desk)


@rotate.command("sign")
def sign(
    context: typer.Context,
    ca_key: CaKeyOption = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the new authority sign, and sign every certificate of the old one again. Refused while a node does not trust the new one."""
    from lamplighter.mesh.administration import sign_rotation
    from lamplighter.mesh.rotation import progress

    desk = Desk.at(context, named)
    under_way = progress(desk.folder.read(), desk.now)
    # Asking for a passphrase only to refuse then would be rude: a rotation that has to wait says so first.
    ready = under_way is not None and (under_way.phase == "signing" or not under_way.waiting)
    key = desk.key_of(under_way.new, ca_key) if under_way is not None and ready and under_way.role == "offline" else None
    records = sign_rotation(desk.folder, desk.config, key, desk.now)
    for record in records:
        desk.invocation.note(f"Signed {record.name!r} again.")
    _then(desk, after="The new authority signs")


@rotate.command("finish")
def finish(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trust the old authority no more, and delete its key. Refused while a node may still show a certificate of it."""
    from lamplighter.mesh.administration import finish_rotation
    from lamplighter.mesh.rotation import progress, settling

    desk = Desk.at(context, named)
    index = desk.folder.read()
    under_way, left = progress(index, desk.now), settling(index, desk.now)
    if under_way is not None and under_way.phase == "signing" and not under_way.waiting and left > 0:
        desk.invocation.note(f"Waiting {left:.0f} seconds, in which tunnels are made anew with the new certificates.")
        time.sleep(left)
        desk.now = time.time()
    old = finish_rotation(desk.folder, desk.now)
    desk.invocation.note(
        f"The old {old.role} authority {old.fingerprint[:16]} is gone. Bring the new ca.crt to the nodes when convenient: until then they trust both."
    )
    _then(desk, after="The old authority was dropped")


@rotate.command("cancel")
def cancel(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop the new authority again, which is possible until it signs."""
    from lamplighter.mesh.administration import cancel_rotation

    desk = Desk.at(context, named)
    cancel_rotation(desk.folder, desk.now)
    _then(desk, after="The new authority was dropped")


def _then(desk: Desk, *, after: str) -> None:
    """Publish, then say what is left: the answer comes in either case."""
    try:
        desk.publish(after=after)
    finally:
        _show(desk)


def _show(desk: Desk) -> None:
    from lamplighter.mesh.rotation import progress

    under_way = progress(desk.folder.read(), desk.now)
    if under_way is None:
        desk.invocation.show({"rotation": None}, "No rotation is under way.")
        return
    answer: dict[str, Any] = {
        "role": under_way.role,
        "phase": under_way.phase,
        "old": under_way.old.fingerprint,
        "new": under_way.new.fingerprint,
        "waiting": list(under_way.waiting),
        "done": list(under_way.done),
        "next": _next(under_way),
    }
    desk.invocation.show({"rotation": answer}, "\n".join(_lines(desk, under_way)))


def _lines(desk: Desk, under_way: "Progress") -> list[str]:
    step, what = ("1 of 3", "ca.crt") if under_way.phase == "introducing" else ("2 of 3", "node.crt")
    signs = "the old one signs" if under_way.phase == "introducing" else "the new one signs"
    lines = [f"Rotation of the {under_way.role} authority, step {step}: both are trusted, {signs}."]
    lines += [f"  done     {name}" for name in under_way.done]
    for name in under_way.waiting:
        where = desk.folder.node(name)
        lines.append(
            f"  waiting  {name}: " + (f"bring {where / what} to it" if where.is_dir() else "the keeper brings it, or it ends")
        )
    lines.append(f"Next: {_next(under_way)}")
    return lines


def _next(under_way: "Progress") -> str:
    if under_way.waiting:
        return "when a node has it and its Nebula was reloaded: lamplighter mesh rotate delivered NAME"
    return "lamplighter mesh rotate sign" if under_way.phase == "introducing" else "lamplighter mesh rotate finish"
