"""A pretended engine as a real process under the real supervisor: `python -m lamplighter.testing.child FOLDER JSON`.

For tests of everything around an engine process (providers, leases, kills, crashes) without a model. `JSON`: what it does, see `Script`.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lamplighter.core.reasons import WakeFailure
from lamplighter.core.rollouts import base
from lamplighter.engines.base import Command, LaunchSpec
from lamplighter.engines.supervisor import Failure, Life, run
from lamplighter.testing.provider import FakeEngineKind


@dataclass(frozen=True, slots=True)
class Script:
    """What the process does on its way. `load_seconds`: how long its stage `load` takes. `fail`: a WakeFailure value to end with while loading.

    `exit`: a status to end with while loading, without a word. `deaf`: once ready it stops itself (SIGSTOP to its whole session), so that only
    killing helps. `log`: a line that it writes to its log first. `behaviour`: of its `FakeEngine`.
    """

    load_seconds: float = 0.0
    fail: str | None = None
    exit: int | None = None
    deaf: bool = False
    log: str | None = None
    behaviour: Mapping[str, Any] = field(default_factory=dict)


class FakeProcessEngine(FakeEngineKind):
    """The engine kind `fake`, started as a process by whoever asks for its command. `script` counts from the next launch on."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()

    def command(self, spec: LaunchSpec) -> Command:
        """This module on the replica's folder."""
        argv = (sys.executable, "-P", "-m", "lamplighter.testing.child", str(spec.folder), json.dumps(asdict(self.script)))
        return Command(argv, env={"PYTHONWARNINGS": "ignore"})


def main() -> int:
    """Run the pretended engine of the folder given as the first argument."""
    script = Script(**json.loads(sys.argv[2]))
    return run(Path(sys.argv[1]), lambda life: _serve(life, script))


def _serve(life: Life, script: Script) -> None:
    life.stage("start")
    if script.log is not None:
        print(script.log, file=sys.stderr, flush=True)  # noqa: T201 - standard error is the engine's log
    life.stage("load")
    time.sleep(script.load_seconds)
    if script.fail is not None:
        raise Failure(WakeFailure(script.fail), "It failed, as asked.")
    if script.exit is not None:
        os._exit(script.exit)
    asyncio.run(_answer(life, script))


async def _answer(life: Life, script: Script) -> None:
    from lamplighter.testing.engine import FakeEngine

    async with FakeEngine(exits=True, model=base(life.spec.model), key=life.spec.key, **script.behaviour) as engine:
        life.ready(engine.url, 4096)
        if script.deaf:
            os.killpg(0, signal.SIGSTOP)
        await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
