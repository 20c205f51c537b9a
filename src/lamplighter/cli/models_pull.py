"""`lamplighter models pull`: weights, before anybody asks: for this machine's embedded engine, into a folder that pods share, or into an Ollama.

For a folder it is what an init container or a Job runs: progress as lines, resumed where it stopped, checked, one at a time, and with an exit
status. The fetching is `engines.sources`'.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli.config import ConfigOption, find, read
from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, KeyOption, UrlOption, of
from lamplighter.cli.words import size
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.engines.sources.mirror import Mirror
    from lamplighter.operations.client import Client

_ENGINES = ("vllm", "llamacpp", "ollama")


def register(models: typer.Typer) -> None:
    """Add the command to the group."""
    models.command("pull")(pull)


def pull(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|SOURCE", help="A model's name, one of the catalogue, hf:OWNER/REPO[:FILE.gguf], or an Ollama's name."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Under which name clients ask for it; default: made of the source."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Fetch it again although it is here; with --to, check what is there again.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Into this folder instead, such as a volume that pods share.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="ENGINE",
            help="For which engine, with --to: vllm, llamacpp or ollama; default: the model's own, or vllm.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="The hub's branch, tag or, best, commit.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", "--from-s3", metavar="URL", help="With --to: from s3://BUCKET/PREFIX instead of the hub."),
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Let this Ollama server pull it, and load it.")
    ] = None,
    keep_alive: Annotated[
        str, typer.Option("--keep-alive", metavar="TIME", help="With --server: how long it stays loaded, such as 30m, or never.")
    ] = "5m",
    progress: Annotated[str, typer.Option("--progress", metavar="HOW", help="auto, lines (for logs) or none.")] = "auto",
    data: DataOption = None,
    named: ConfigOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model's weights now, resuming what was begun, and add it to the running server if it is new there.

    With --url, the other machine adds it and fetches it itself, at its first wake. With --to, for pods: nothing is added anywhere.
    """
    invocation = of(context)
    if progress not in ("auto", "lines", "none"):
        raise typer.BadParameter("write auto, lines or none", param_hint="--progress")
    if engine is not None and engine not in _ENGINES:
        raise typer.BadParameter(f"write one of {', '.join(_ENGINES)}", param_hint="--engine")
    if to is not None or server is not None:
        wanted = _wanted(invocation, named, what, engine or ("ollama" if server else None), revision)
        if server is not None:
            _through(invocation, wanted, server, keep_alive, progress)
        elif to is not None:
            _into(invocation, wanted, to, mirror, progress, verify=force)
        return
    if mirror is not None or engine is not None:
        raise typer.BadParameter("only together with --to", param_hint="--mirror" if mirror else "--engine")
    _here(invocation, named, what, name, revision, force=force, progress=progress)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A model to fetch. `label` for a person."""

    label: str
    engine: str
    source: str
    revision: str | None


def _wanted(invocation: Invocation, named: Path | None, what: str, engine: str | None, revision: str | None) -> _Wanted:
    """What a person or a pod means: a configured model, or a source."""
    if find(invocation, named) is not None:
        config, _ = read(invocation, named)
        model = config.models.get(what)
        if model is not None:
            return _Wanted(what, engine or str(model.engine), model.source or what, revision or model.revision)
    return _Wanted(what, engine or "vllm", what, revision)


def _into(invocation: Invocation, wanted: _Wanted, to: Path, mirror: str | None, progress: str, *, verify: bool) -> None:
    from lamplighter.cli.fetching import shown
    from lamplighter.engines.sources import registry, repository
    from lamplighter.engines.sources.files import Kind, parse

    place = _mirror(mirror) if mirror is not None else None
    folder = to.expanduser().absolute()
    waiting = _Waiting(invocation)
    with shown(wanted.label, quiet=progress == "none" or invocation.json, lines=progress == "lines") as telling:
        if wanted.engine == "ollama":
            one = registry.pull(wanted.source, folder / "ollama", telling, mirror=place, verify=verify, waiting=waiting)
            answer: dict[str, Any] = {"model": one.name, "files": one.files, "bytes": one.size, "fetched_bytes": one.fetched}
            said = f"{wanted.label}: {size(one.size)} in {one.folder}, checked."
        else:
            parsed = parse(_spelled(wanted.source), wanted.revision)
            if parsed.kind is not Kind.HUB:
                raise LamplighterError(
                    f"{wanted.source!r} is no model of the hub, so it cannot be put into a folder for pods",
                    next_step="Write hf:OWNER/REPO or hf:OWNER/REPO:FILE.gguf.",
                )
            found = repository.pull(
                parsed.repo, folder, telling, revision=parsed.revision, file=parsed.file, gguf=wanted.engine == "llamacpp",
                mirror=place, verify=verify, waiting=waiting,
            )  # fmt: skip
            answer = {
                "model": f"hf:{found.repo}", "revision": found.revision, "commit": found.commit, "folder": str(found.folder),
                "files": found.files, "bytes": found.size, "fetched_bytes": found.fetched, "unverified": list(found.unverified),
            }  # fmt: skip
            checked = f"; of {len(found.unverified)} files only the size could be checked" if found.unverified else ", checked"
            said = f"{wanted.label}: {found.files} files, {size(found.size)} in {found.folder} (commit {found.commit[:12]}){checked}."
    invocation.show(answer, said)


def _spelled(source: str) -> str:
    if ":" in source or source == "bundled":
        return source
    return f"hf:{source}" if "/" in source else f"catalogue:{source}"


def _mirror(url: str) -> "Mirror":
    from lamplighter.providers.aws.weights import Bucket

    return Bucket(url)


class _Waiting:
    """Says once who is filling the folder."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._told: str | None = None

    def __call__(self, holder: str) -> None:
        if holder != self._told:
            self._told = holder
            self._invocation.note(f"{holder} is fetching this model into the same folder; waiting for it.")


