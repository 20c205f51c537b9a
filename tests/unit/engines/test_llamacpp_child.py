"""What `engines.llamacpp.child` says of a model that cannot be run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lamplighter.core.reasons import WakeFailure
from lamplighter.engines import memory
from lamplighter.engines.llamacpp import child
from lamplighter.engines.state import LOG
from lamplighter.engines.supervisor import Failure
from tests.unit.engines.ggufs import make

CPU, ACCEL, GPU = 0, 3, 1


def library(*devices: int) -> Any:
    """The part of the engine's library that tells about devices."""
    kinds = SimpleNamespace(GGML_BACKEND_DEVICE_TYPE_CPU=CPU, GGML_BACKEND_DEVICE_TYPE_ACCEL=ACCEL)
    return SimpleNamespace(ggml_backend_dev_type=kinds, get_device_info=lambda: [{"type": device} for device in devices])


def test_the_context_is_cut_to_what_the_model_learned(tmp_path: Path) -> None:
    """Answers beyond the trained context are nonsense."""
    path = make(tmp_path / "model.gguf")
    assert child._check(path, library(CPU), context=4096, slots=3, gpu=True) == (2048, 3)
    assert child._check(path, library(CPU), context=512, slots=3, gpu=True) == (512, 3)


def test_a_model_that_does_not_fit_is_refused_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would kill the engine, or another program, in the middle of loading."""
    path = make(tmp_path / "model.gguf")
    monkeypatch.setattr(memory, "available", lambda: 100_000_000)
    with pytest.raises(Failure, match=r"needs about 0\.\d GB .* 0\.1 GB are free") as caught:
        child._check(path, library(CPU, ACCEL), context=2048, slots=2, gpu=True)
    assert caught.value.reason is WakeFailure.OUT_OF_MEMORY
    assert child._check(path, library(CPU, GPU), context=2048, slots=2, gpu=True)  # a GPU has memory of its own
    with pytest.raises(Failure):
        child._check(path, library(CPU, GPU), context=2048, slots=2, gpu=False)


def test_a_damaged_file_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    """llama.cpp would say "failed to load", or crash."""
    with pytest.raises(Failure) as caught:
        child._check(make(tmp_path / "model.gguf", whole=False), library(CPU), context=1, slots=1, gpu=False)
    assert caught.value.reason is WakeFailure.MODEL_CORRUPT


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("0.1 E srv load_model: failed to load model, 'x'", WakeFailure.MODEL_CORRUPT),
        ("0.1 E llama_model_load: error loading model: unknown model architecture: 'new'", WakeFailure.ENGINE_MISSING),
        ("0.1 E ggml_aligned_malloc: failed to allocate 99999 MB\n0.2 E srv failed to load model", WakeFailure.OUT_OF_MEMORY),
        ("terminate called: std::bad_alloc", WakeFailure.OUT_OF_MEMORY),
        ("0.1 E srv start: couldn't bind", WakeFailure.ENGINE_CRASHED),
        ("", WakeFailure.ENGINE_CRASHED),
    ],
)
def test_the_log_tells_the_reason(tmp_path: Path, log: str, reason: WakeFailure) -> None:
    """A failure that cannot be mended would be tried again for ever, or the other way round."""
    (tmp_path / LOG).write_text(log)
    failure = child._judge(tmp_path, Path("/models/x.gguf"))
    assert failure.reason is reason
    assert failure.detail.endswith(".")


def test_the_last_error_is_quoted_without_its_frame() -> None:
    """The person would read a time stamp and a function's name."""
    log = "0.1 I cmn hello\n0.2 E cmn  common_init_: failed to load model 'x'\n0.3 E srv init: exiting due to model loading error"
    assert child.last_error(log) == "failed to load model 'x'."


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare Debian has no libgomp; the person would read an import error."""
    import builtins

    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "xllamacpp":
            raise ImportError("libgomp.so.1: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(Failure, match="libgomp") as caught:
        child._import()
    assert caught.value.reason is WakeFailure.ENGINE_MISSING


def test_memory_counts_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container with a limit the engine would be killed although the machine has memory."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    free = memory.available()
    assert free > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory._container_room() == memory._UNLIMITED
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.available() == 4000
    assert memory.total() == 5000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300\n")
    assert memory.available() == 4300
