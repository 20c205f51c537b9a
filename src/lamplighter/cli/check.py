"""`lamplighter check`: one real question through everything that stands before the gateway, with its TTFT and tokens per second."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.invocation import DataOption, JsonOption, KeyOption, UrlOption, console, of
from lamplighter.core.errors import LamplighterError
from lamplighter.core.units import Duration

if TYPE_CHECKING:
    from lamplighter.operations.check import Answer


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("check")(check)


def check(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Who is asked; default: the first that the key may ask.")
    ] = None,
    question: Annotated[str | None, typer.Option("--question", "-q", metavar="TEXT", help="What is asked.")] = None,
    repeat: Annotated[int, typer.Option("--repeat", "-n", min=1, max=100, help="How often, one after the other.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=4096, help="The longest answer.")] = 64,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="Limit for one answer, its wake included, such as 90s or 15m.")
    ] = "15m",
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask one real question and measure the answer.

    Goes through the ingress or proxy of --url as every client does, with an inference key. Prints the time to the first token (TTFT) and tokens
    per second. It wakes the model, like every question. Exit status 1 when there is no whole answer."""
    from lamplighter.operations import check as checking

    invocation = of(context)
    try:
        limit = Duration.parse(timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timeout") from error
    answers: list[Answer] = []
    with invocation.client() as client:
        known = checking.models(client)
        if not known:
            raise LamplighterError(
                "there is no model that this key may ask",
                next_step="`lamplighter models list` shows them; `lamplighter keys` what a key may.",
            )
        if model is not None and model not in known:
            raise LamplighterError(f"there is no model {model!r} for this key", next_step=f"There are: {', '.join(known)}.")
        chosen = model or known[0]
        invocation.note(f"Asking {chosen} at {client.url}.")
        shown = _Progress(invocation.json)
        for _ in range(repeat):
            answers.append(
                checking.ask(
                    client,
                    chosen,
                    question=question or checking.QUESTION,
                    max_tokens=max_tokens,
                    limit=limit,
                    waking=shown.waking,
                )
            )
            if not invocation.json:
                print(_line(answers[-1]), flush=True)
        address = client.url
    if invocation.json:
        invocation.show({"ok": True, "url": address, "model": chosen, "answers": [_numbers(answer) for answer in answers]})
    elif any(answer.buffered for answer in answers):
        invocation.note(
            "The answer came in one piece at its end: something between buffers streams. In nginx: proxy_buffering off; see docs/guides/public-name.md."
        )


class _Progress:
    """Says each stage of a wake once."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._last = 0.0

    def waking(self, words: str) -> None:
        if not self._quiet and time.monotonic() - self._last > 5:
            self._last = time.monotonic()
            console(stderr=True).print(words, style="dim", highlight=False, markup=False)


def _line(answer: "Answer") -> str:
    speed = answer.tokens_per_second
    said = f"{answer.tokens} tokens" if answer.counted else f"{answer.tokens} pieces (the engine did not count tokens)"
    parts = [
        f"{answer.model}: TTFT {answer.first_token:.3f} s",
        f"{speed:.1f} tokens/s" if speed else "one token",
        f"{said} in {answer.total:.2f} s",
    ]
    if answer.waking is not None:
        parts.append(f"it slept: woken for at least {answer.waking:.1f} s of that")
    return ", ".join(parts)


def _numbers(answer: "Answer") -> dict[str, object]:
    return {
        "model": answer.model,
        "headers_s": round(answer.headers, 4),
        "ttft_s": round(answer.first_token, 4),
        "total_s": round(answer.total, 4),
        "tokens": answer.tokens,
        "tokens_counted": answer.counted,
        "tokens_per_second": round(answer.tokens_per_second, 2) if answer.tokens_per_second else None,
        "woken_for_s": round(answer.waking, 3) if answer.waking is not None else None,
        "buffered": answer.buffered,
    }
