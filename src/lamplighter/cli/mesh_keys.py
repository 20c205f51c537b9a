"""`lamplighter mesh export` and `import`: taking an authority's key off this machine, and bringing it back."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lamplighter.cli.config import ConfigOption
from lamplighter.cli.invocation import DataOption, JsonOption
from lamplighter.cli.mesh_common import Desk, read_input, role_named
from lamplighter.core.errors import LamplighterError


def register(group: typer.Typer) -> None:
    """Add the commands to `lamplighter mesh`."""
    group.command("export")(export)
    group.command("import")(import_)


def export(
    context: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="`offline` or `online`.")] = "offline",
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Where to; default: standard output.")] = None,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Then delete the key here, once the file was read back and opens with the passphrase."),
    ] = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an authority's encrypted key and its certificate into one file, for a password manager or a safe."""
    from lamplighter.mesh.administration import unlock
    from lamplighter.mesh.custody import exported, remove_key
    from lamplighter.mesh.issuing import active

    desk = Desk.at(context, named)
    authority = active(desk.folder.read(), role_named(role))
    if remove and out is None:
        raise LamplighterError("--remove needs a file that can be read back", next_step="Give --out FILE.")
    if remove and authority.role == "online":
        raise LamplighterError(
            "the keeper needs the online authority's key here", next_step="Export it without --remove, as a backup."
        )
    text = exported(desk.folder, authority)
    if out is None:
        if desk.invocation.json:
            desk.invocation.show({"role": authority.role, "fingerprint": authority.fingerprint, "pem": text})
        else:
            sys.stdout.write(text)
        return
    path = Path(out).expanduser().absolute()
    if path.exists() and read_input(str(path)) != text:
        raise LamplighterError(f"{path} exists and holds something else", next_step="Choose another name, or delete it.")
    desk.folder.write(path, text)
    if remove:
        copy = read_input(str(path))
        unlock(authority, copy, desk.passphrase(authority.role))
        remove_key(desk.folder, authority, copy)
    desk.invocation.note(
        f"The {authority.role} authority is in {path}, encrypted with its passphrase."
        + (" Its key is no longer on this machine; move the file to where it is safe." if remove else "")
    )
    if desk.invocation.json:
        desk.invocation.show({"role": authority.role, "fingerprint": authority.fingerprint, "file": str(path), "removed": remove})


def import_(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="An exported authority, or a key and certificate of nebula-cert; `-`: standard input."
        ),
    ],
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring an authority's key back to this machine. It is kept encrypted. Importing what is here is no error."""
    from lamplighter.mesh import keys
    from lamplighter.mesh.custody import import_authority, imported_role

    desk = Desk.at(context, named)
    text = read_input(file)
    desk.invocation.folder.prepare()
    role = imported_role(desk.folder, text)
    new = not keys.is_encrypted(text)
    record, added = import_authority(desk.folder, desk.config, text, desk.passphrase(role, new=new), desk.now)
    desk.invocation.note(
        f"The key of the {record.role} authority {record.fingerprint[:16]} is here{', and the authority is new here' if added else ''}."
    )
    if desk.invocation.json:
        desk.invocation.show({"role": record.role, "fingerprint": record.fingerprint, "new": added})
