"""vLLM: the engine contract, its program as a process of ours, and, where one can be had, the real thing.

The real one: `LAMPLIGHTER_TEST_VLLM` names a `vllm` program, `LAMPLIGHTER_TEST_VLLM_MODEL` a folder with a small model.
"""

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.clock import SystemClock
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.base import Capability, Engine, Health
from lamplighter.engines.state import ProcessState
from lamplighter.engines.vllm.engine import Vllm
from lamplighter.providers.base import Desired, Observation, Presence
from lamplighter.providers.process import ProcessProvider
from lamplighter.testing.contracts import EngineContract
from lamplighter.testing.contracts.provider import ready
from lamplighter.testing.vllm import FakeVllm
from tests.contract.test_engines import FakeServed

REAL, REAL_MODEL = os.environ.get("LAMPLIGHTER_TEST_VLLM"), os.environ.get("LAMPLIGHTER_TEST_VLLM_MODEL")


class TestVllm(EngineContract):
    """`vllm`, in front of a pretended server."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[FakeServed]:
        config = ModelConfig.model_validate({"engine": "vllm", "pool": "gpu", "source": "hf:owner/model"})
        async with FakeVllm(model="small", key="secret") as server:
            yield FakeServed(Vllm(), config, server)


def program(folder: Path, *options: str) -> str:
    """An executable that is the pretended vLLM with these options."""
    path = folder / "vllm"
    words = [sys.executable, "-P", "-m", "lamplighter.testing.vllm"]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@" {shlex.join(options)}\n')
    path.chmod(0o755)
    return str(path)


class Kept:
    """A process pool with one vLLM model."""

    def __init__(self, data: Path, lease: float = 45.0, **model: object) -> None:
        self.data = data
        self.config = ModelConfig.model_validate({"engine": "vllm", "pool": "gpu", "source": "hf:owner/model", **model})
        self.engine = Vllm()
        self.clock = SystemClock()
        self.provider = self.make(lease)

    def make(self, lease: float = 45.0) -> ProcessProvider:
        engines: dict[str, Engine] = {"vllm": self.engine}
        return ProcessProvider(
            "gpu",
            models=lambda: {"m": self.config},
            engines=engines,
            data=self.data,
            installation="ins",
            clock=self.clock,
            lease=lease,
        )

    async def until(
        self, met: Callable[[Sequence[Observation]], bool], *, limit: float = 60.0, renew: bool = True
    ) -> Sequence[Observation]:
        end = time.monotonic() + limit
        while True:
            if renew:
                await self.provider.renew()
            seen = await self.provider.observe()
            if met(seen):
                return seen
            assert time.monotonic() < end, (seen, self.log())
            await asyncio.sleep(0.05)

    def log(self) -> str:
        return "".join(path.read_text(errors="replace")[-3000:] for path in self.data.glob("run/engines/*/engine.log"))

    async def start(self) -> Observation:
        await self.provider.scale(Desired({"m": 1}), frozenset())
        (one,) = await self.until(ready)
        return one

    async def end(self) -> None:
        await self.provider.scale(Desired({}), frozenset(one.handle for one in await self.provider.observe()))
        await self.until(lambda seen: not seen)

    def state(self, handle: str) -> ProcessState:
        state = ProcessState.read(self.data / "run" / "engines" / handle)
        assert state is not None
        return state


def marked(mark: str) -> list[psutil.Process]:
    """Living processes with `mark` in their command line."""
    living = (one for one in psutil.process_iter(["cmdline", "status"]) if one.info["status"] != psutil.STATUS_ZOMBIE)
    return [one for one in living if any(mark in word for word in one.info["cmdline"] or ())]


async def post(url: str, key: str | None, body: object, path: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(f"{url}{path}", json=body, headers=headers)


async def none_left(mark: str) -> None:
    end = time.monotonic() + 15
    while left := marked(mark):
        assert time.monotonic() < end, [one.cmdline() for one in left]
        await asyncio.sleep(0.05)


async def test_a_vllm_of_ours_goes_through_its_stages_and_answers(tmp_path: Path) -> None:
    """The wake card would stand still for minutes, or the engine would never be found."""
    kept = Kept(tmp_path, program=program(tmp_path, "--fake-load-seconds", "1"), arguments=["--max-model-len", "512"])
    seen: list[tuple[str, float | None, str | None]] = []
    await kept.provider.scale(Desired({"m": 1}), frozenset())

    def look(observed: Sequence[Observation]) -> bool:
        seen.extend((stage.name, stage.progress, stage.detail) for one in observed for stage in one.stages)
        return ready(observed)

    (one,) = await kept.until(look)
    try:
        assert [stage.name for stage in one.stages] == ["start", "load"]
        details = [detail for name, _, detail in seen if name == "load" and detail]
        assert any("loading weights" in detail for detail in details), details
        shares = [share for name, share, _ in seen if name == "load" and share is not None]
        assert shares == sorted(shares), "progress that goes back"
        assert one.endpoint is not None
        assert one.endpoint.url.startswith("http://127.0.0.1:")
        probe = await kept.engine.probe(one.endpoint, "m", kept.config, timeout=5)
        assert probe.health is Health.READY, probe
        assert (probe.context, probe.running, probe.waiting) == (512, 0, 0)
        stranger = await post(one.endpoint.url, None, {"model": "m", "prompt": "a"}, "/v1/completions")
        assert stranger.status_code == 401, "anybody on this machine could use the engine"
        assert one.endpoint.key is not None
        commands = [word for process in marked(str(tmp_path)) for word in process.cmdline()]
        assert not any(one.endpoint.key in word for word in commands), "every user of the machine can read a command line"
    finally:
        await kept.end()


@pytest.mark.parametrize(
    ("failure", "reason", "says"),
    [
        ("cuda_oom", WakeFailure.OUT_OF_MEMORY, "GPU's memory"),
        ("context", WakeFailure.OUT_OF_MEMORY, "32768"),
        ("gated", WakeFailure.GATED_MODEL, "licence"),
        ("no_gpu", WakeFailure.ENGINE_MISSING, "no GPU"),
        ("usage", WakeFailure.ENGINE_REFUSED, "--no-such-thing"),
    ],
)
async def test_a_vllm_that_cannot_start_says_why(tmp_path: Path, failure: str, reason: WakeFailure, says: str) -> None:
    """A person would read a hundred lines of traceback, and the keeper would try for ever what can never work."""
    kept = Kept(tmp_path, program=program(tmp_path, "--fake-fail", failure))
    await kept.provider.scale(Desired({"m": 1}), frozenset())
    (one,) = await kept.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
    assert one.failure is reason, one
    assert says in (one.detail or "")
    await kept.end()


async def test_a_missing_vllm_is_named(tmp_path: Path) -> None:
    """A person who never installed vLLM would see a crash instead of what to install."""
    kept = Kept(tmp_path, program="/nowhere/vllm")
    await kept.provider.scale(Desired({"m": 1}), frozenset())
    (one,) = await kept.provider.observe()
    assert one.failure is WakeFailure.ENGINE_MISSING
    assert "/nowhere/vllm" in (one.detail or "")


async def test_a_vllm_that_is_well_but_cannot_answer_is_never_ready(tmp_path: Path) -> None:
    """`/health` says 200 until the first request kills the engine (seen with 0.32): the first person would get that error."""
    kept = Kept(tmp_path, program=program(tmp_path, "--fake-dead"))
    await kept.provider.scale(Desired({"m": 1}), frozenset())
    try:
        await asyncio.sleep(4)
        (one,) = await kept.provider.observe()
        assert one.endpoint is None
    finally:
        await kept.end()


async def test_ending_leaves_no_process_behind(tmp_path: Path) -> None:
    """vLLM's own engine processes hold the GPU's memory: one left behind blocks the next wake until somebody reboots."""
    mark = f"mark-{tmp_path.name}-{os.getpid()}"
    kept = Kept(tmp_path, program=program(tmp_path, "--fake-child", mark))
    await kept.start()
    assert marked(mark)
    await kept.end()
    await none_left(mark)
    assert not marked(str(tmp_path))


async def test_a_deaf_vllm_is_killed(tmp_path: Path) -> None:
    """An engine that ignores being asked would keep its GPU for ever."""
    kept = Kept(tmp_path, program=program(tmp_path, "--fake-deaf"))
    await kept.start()
    await kept.end()
    await none_left(str(tmp_path))


async def test_orphans_end_themselves(tmp_path: Path) -> None:
    """A killed Lamplighter would leave GPUs burning."""
    mark = f"orphan-{tmp_path.name}-{os.getpid()}"
    kept = Kept(tmp_path, lease=2.0, program=program(tmp_path, "--fake-child", mark))
    await kept.start()
    await none_left(mark)
    await none_left(str(tmp_path))


@pytest.mark.parametrize("which", ["supervisor", "engine"])
async def test_a_killed_half_takes_the_rest_with_it(tmp_path: Path, which: str) -> None:
    """`kill -9` of one of our processes would orphan vLLM with the GPU's memory."""
    mark = f"half-{which}-{tmp_path.name}-{os.getpid()}"
    kept = Kept(tmp_path, program=program(tmp_path, "--fake-child", mark))
    one = await kept.start()
    state = kept.state(one.handle)
    pid = state.pid if which == "supervisor" else state.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await none_left(mark)
    (dead,) = await kept.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
    assert dead.loss is LossReason.CRASHED
    await kept.end()


