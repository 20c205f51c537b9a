"""The process around vLLM: `python -m lamplighter.engines.vllm.child FOLDER`. Starts `vllm serve`, and tells its stages until it answers.

vLLM listens on a port of loopback that nobody else had, behind this run's key; its `/metrics` and `/health` want no key, so the port is
private. The key goes by the environment: a command line can be read by every user of the machine. Weights stay in the hub's own cache.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamplighter.core.errors import SourceError
from lamplighter.core.rollouts import base
from lamplighter.engines import program
from lamplighter.engines.program import GRACE, Asking
from lamplighter.engines.supervisor import Failure, Life, run
from lamplighter.engines.vllm import log

_ANSWER_LIMIT = 300.0
"""Seconds for the first answer: it may compile."""


def main() -> int:
    """Run the vLLM of the folder given as the one argument."""
    if len(sys.argv) != 2:
        print("usage: python -m lamplighter.engines.vllm.child FOLDER", file=sys.stderr)  # noqa: T201 - a program's usage line
        return 2
    return run(Path(sys.argv[1]), _serve, grace=GRACE + 1)


def arguments(config: Mapping[str, Any], *, path: str, name: str, port: int) -> Sequence[str]:
    """The command: ours first, so that a wrong one of the configuration is told and not overridden in silence."""
    source = str(config["source"])
    kind, _, target = source.partition(":")
    if kind == "file":
        target = str(Path(target).expanduser())
    ours = ("--host", "127.0.0.1", "--port", str(port), "--served-model-name", name)
    pinned = ("--revision", str(config["revision"])) if config.get("revision") else ()
    return (path, "serve", target, *ours, *pinned, *config["arguments"])


def _serve(life: Life) -> None:
    config = life.spec.config
    life.stage("start")
    try:
        path = program.find(config["program"], "vllm")
    except SourceError as error:
        raise Failure(error.reason, error.message) from error
    port = program.free_port()
    environment = {
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",  # its usage statistics are nobody's business but the owner's, who can set it otherwise
        **config["environment"],
        "VLLM_API_KEY": life.spec.key,
    }
    watcher = Watcher(life, Asking(port, life.spec.key))
    argv = arguments(config, path=path, name=base(life.spec.model), port=port)
    program.serve(life, argv, environment, f"http://127.0.0.1:{port}", watcher)


class Watcher:
    """Implements `program.Watcher`."""

    def __init__(self, life: Life, asking: Asking) -> None:
        self.context: int | None = None
        self._life = life
        self._asking = asking
        self._reader = log.Reader()
        self._stage = "start"

    def line(self, text: str) -> None:
        """Stages and progress; a pull that ends is followed by the load."""
        told = self._reader.read(text)
        if told is None:
            return
        stage, share, detail = told
        if stage != self._stage and not (stage == "pull" and self._stage == "load"):
            self._life.stage(stage)
            self._stage = stage
        if stage == self._stage:
            self._life.update(share, detail)

    def look(self) -> bool:
        """Its health, its list of models, and one token where it generates: a server that lists a model may still be unable to answer."""
        if (self._asking.get("/health") or (0, None))[0] != 200:
            return False
        listed = self._asking.get("/v1/models")
        if listed is None or listed[0] != 200 or not isinstance(listed[1], dict):
            return False
        models = [model for model in listed[1].get("data") or () if isinstance(model, dict)]
        mine = next((model for model in models if model.get("id") == base(self._life.spec.model)), None)
        if mine is None:
            return False
        limit = mine.get("max_model_len")
        self.context = limit if isinstance(limit, int) else None
        return self._answers()

    def _answers(self) -> bool:
        routes = self._asking.get("/openapi.json")
        paths = routes[1].get("paths", {}) if routes and isinstance(routes[1], dict) else {}
        if "/v1/completions" not in paths:
            return True  # a model that embeds or ranks has nothing to write
        body = {"model": base(self._life.spec.model), "prompt": "a", "max_tokens": 1}
        answer = self._asking.post("/v1/completions", body, timeout=_ANSWER_LIMIT)
        # 4xx: this model cannot be asked so (older versions list routes that their model does not have). 5xx and silence: not yet.
        return answer is not None and answer[0] < 500

    def judge(self, log_end: str, code: int) -> Failure:
        """By `log.judge`."""
        return log.judge(log_end, code)


if __name__ == "__main__":
    sys.exit(main())
