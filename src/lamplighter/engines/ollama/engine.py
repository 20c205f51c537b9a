"""The engine kind `ollama`: is the server well, has it the model; and, where a pool lets it, pull, load and unload it there.

Ollama's API as published in its `docs/api.md`: `/api/version`, `/api/tags`, `/api/ps`, `/api/pull`, and `/api/generate` without a prompt, which
loads (or with `keep_alive: 0` unloads). How many requests wait inside it, it does not tell. Not responsible for when to load what.
"""

import sys
import time
from typing import Any

import httpx

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines import program
from lamplighter.engines.base import Accelerator, Capability, Command, Container, Health, LaunchSpec, Loading, Probe, declared
from lamplighter.engines.continuing import Continues
from lamplighter.engines.ollama.container import container
from lamplighter.engines.ollama.words import Pulling, among, capabilities, listed, said_no
from lamplighter.engines.probing import get, lines, post, said

_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
_LOOK = 5.0
"""Seconds for a short question while a model is loaded."""
_LOAD_LIMIT = 3600.0
"""Seconds for one load; the pool's own deadline is shorter."""
_ASK_AGAIN = 60.0
_SILENCE = 120.0
"""Seconds without a word of a pull after which it failed; it tells its progress several times a second."""


class Ollama:
    """Ollama. Implements `Engine` and `Resident`."""

    kind = "ollama"
    continues = Continues.PREFILL

    def __init__(self) -> None:
        self._known: dict[tuple[Endpoint, str], tuple[float, frozenset[Capability] | None]] = {}
        """What a model of a server is made for, and until when that is not asked again (monotonic seconds)."""

    def upstream_model(self, name: str, config: ModelConfig) -> str:
        """The model's `source` (`llama3.2:3b`), or the same name."""
        return config.source or name

    def capabilities(self, config: ModelConfig) -> frozenset[Capability]:
        """What its OpenAI-compatible side has. It ranks nothing and tokenizes nothing."""
        return declared(config, set(Capability) - {Capability.RERANK, Capability.TOKENIZE})

    def command(self, spec: LaunchSpec) -> Command:
        """Our child process on the replica's folder. Raises SourceError when there is no `ollama` to start."""
        program.find(spec.config.program, "ollama")
        return Command((sys.executable, "-P", "-m", "lamplighter.engines.ollama.child", str(spec.folder)))

    def container(self, name: str, config: ModelConfig, accelerator: Accelerator | None) -> Container:
        """See `Containerised`."""
        return container(name, config)

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        """Its version and its models; neither loads anything. READY when it has the model: it loads by itself when it is asked."""
        version = await get(endpoint, "/api/version", timeout=timeout)
        if isinstance(version, Probe):
            return version
        if version.status_code in _REFUSED:
            return Probe(Health.FAILED, f"its key is refused (status {version.status_code})", reason=WakeFailure.PROVIDER_ERROR)
        if version.status_code != httpx.codes.OK or not _object(version).get("version"):
            return Probe(Health.DOWN, f"another server answers there (status {version.status_code}): is this Ollama?")
        tags = await get(endpoint, "/api/tags", timeout=timeout)
        if isinstance(tags, Probe):
            return tags
        models = listed(_object(tags))
        if models is None:
            return Probe(Health.DOWN, f"its list of models makes no sense (status {tags.status_code})")
        if not self.same(name, config, models):
            return Probe(Health.FAILED, self._lacks(name, config), reason=WakeFailure.MODEL_NOT_FOUND, models=models)
        loaded = await get(endpoint, "/api/ps", timeout=timeout)
        upstream = self.upstream_model(name, config)
        return Probe(
            Health.READY,
            models=models | {upstream},
            context=self._context(loaded, name, config),
            capabilities=await self._capabilities(endpoint, upstream, str(_object(version)["version"]), timeout),
        )

    async def _capabilities(self, endpoint: Endpoint, model: str, version: str, timeout: float) -> frozenset[Capability] | None:
        """From what the server says of the model, and from its version; None when it does not say."""
        now = time.monotonic()
        until, known = self._known.get((endpoint, model), (0.0, None))
        if now < until:
            return known
        answer = await post(endpoint, "/api/show", {"model": model}, timeout=timeout)
        made_for = _object(answer).get("capabilities") if isinstance(answer, httpx.Response) and answer.is_success else None
        found = capabilities(made_for, version) if isinstance(made_for, list) else None
        self._known = {one: kept for one, kept in self._known.items() if kept[0] > now}
        self._known[endpoint, model] = (now + _ASK_AGAIN, found)
        return found

    async def load(self, endpoint: Endpoint, name: str, config: ModelConfig, *, keep: float, loading: Loading) -> None:
        """See `Resident`. Pulls first when the server lacks the model and the configuration lets it (`pull`)."""
        model = self.upstream_model(name, config)
        tags = await self._ask(endpoint, "/api/tags", _LOOK)
        if not self.same(name, config, listed(_object(tags)) or frozenset()):
            if not config.pull:
                raise ProviderError(self._lacks(name, config), reason=WakeFailure.MODEL_NOT_FOUND)
            loading.stage("pull")
            await self._pull(endpoint, model, loading)
        loading.stage("load")
        await self._keep(endpoint, model, keep, _LOAD_LIMIT)

    async def hold(self, endpoint: Endpoint, name: str, config: ModelConfig, *, keep: float, timeout: float) -> None:
        """See `Resident`. Every answer sets the server's own time again, so this has to be said now and then."""
        await self._keep(endpoint, self.upstream_model(name, config), keep, timeout)

    async def _keep(self, endpoint: Endpoint, model: str, keep: float, timeout: float) -> None:
        """Ask for the model without a prompt: that loads it, and keeps it for `keep` seconds from now."""
        body = {"model": model, "keep_alive": _seconds(keep), "stream": False}
        answer = await post(endpoint, "/api/generate", body, timeout=timeout)
        if (
            isinstance(answer, httpx.Response)
            and answer.status_code == httpx.codes.BAD_REQUEST
            and "not support generate" in answer.text
        ):
            answer = await self._embed(endpoint, model, keep, timeout)
        _check(answer)

    async def unload(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> None:
        """See `Resident`. The server lets running answers finish first."""
        body = {"model": self.upstream_model(name, config), "keep_alive": 0, "stream": False}
        answer = await post(endpoint, "/api/generate", body, timeout=timeout)
        if isinstance(answer, httpx.Response) and answer.status_code == httpx.codes.NOT_FOUND:
            return  # it was deleted meanwhile
        if isinstance(answer, httpx.Response) and answer.status_code == httpx.codes.BAD_REQUEST:
            answer = await self._embed(endpoint, body["model"], 0, timeout)
        _check(answer)

    async def loaded(self, endpoint: Endpoint, *, timeout: float) -> frozenset[str]:
        """See `Resident`."""
        answer = await self._ask(endpoint, "/api/ps", timeout)
        models = listed(_object(answer))
        if models is None:
            raise ProviderError(f"{endpoint.url} does not say what is loaded (status {answer.status_code}): is this Ollama?")
        return models

    def same(self, name: str, config: ModelConfig, loaded: frozenset[str]) -> bool:
        """See `Resident`."""
        return among(self.upstream_model(name, config), loaded)

    async def _embed(self, endpoint: Endpoint, model: Any, keep: float, timeout: float) -> httpx.Response | Probe:
        """The same order to a model that only embeds."""
        return await post(endpoint, "/api/embed", {"model": model, "input": [], "keep_alive": _seconds(keep)}, timeout=timeout)

    async def _pull(self, endpoint: Endpoint, model: str, loading: Loading) -> None:
        pulling = Pulling()
        async for word in lines(endpoint, "/api/pull", {"model": model, "stream": True}, silence=_SILENCE):
            if isinstance(error := word.get("error"), str):
                raise said_no(error)
            loading.progress(*pulling.told(word))
            if word.get("status") == "success":
                return
        raise ProviderError(f"The pull of {model!r} ended half-way.", reason=WakeFailure.DOWNLOAD_FAILED)

    async def _ask(self, endpoint: Endpoint, path: str, timeout: float) -> httpx.Response:
        answer = await get(endpoint, path, timeout=timeout)
        if isinstance(answer, Probe):
            raise ProviderError(f"{endpoint.url}: {answer.detail}.", reason=WakeFailure.UNREACHABLE)
        return answer

    def _lacks(self, name: str, config: ModelConfig) -> str:
        return f"the server does not have it: run `ollama pull {self.upstream_model(name, config)}` there, or set the model's `pull: true`"

    def _context(self, answer: httpx.Response | Probe, name: str, config: ModelConfig) -> int | None:
        if isinstance(answer, Probe):
            return None
        for one in _object(answer).get("models") or ():
            if isinstance(one, dict) and self.same(name, config, frozenset({str(one.get("model", ""))})):
                length = one.get("context_length")
                return length if isinstance(length, int) and length > 0 else None
        return None


def _check(answer: httpx.Response | Probe) -> None:
    if isinstance(answer, Probe):
        raise ProviderError(f"The server did not answer: {answer.detail}.", reason=WakeFailure.UNREACHABLE)
    if answer.is_error:
        raise said_no(said(answer.content, answer.status_code), answer.status_code)


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _seconds(keep: float) -> int:
    """Whole seconds; -1 (for ever) for an infinite time."""
    return -1 if keep == float("inf") else round(keep)
