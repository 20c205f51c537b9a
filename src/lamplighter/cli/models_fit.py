"""`lamplighter fit`: whether a model fits a GPU, how much context and how many requests at once, and the flags for it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, of, table
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.engines.sizing.plan import Wish

_WHOSE = {"vllm": "memory of one GPU", "llamacpp": "memory of all GPUs"}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("fit")(fit)


def fit(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="OWNER/REPO, hf:OWNER/REPO[:FILE.gguf], a model's folder or .gguf file, or a name of the catalogue.",
        ),
    ],
    gpu: Annotated[str, typer.Option("--gpu", metavar="GPU", help="A GPU (A10G, 2xL4) or a type of AWS machine (g5.xlarge).")],
    tokens: Annotated[
        int | None, typer.Option("--context", metavar="N", min=16, help="Tokens of one request; default: as many as fit.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", metavar="N", min=1, max=1024, help="Requests of that length at once.")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization", metavar="METHOD", help="As if there were a version of it: awq, gptq, fp8, bitsandbytes, none, ..."
        ),
    ] = None,
    cache: Annotated[
        str, typer.Option("--kv-cache-dtype", metavar="TYPE", help="Type of the cache: auto (16 bits) or fp8.")
    ] = "auto",
    utilization: Annotated[
        float,
        typer.Option("--gpu-memory-utilization", metavar="SHARE", min=0.1, max=1.0, help="Share of the GPU for the engine."),
    ] = 0.9,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=1, max=64, help="Machines that serve it together.")] = 1,
    revision: Annotated[str | None, typer.Option("--revision", metavar="REV", help="The hub's branch, tag or commit.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody: only what is here or in the shipped table.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a model fits a GPU, with which context for how many requests at once, and the engine's flags for it.

    Counted from the model's own configuration; within 5 % of published figures. Exit status 1 when it does not fit.
    """
    from lamplighter.engines.sizing.plan import Wish
    from lamplighter.operations.fit import find
    from lamplighter.operations.fit.machines import machines

    invocation = of(context)
    if cache not in ("auto", "fp8"):
        raise typer.BadParameter("write auto or fp8", param_hint="--kv-cache-dtype")
    where = machines(gpu, nodes=nodes)
    found = find.find(model, revision=revision, offline=offline, models_folder=invocation.folder.models)
    wish = Wish(tokens, parallel, utilization, 1 if cache == "fp8" else 2)
    answer = _answer(found, where, wish, quantization)
    _show(invocation, answer)
    if not answer["fits"]:
        raise typer.Exit(1)


def _answer(found: Any, where: Any, wish: "Wish", quantization: str | None) -> dict[str, Any]:
    from lamplighter.operations.fit import answer

    if found.header is not None:
        if quantization is not None or where.nodes > 1:
            raise LamplighterError("a GGUF file is quantised as it is, and llama.cpp runs it on one machine")
        return answer.gguf(found, where, wish)
    try:
        return answer.vllm(found, where, wish, quantization)
    except ValueError as error:
        raise LamplighterError(str(error)) from error


def _show(invocation: Invocation, answer: dict[str, Any]) -> None:
    from lamplighter.operations.fit.answer import each, lines, rows

    if invocation.json:
        invocation.show(answer)
        return
    for line in lines(answer):
        invocation.show(None, line)
    invocation.show(None, table((_WHOSE[answer["engine"]], "GiB", "why"), rows(answer)))
    if answer["fits"] and answer.get("choices"):
        listed = ((f"{one['context']:,}", f"{one['parallel']:,}") for one in answer["choices"])
        invocation.show(None, table(("context", "requests at once"), listed))
    if answer["flags"]:
        program = "vllm serve" if answer["engine"] == "vllm" else "llama-server"
        invocation.show(None, f"{program}: {' '.join(answer['flags'])}")
    for hint in answer.get("hints", ()):
        invocation.show(None, f"With {hint['quantization']} weights it would fit: {each(hint)}.")
    for other in answer.get("others", ()):
        invocation.show(None, f"It fits {other['machine']}: {each(other)}.")
    for note in answer["notes"]:
        invocation.note(note)
