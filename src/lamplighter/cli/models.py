"""`lamplighter models`: which there are, which there could be, fetching and removing them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from lamplighter.cli import models_fit, models_pull, models_render, models_switch
from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, KeyOption, UrlOption, of, table
from lamplighter.cli.words import doing, size

models = typer.Typer(help="List, fetch and remove models.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group to the program, and `fit`, which is about models too."""
    models_pull.register(models)
    models_render.register(models)
    models_switch.register(models)
    app.add_typer(models, name="models")
    models_fit.register(app)


@models.command("list")
def list_(
    context: typer.Context,
    data: DataOption = None,
    named: ConfigOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that clients may ask for. Without a running server: those of the configuration. Wakes nothing."""
    from lamplighter.operations.client import NotRunning

    invocation = of(context)
    try:
        with invocation.client() as client:
            answer = client.get("/api/status")
    except NotRunning:
        if invocation.url is not None:
            raise
        _list_configured(invocation, named)
        return
    found = answer["models"]
    rows = (
        (
            model["name"],
            doing(model, answer["now"]),
            model["source"] or "-",
            ", ".join(model["capabilities"]),
            str(model["context"] or "-"),
            model["note"] or "",
        )
        for model in found
    )
    invocation.show({"models": found}, table(("model", "state", "source", "answers", "context", "note"), rows))


def _list_configured(invocation: Invocation, named: Path | None) -> None:
    config, _ = read(invocation, named)
    invocation.note("Lamplighter is not running; these are the configuration's.")
    here = {name: _here(model.source, invocation) for name, model in config.models.items() if model.engine == "llamacpp"}
    found = [
        {"name": name, "engine": model.engine, "pool": model.pool, "source": model.source, "here": here.get(name)}
        for name, model in config.models.items()
    ]
    words = {True: "yes", False: "at its first wake", None: "-"}
    rows = (
        (name, str(model.engine), model.pool, model.source or "-", words[here.get(name)]) for name, model in config.models.items()
    )
    invocation.show({"models": found}, table(("model", "engine", "pool", "source", "fetched"), rows))


def _here(source: str | None, invocation: Invocation) -> bool:
    from lamplighter.core.errors import SourceError
    from lamplighter.engines.sources.files import locate, parse

    try:
        return locate(parse(source or ""), invocation.folder.models) is not None
    except SourceError:
        return False


@models.command("catalogue")
def catalogue(context: typer.Context, as_json: JsonOption = False) -> None:
    """List models that are known to be good, with what they need; * marks the best that fits this machine comfortably."""
    import os

    from lamplighter.engines import memory
    from lamplighter.engines.catalogue import CATALOGUE, suggest

    invocation = of(context)
    best = suggest(memory.total(), os.cpu_count() or 1)
    rows = (
        (
            f"{name} *" if best is not None and best.name == name else name,
            entry.parameters,
            size(entry.file_bytes),
            size(entry.memory_bytes),
            entry.licence,
            entry.notes,
        )
        for name, entry in CATALOGUE.items()
    )
    invocation.show(
        {"models": [asdict(entry) for entry in CATALOGUE.values()], "suggested": best.name if best else None},
        table(("model", "parameters", "download", "memory", "licence", "notes"), rows),
    )
    invocation.note("`lamplighter models pull NAME` fetches one and adds it.")


@models.command("remove")
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    files: Annotated[bool, typer.Option("--files", help="Delete its weights from this machine, too.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a model that was added at run time. One of the configuration file is removed there."""
    invocation = of(context)
    if files and invocation.url is not None:
        raise typer.BadParameter("the files are on the other machine", param_hint="--files")
    with invocation.client() as client:
        found = {model["name"]: model["source"] for model in client.get("/api/status")["models"]}
        client.delete(f"/api/models/{quote(name, safe='')}")
    freed = _delete_files(invocation, found.pop(name, None), found.values()) if files else 0
    invocation.note(f"Removed {name}." + (f" {size(freed)} freed." if freed else ""))
    if invocation.json:
        invocation.show({"name": name, "removed": True, "freed_bytes": freed})


def _delete_files(invocation: Invocation, source: str | None, others: Any) -> int:
    """Delete the weights of `source` unless another model uses them, or they are the person's own file; the bytes freed."""
    from lamplighter.engines.sources.files import Kind, locate, parse, parts

    if source is None or source in set(others):
        return 0
    parsed = parse(source)
    path = locate(parsed, invocation.folder.models) if parsed.kind is not Kind.FILE else None
    freed = 0
    for part in parts(path) if path else ():
        freed += part.stat().st_size
        part.unlink()
    return freed
