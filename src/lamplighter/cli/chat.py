"""`lamplighter chat`: a conversation in the terminal, or one question from the command line or a pipe."""

import contextlib
import sys
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, KeyOption, UrlOption, console, of
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.cli.conversation import Conversation, Done, Text, Waking
    from lamplighter.operations.client import Client

_HELP = "/model NAME changes the model, /models lists them, /new begins anew, /quit (or Ctrl-D) ends. Ctrl-C stops an answer."


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("chat")(chat)


def chat(
    context: typer.Context,
    question: Annotated[
        str | None, typer.Argument(help="Ask this, print the answer, end. What is piped in is added to it.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Who is asked; default: one that is awake, else the first."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", "-s", metavar="TEXT", help="What the model is told beforehand.")
    ] = None,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk with a model.

    It wakes if it sleeps; Ctrl-C stops the answer, not the program."""
    from lamplighter.cli.conversation import Conversation

    invocation = of(context)
    piped = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    asked = "\n\n".join(part for part in (question, piped) if part)
    if invocation.json and not asked:
        raise typer.BadParameter("--json needs a question", param_hint="QUESTION")
    with invocation.client() as client:
        conversation = Conversation(client, model or _choose(client))
        if system:
            conversation.messages.append({"role": "system", "content": system})
        if asked:
            _once(invocation, conversation, asked)
        elif sys.stdin.isatty():
            _talk(conversation)
        else:
            raise typer.BadParameter("there is no question: give one, or pipe it in", param_hint="QUESTION")


def _choose(client: "Client") -> str:
    models = [model for model in client.get("/api/status")["models"] if "chat" in model["capabilities"]]
    if not models:
        raise LamplighterError("there is no model that can chat", next_step="Add one: `lamplighter models catalogue`.")
    return str(next((model["name"] for model in models if model["state"] == "awake"), models[0]["name"]))


def _once(invocation: Invocation, conversation: "Conversation", question: str) -> None:
    from lamplighter.cli.conversation import Text

    began = time.monotonic()
    if not invocation.json:
        end = _print_answer(conversation.ask(question))
        if end is None:
            raise KeyboardInterrupt
        if end.model != conversation.model:
            invocation.note(f"({end.model} answered while {conversation.model} wakes)")
        return
    text, done = "", None
    for item in conversation.ask(question):
        if isinstance(item, Text):
            text += item.text
        done = item
    usage: Any = getattr(done, "usage", None)
    invocation.show(
        {
            "model": getattr(done, "model", conversation.model),
            "content": text,
            "usage": usage,
            "seconds": round(time.monotonic() - began, 3),
        }
    )


def _talk(conversation: "Conversation") -> None:
    """Until Ctrl-D or /quit."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` its editing and history
    screen = console(stderr=True)
    screen.print(f"{conversation.model}. {_HELP}", style="dim", highlight=False)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            screen.print("Ctrl-D or /quit ends.", style="dim", highlight=False)
            continue
        if not line:
            continue
        if line.startswith("/"):
            if not _command(conversation, line):
                return
            continue
        try:
            done = _print_answer(conversation.ask(line))
        except LamplighterError as error:
            print()
            screen.print(f"error: {error.message}", style="red", markup=False, highlight=False)
            if error.next_step:
                screen.print(f"  next: {error.next_step}", markup=False, highlight=False)
            continue
        if done is None:
            screen.print(" (stopped)", style="dim", highlight=False)
        elif done.usage:
            speed = f"{done.usage.get('completion_tokens', 0)} tokens"
            screen.print(f"{done.model}, {speed}", style="dim", highlight=False)


def _command(conversation: "Conversation", line: str) -> bool:
    """Obey a `/command`; False when it ends the program."""
    name, _, argument = line[1:].partition(" ")
    screen = console(stderr=True)
    try:
        if name in ("quit", "exit", "q"):
            return False
        if name == "new":
            conversation.forget()
            screen.print("Forgotten; begin anew.", style="dim", highlight=False)
        elif name in ("model", "models"):
            known = [model["name"] for model in conversation.client.get("/api/status")["models"]]
            if name == "model" and argument.strip() in known:
                conversation.model = argument.strip()
                screen.print(f"Now {conversation.model}.", style="dim", highlight=False)
            else:
                screen.print(f"Models: {', '.join(known)}. Now {conversation.model}.", style="dim", highlight=False)
        else:
            screen.print(_HELP, style="dim", highlight=False)
    except LamplighterError as error:
        screen.print(f"error: {error.message}", style="red", markup=False, highlight=False)
    return True


def _print_answer(items: "Generator[Waking | Text | Done, None, None]") -> "Done | None":
    """Write the answer as it comes, with the wake's progress on one line that goes away; None when Ctrl-C stopped it."""
    from lamplighter.cli.conversation import Done, Text, Waking

    screen = console(stderr=True)
    with contextlib.closing(items), contextlib.ExitStack() as shown:
        waiting = None
        try:
            for item in items:
                if isinstance(item, Waking):
                    if screen.is_terminal and waiting is None:
                        waiting = shown.enter_context(screen.status(str(item)))
                    elif waiting is not None:
                        waiting.update(str(item))
                    continue
                if waiting is not None:
                    shown.close()
                    waiting = None
                if isinstance(item, Text):
                    sys.stdout.write(item.text)
                    sys.stdout.flush()
                elif isinstance(item, Done):
                    print(flush=True)
                    return item
        except KeyboardInterrupt:
            return None
    return None