def _through(invocation: Invocation, wanted: _Wanted, server: str, keep_alive: str, progress: str) -> None:
    import asyncio

    from lamplighter.cli.fetching import shown
    from lamplighter.config import ModelConfig
    from lamplighter.core.endpoint import Endpoint
    from lamplighter.engines.ollama.engine import Ollama

    keep = _keep(keep_alive)
    config = ModelConfig.model_validate({"engine": "ollama", "pool": "there", "source": wanted.source, "pull": True})
    with shown(wanted.label, quiet=progress == "none" or invocation.json, lines=progress == "lines") as telling:
        loading = _Loading(invocation, telling)
        asyncio.run(Ollama().load(Endpoint(server.rstrip("/")), wanted.source, config, keep=keep, loading=loading))
    invocation.show({"model": wanted.source, "server": server, "pulled": loading.pulled}, f"{wanted.label}: loaded by {server}.")


def _keep(text: str) -> float:
    from lamplighter.core.units import Duration

    if text == "never":
        return float("inf")
    try:
        return float(Duration.parse(text))
    except ValueError as error:
        raise typer.BadParameter("write a time such as 30m, or never", param_hint="--keep-alive") from error


class _Loading:
    """Implements `engines.base.Loading` for a person."""

    def __init__(self, invocation: Invocation, telling: Any) -> None:
        self.pulled = False
        self._invocation = invocation
        self._telling = telling

    def stage(self, name: str) -> None:
        self.pulled |= name == "pull"
        self._invocation.note(f"{name} ...")

    def progress(self, share: float | None, detail: str | None) -> None:
        if share is not None:
            self._telling(round(share * _WHOLE), _WHOLE)


_WHOLE = 10**9
"""Ollama tells shares; the bar wants a size."""


def _here(
    invocation: Invocation, named: Path | None, what: str, name: str | None, revision: str | None, *, force: bool, progress: str
) -> None:
    """For the embedded engine of this machine, or by the server of another."""
    from lamplighter.operations.client import NotRunning

    if invocation.url is not None:
        with invocation.client() as client:
            known = {model["name"]: model["source"] for model in client.get("/api/status")["models"]}
            label, source = _meant(what, name, known)
            added = label not in known and _add(client, label, source)
        invocation.note(f"{label}: added; its first wake fetches it." if added else f"{label}: is there already.")
        invocation.show({"name": label, "source": source, "path": None, "added": added})
        return
    config, _ = read(invocation, named)
    embedded = {model_name: model for model_name, model in config.models.items() if model.engine == "llamacpp"}
    known = {model_name: model.source for model_name, model in embedded.items()}
    running = None
    try:
        with invocation.client() as client:
            known = {model["name"]: model["source"] for model in client.get("/api/status")["models"]}
            running = client.url
    except NotRunning:
        pass
    label, source = _meant(what, name, known)
    if revision is None and what in embedded:
        revision = embedded[what].revision
    path = _fetch(invocation, label, source, revision, force=force, progress=progress)
    added = False
    if running and label not in known:
        with invocation.client() as client:
            added = _add(client, label, source)
        invocation.note(f"{label}: added. `lamplighter chat --model {label}`")
    elif label not in known:
        pinned = f", revision: {revision}" if revision else ""
        invocation.note(
            f"To serve it, add to the configuration's models:  {label}: {{engine: llamacpp, pool: here, source: '{source}'{pinned}}}"
        )
    invocation.show(
        {"name": label, "source": source, "path": str(path), "added": added}, f"{label}: {size(path.stat().st_size)} at {path}"
    )


def _meant(what: str, name: str | None, known: dict[str, str | None]) -> tuple[str, str]:
    """The name and the source behind what a person typed. Raises LamplighterError."""
    from lamplighter.engines.catalogue import CATALOGUE
    from lamplighter.engines.sources.files import parse

    if what in known:
        source = known[what]
        if source is None:
            raise LamplighterError(f"the model {what!r} has no weights to fetch: another server runs it")
        return name or what, source
    if what == "bundled":
        return name or next((label for label, source in known.items() if source == what), "small"), what
    if ":" in what and not what.startswith("catalogue:"):
        parsed = parse(what)
        made = (parsed.file or parsed.repo or str(parsed.path)).rpartition("/")[2].removesuffix(".gguf").lower()
        return name or made, what
    entry = what.removeprefix("catalogue:")
    if entry not in CATALOGUE:
        raise LamplighterError(
            f"there is no model {entry!r}, neither here nor in the catalogue",
            next_step="`lamplighter models catalogue` lists them; any other: hf:OWNER/REPO:FILE.gguf.",
        )
    return name or entry, f"catalogue:{entry}"


def _fetch(invocation: Invocation, label: str, source: str, revision: str | None, *, force: bool, progress: str) -> Path:
    from lamplighter.cli.fetching import shown
    from lamplighter.engines.sources.fetch import fetch

    folder = invocation.folder
    folder.prepare()
    with shown(label, quiet=invocation.json or progress == "none", lines=progress == "lines") as telling:
        return fetch(source, folder.models, telling, revision=revision, force=force)


def _add(client: "Client", name: str, source: str) -> bool:
    entry = source.removeprefix("catalogue:")
    body: dict[str, Any] = {"name": name, "catalogue": entry} if entry != source else {"name": name, "source": source}
    client.post("/api/models", body)
    return True
