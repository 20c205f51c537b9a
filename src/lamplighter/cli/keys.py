"""`lamplighter keys`: credentials for clients of the API."""

import time
from typing import Annotated, Any

import typer

from lamplighter.cli.invocation import DataOption, JsonOption, KeyOption, UrlOption, of, table
from lamplighter.cli.words import ago
from lamplighter.core.errors import LamplighterError

keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(keys, name="keys")


@keys.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what will use it.")],
    admin: Annotated[bool, typer.Option("--admin", help="It may also change models and keys.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once."""
    invocation = of(context)
    with invocation.client() as client:
        answer = client.post("/api/keys", {"name": name, "admin": admin})
    invocation.note("Keep it: it is shown this once.")
    invocation.show(answer, answer["key"])


@keys.command("list")
def list_(
    context: typer.Context,
    revoked: Annotated[bool, typer.Option("--all", help="Revoked ones too.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys; never their secrets."""
    invocation = of(context)
    with invocation.client() as client:
        found = [item for item in client.get("/api/keys")["keys"] if revoked or item["revoked_at"] is None]
    rows = (
        (item["id"], item["name"], f"{item['prefix']}…", "admin" if item["admin"] else "inference", _life(item)) for item in found
    )
    invocation.show({"keys": found}, table(("id", "name", "begins with", "may", "last used"), rows))


def _life(item: dict[str, Any]) -> str:
    if item["revoked_at"] is not None:
        return f"revoked {ago(time.time() - item['revoked_at'])}"
    return "never" if item["last_used_at"] is None else ago(time.time() - item["last_used_at"])


@keys.command("revoke")
def revoke(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="ID", help="The key's id, or its name when only one has it.")],
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key: requests and sessions with it end. Revoking twice is no error."""
    invocation = of(context)
    with invocation.client() as client:
        found = client.get("/api/keys")["keys"]
        matching = [item for item in found if item["id"] == which]
        matching = matching or [item for item in found if item["name"] == which and item["revoked_at"] is None]
        if len(matching) != 1:
            problem = "there is no key" if not matching else "more than one key is named"
            raise LamplighterError(f"{problem} {which!r}", next_step="`lamplighter keys list` shows the ids.")
        client.delete(f"/api/keys/{matching[0]['id']}")
    invocation.note(f"Revoked {matching[0]['name']!r}.")
    if invocation.json:
        invocation.show({"id": matching[0]["id"], "revoked": True})
