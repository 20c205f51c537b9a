"""The process around Ollama: `python -m lamplighter.engines.ollama.child FOLDER`. Starts `ollama serve`, and loads the one model of its replica.

Ollama knows no keys: whoever is on this machine and finds the port can use it, as with every Ollama. A replica of a process pool holds one
model; several in one server are what a static pool with `sleep_after` is for. Weights are kept in the data folder, shared by all replicas.
"""

import sys
from pathlib import Path

from lamplighter.core.errors import ProviderError, SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines import program
from lamplighter.engines.ollama.words import Pulling, among, listed, said_no
from lamplighter.engines.program import GRACE, Asking
from lamplighter.engines.supervisor import Failure, Life, run

_LOAD_LIMIT = 3600.0
_SILENCE = 120.0


def main() -> int:
    """Run the Ollama of the folder given as the one argument."""
    if len(sys.argv) != 2:
        print("usage: python -m lamplighter.engines.ollama.child FOLDER", file=sys.stderr)  # noqa: T201 - a program's usage line
        return 2
    return run(Path(sys.argv[1]), _serve, grace=GRACE + 1)


def _serve(life: Life) -> None:
    config = life.spec.config
    life.stage("start")
    try:
        path = program.find(config["program"], "ollama")
    except SourceError as error:
        raise Failure(error.reason, error.message) from error
    port = program.free_port()
    environment = {
        "OLLAMA_MODELS": str(Path(life.spec.models_folder) / "ollama"),
        "OLLAMA_KEEP_ALIVE": "-1",  # the replica sleeps as a whole
        "OLLAMA_MAX_LOADED_MODELS": "1",
        **config["environment"],
        "OLLAMA_HOST": f"127.0.0.1:{port}",
    }
    watcher = Watcher(life, Asking(port))
    program.serve(life, (path, "serve"), environment, f"http://127.0.0.1:{port}", watcher)


class Watcher:
    """Implements `program.Watcher`: brings the model once the server answers."""

    def __init__(self, life: Life, asking: Asking) -> None:
        self.context: int | None = None
        self._life = life
        self._asking = asking
        config = life.spec.config
        self._model = str(config["source"] or life.spec.model)
        self._pull = bool(config["pull"])

    def line(self, text: str) -> None:
        """Its log tells nothing that its API does not."""

    def look(self) -> bool:
        """Whether it answers; then pull (if it may) and load, which takes as long as it takes."""
        if (self._asking.get("/api/version") or (0, None))[0] != 200:
            return False
        try:
            self._bring()
        except ProviderError as error:
            raise Failure(error.reason, error.message) from error
        return True

    def _bring(self) -> None:
        tags = self._asking.get("/api/tags", timeout=10)
        have = listed(tags[1]) if tags and isinstance(tags[1], dict) else None
        if not among(self._model, have or ()):
            if not self._pull:
                raise ProviderError(
                    f"The model {self._model!r} is not here: set the model's `pull: true`.", reason=WakeFailure.MODEL_NOT_FOUND
                )
            self._life.stage("pull")
            self._fetch()
        self._life.stage("load")
        body = {"model": self._model, "stream": False}
        answer = self._asking.post("/api/generate", body, timeout=_LOAD_LIMIT)
        if answer and answer[0] == 400:
            answer = self._asking.post("/api/embed", {"model": self._model, "input": []}, timeout=_LOAD_LIMIT)
        if answer is None:
            raise ProviderError("Ollama broke off while it loaded the model.", reason=WakeFailure.ENGINE_CRASHED)
        if answer[0] >= 400:
            raise said_no(str((answer[1] or {}).get("error") or f"it answered {answer[0]}"), answer[0])

    def _fetch(self) -> None:
        pulling = Pulling()
        try:
            for word in self._asking.stream("/api/pull", {"model": self._model}, timeout=_SILENCE):
                if error := word.get("error"):
                    raise said_no(str(error))
                self._life.update(*pulling.told(word))
                if word.get("status") == "success":
                    return
        except (OSError, ValueError) as error:
            raise ProviderError(f"The pull broke off ({type(error).__name__}).", reason=WakeFailure.DOWNLOAD_FAILED) from error
        raise ProviderError(f"The pull of {self._model!r} ended half-way.", reason=WakeFailure.DOWNLOAD_FAILED)

    def judge(self, log: str, code: int) -> Failure:
        """By the words that it also answers with."""
        last = next((line for line in reversed(log.splitlines()) if "rror" in line), "")
        error = said_no(last or f"it ended with status {code}")
        known = error.reason if error.reason is not WakeFailure.PROVIDER_ERROR else WakeFailure.ENGINE_CRASHED
        return Failure(known, f"Ollama ended. {last[:200]}".strip())


if __name__ == "__main__":
    sys.exit(main())
