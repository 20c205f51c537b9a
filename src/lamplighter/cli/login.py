"""`lamplighter login`: a new one-time link into the page."""

import typer

from lamplighter.cli.invocation import DataOption, JsonOption, KeyOption, UrlOption, of


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("login")(login)


def login(
    context: typer.Context,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a link that opens the chat page.

    It works once, for 15 minutes."""
    invocation = of(context)
    with invocation.client() as client:
        answer = client.post("/api/login-links")
    invocation.note("Works once, for 15 minutes:")
    invocation.show(answer, answer["url"])
