"""`engines.supervisor`, with real processes: what kills them and what they leave behind is the whole point."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lamplighter.config import ModelConfig
from lamplighter.engines import supervisor
from lamplighter.engines.base import LaunchSpec
from lamplighter.engines.state import LEASE, LOG, ProcessState, Spec, claim, touch
from lamplighter.testing.child import FakeProcessEngine, Script

CONFIG = ModelConfig.model_validate({"engine": "fake", "pool": "here"})
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "prc_test"
    path.mkdir()
    return path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a pretended engine in the folder; all are killed afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(script: Script | None = None, lease: float = 600.0) -> subprocess.Popen[bytes]:
        Spec("prc_test", "ins", "here", "small", "/models", time.time(), key="k", lease_seconds=lease).write(folder)
        touch(folder / LEASE)
        command = FakeProcessEngine(script).command(LaunchSpec("small", CONFIG, folder, folder, "k"))
        with (folder / LOG).open("ab") as log:
            started.append(subprocess.Popen(command.argv, stdout=log, stderr=log, start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(folder: Path, met: Callable[[ProcessState], bool]) -> ProcessState:
    """The state, once it meets the condition."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        state = ProcessState.read(folder)
        if state is not None and met(state):
            return state
        time.sleep(0.01)
    raise AssertionError(ProcessState.read(folder), (folder / LOG).read_text())


def up(state: ProcessState) -> bool:
    return state.url is not None


def engine_of(state: ProcessState) -> int:
    assert state.engine_pid is not None
    return state.engine_pid


def gone(pid: int) -> bool:
    """Whether the process ends within a few seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def test_sigterm_ends_both_at_once(folder: Path, start: Start) -> None:
    """A pool that goes to sleep would keep its memory, or the restart of Lamplighter would hang."""
    process = start()
    state = until(folder, up)
    began = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 2
    assert gone(engine_of(state))
    assert until(folder, lambda one: one.exit is not None).detail == "It was asked to end."


def test_an_unrenewed_lease_ends_it_and_says_so(folder: Path, start: Start) -> None:
    """`kill -9` of Lamplighter would leave an engine running for ever."""
    process = start(lease=0.3)
    process.wait(20)
    state = until(folder, lambda one: one.exit is not None)
    assert state.detail is not None
    assert "lease" in state.detail


def test_the_lease_counts_while_the_engine_is_busy(folder: Path, start: Start) -> None:
    """llama.cpp holds the interpreter's lock while it loads; an orphan would live for as long as a large model needs."""
    process = start(Script(load_seconds=600), lease=0.3)
    process.wait(20)
    assert until(folder, lambda one: one.exit is not None).url is None


def test_a_renewed_lease_keeps_it(folder: Path, start: Start) -> None:
    """Engines would end under a living keeper."""
    process = start(lease=1.5)
    until(folder, up)
    for _ in range(30):
        touch(folder / LEASE)
        time.sleep(0.1)
    assert process.poll() is None


def test_a_vanished_folder_ends_it(folder: Path, start: Start) -> None:
    """A data folder that was deleted would leave engines that no later start can find."""
    process = start()
    until(folder, up)
    shutil.rmtree(folder)
    assert process.wait(10) == 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="the kernel's help exists on Linux only")
def test_the_engine_dies_with_its_supervisor(folder: Path, start: Start) -> None:
    """`kill -9` of the process that is listed would leave the one that holds the memory."""
    process = start()
    state = until(folder, up)
    process.kill()
    assert gone(engine_of(state))


def test_a_killed_engine_is_recorded(folder: Path, start: Start) -> None:
    """A keeper that starts later could not tell a crash from a sleep."""
    process = start()
    os.kill(engine_of(until(folder, up)), signal.SIGKILL)
    process.wait(10)
    state = until(folder, lambda one: one.exit is not None)
    assert state.exit == -signal.SIGKILL
    assert state.failure is None
    assert state.detail is not None
    assert "SIGKILL" in state.detail


def test_an_engine_that_ends_while_loading_failed(folder: Path, start: Start) -> None:
    """The wake card would show "load" until the boot deadline."""
    start(Script(exit=3)).wait(10)
    state = until(folder, lambda one: one.exit is not None)
    assert state.failure == "engine_crashed"
    assert state.detail == "The engine ended by itself (exit status 3)."


def test_a_failure_keeps_its_sentence(folder: Path, start: Start) -> None:
    """The person would read "exit status 1" instead of what to do."""
    start(Script(fail="model_corrupt")).wait(10)
    state = until(folder, lambda one: one.exit is not None)
    assert (state.failure, state.detail) == ("model_corrupt", "It failed, as asked.")


def test_it_does_not_begin_what_was_given_up(folder: Path, start: Start) -> None:
    """An engine would run that its provider believes dead."""
    claim(folder, "given up")
    assert start().wait(10) == 2
    assert ProcessState.read(folder) is None


def test_its_log_stays_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chatty engine would fill the disk."""
    monkeypatch.setattr(supervisor, "MAX_LOG", 100)
    log = folder / LOG
    with log.open("ab") as engine:
        engine.write(b"x" * 150)
        engine.flush()
        supervisor._bound_log(log)
        engine.write(b"after")
    assert log.read_bytes() == b"after"
    assert log.with_name("engine.log.1").read_bytes() == b"x" * 100


def test_memory_running_out_is_told_apart_from_a_kill(folder: Path) -> None:
    """Somebody's `kill -9` would be told as a lack of memory and never be tried again, or the other way round."""
    ending = supervisor._Ending(signal.SIGKILL, None)
    for oom, reason in ((True, "out_of_memory"), (False, "engine_crashed")):
        supervisor._record(folder, ProcessState(1, 0.0), ending, oom=oom)
        state = ProcessState.read(folder)
        assert state is not None
        assert state.failure == reason
        (folder / "state.json").unlink()
