"""What Ollama says, in the keeper's words: its lists, the progress of a pull, the reason of a failure. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Capability

_SINCE: Mapping[Capability, tuple[int, ...]] = {Capability.RESPONSES: (0, 13, 3), Capability.MESSAGES: (0, 14, 0)}
"""The first versions of Ollama that have these routes."""

_SIGNS: tuple[tuple[WakeFailure, tuple[str, ...]], ...] = (
    (WakeFailure.OUT_OF_MEMORY, ("more system memory", "out of memory", "cudamalloc failed", "unable to allocate", "insufficient memory")),
    (WakeFailure.DISK_FULL, ("no space left", "disk quota", "insufficient disk")),
    (WakeFailure.MODEL_NOT_FOUND, ("file does not exist", "not found", "invalid model name")),
    (WakeFailure.GATED_MODEL, ("unauthorized", "access denied", "gated")),
    (WakeFailure.MODEL_CORRUPT, ("digest mismatch", "invalid file magic", "unable to load model", "corrupt")),
    (WakeFailure.ENGINE_MISSING, ("unknown model architecture", "unsupported architecture", "newer version of ollama", "requires a newer version")),
    (WakeFailure.DOWNLOAD_FAILED, ("no such host", "dial tcp", "timeout", "connection refused", "connection reset", "pull model manifest", "eof")),
    (WakeFailure.ENGINE_CRASHED, ("llama runner process", "llama-server process", "model runner has unexpectedly stopped", "exit status")),
)  # fmt: skip


def listed(answer: Mapping[str, Any]) -> frozenset[str] | None:
    """The names in an answer of `/api/tags` or `/api/ps`; None when it is no such answer."""
    models = answer.get("models", ())
    if "models" not in answer or not isinstance(models, list | None):
        return None
    names = (one.get("model") or one.get("name") for one in models or () if isinstance(one, dict))
    return frozenset(name for name in names if isinstance(name, str))


def among(wanted: str, models: Collection[str]) -> bool:
    """Whether the model is one of them: a bare name means its tag `latest`, and case does not matter."""
    wanted = wanted.lower()
    if ":" not in wanted.rpartition("/")[2]:
        wanted += ":latest"
    return wanted in {model.lower() for model in models}


def capabilities(made_for: Collection[object], version: str) -> frozenset[Capability]:
    """What a model can be asked for, by what `/api/show` says that it is made for and by what its server's version has."""
    if "completion" not in made_for:
        return frozenset({Capability.EMBEDDINGS}) if "embedding" in made_for else frozenset()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    newest = numbers in ((), (0, 0, 0))  # built from source
    since = {route: newest or numbers >= first for route, first in _SINCE.items()}
    usual = {Capability.CHAT, Capability.COMPLETIONS, Capability.EMBEDDINGS}
    return frozenset(usual | {route for route, there in since.items() if there})


def said_no(text: str, status: int = 500) -> ProviderError:
    """The failure behind what Ollama said."""
    lowered = text.lower()
    if status in (401, 403):
        return ProviderError(f"The server refuses: {text}")
    reason = next((reason for reason, signs in _SIGNS if any(sign in lowered for sign in signs)), WakeFailure.PROVIDER_ERROR)
    return ProviderError(f"Ollama says: {text}", reason=reason)


class Pulling:
    """Adds up the layers of a pull, which Ollama tells one by one."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}
        self._share = 0.0

    def told(self, word: Mapping[str, Any]) -> tuple[float | None, str]:
        """(share 0..1 when known, what a person reads), after one line of it. Never goes back, though layers are told one after another."""
        digest, total = word.get("digest"), word.get("total")
        if isinstance(digest, str) and isinstance(total, int) and total > 0:
            done = word.get("completed")
            self._layers[digest] = (min(done, total) if isinstance(done, int) else 0, total)
        if not self._layers:
            return None, str(word.get("status") or "pulling")[:100]
        done, whole = (sum(part) for part in zip(*self._layers.values(), strict=True))
        self._share = max(self._share, done / whole)
        return self._share, f"{done / 1e6:.0f} of {whole / 1e6:.0f} MB"