async def test_a_crash_while_it_serves_is_told_with_its_reason(tmp_path: Path) -> None:
    """The person whose answer broke off would not learn that the GPU's memory ran out."""
    kept = Kept(tmp_path, program=program(tmp_path, "--fake-crash-after", "1.5"))
    await kept.start()
    (dead,) = await kept.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
    assert dead.loss is LossReason.CRASHED
    assert "memory ran out" in (dead.detail or "")
    await kept.end()


@pytest.mark.long
async def test_the_real_vllm(tmp_path: Path) -> None:
    """What is pretended above must be true of vLLM itself."""
    if not REAL or not REAL_MODEL:
        pytest.skip("no vLLM here: set LAMPLIGHTER_TEST_VLLM and LAMPLIGHTER_TEST_VLLM_MODEL")
    kept = Kept(
        tmp_path,
        program=REAL,
        source=f"file:{REAL_MODEL}",
        arguments=["--max-model-len", "512"],
        environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    await kept.provider.scale(Desired({"m": 1}), frozenset())
    phases = set[str]()

    def look(observed: Sequence[Observation]) -> bool:
        phases.update(stage.detail or "" for one in observed for stage in one.stages)
        return ready(observed)

    try:
        (one,) = await kept.until(look, limit=400)
        assert "compiling" in phases, phases
        assert one.endpoint is not None
        probe = await kept.engine.probe(one.endpoint, "m", kept.config, timeout=10)
        assert probe.health is Health.READY, probe
        assert (probe.context, probe.running, probe.waiting, probe.cache) == (512, 0, 0, 0.0)
        assert probe.capabilities is not None
        assert probe.capabilities >= {
            Capability.CHAT,
            Capability.COMPLETIONS,
            Capability.RESPONSES,
            Capability.MESSAGES,
            Capability.TOKENIZE,
        }
        assert Capability.EMBEDDINGS not in probe.capabilities
        body = {"model": "m", "messages": [{"role": "user", "content": "the lamp"}], "max_tokens": 8}
        answer = await post(one.endpoint.url, one.endpoint.key, body, "/v1/chat/completions")
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0
    finally:
        await kept.end()
    await none_left(str(tmp_path))
