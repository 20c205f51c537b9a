"""vLLM's log in the keeper's words: what it does while it starts, and why it ended."""

import pytest

from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.vllm.log import Reader, judge, plain
from lamplighter.testing.vllm import FAILURES, STARTING

R = WakeFailure


@pytest.mark.parametrize(
    ("name", "reason", "says"),
    [
        ("cuda_oom", R.OUT_OF_MEMORY, "GPU's memory ran out"),
        ("no_cache", R.OUT_OF_MEMORY, "no GPU memory for the cache"),
        ("gpu_busy", R.OUT_OF_MEMORY, "Something else uses"),
        ("context", R.OUT_OF_MEMORY, "About 32768 tokens would fit"),
        ("gated", R.GATED_MODEL, "licence"),
        ("missing", R.MODEL_NOT_FOUND, "no such model"),
        ("offline", R.DOWNLOAD_FAILED, "cannot be reached"),
        ("disk", R.DISK_FULL, "disk is full"),
        ("architecture", R.ENGINE_MISSING, "MambaByteForCausalLM"),
        ("no_gpu", R.ENGINE_MISSING, "finds no GPU"),
        ("corrupt", R.MODEL_CORRUPT, "damaged"),
        ("usage", R.ENGINE_REFUSED, "--no-such-thing"),
        ("unknown", R.ENGINE_CRASHED, "something that nobody has seen before"),
    ],
)
def test_every_known_end_has_its_reason(name: str, reason: WakeFailure, says: str) -> None:
    """The keeper would try for ever what can never work, or give up what only needs another try."""
    failure = judge("\n".join([*STARTING, FAILURES[name]]), 2 if name == "usage" else 1)
    assert failure.reason is reason, failure
    assert says in failure.detail


def test_every_pretended_failure_is_judged_above() -> None:
    """A failure mode could be added and nobody would know what it becomes."""
    assert len(FAILURES) == 13


def test_a_silent_end_is_told_as_one() -> None:
    """An empty sentence would be shown."""
    assert judge("", -9).reason is R.ENGINE_CRASHED
    assert judge("", -9).detail


def test_progress_never_goes_back_and_reaches_the_end() -> None:
    """A bar that jumps back is not believed."""
    reader = Reader()
    lines = [part for line in STARTING for part in line.replace("\r", "\n").split("\n") if part.strip()]
    told = [one for line in lines if (one := reader.read(line)) is not None]
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] >= 0.95
    assert {stage for stage, _, _ in told} == {"load"}
    assert any("50 %" in detail for _, _, detail in told)


def test_a_download_is_a_stage_of_its_own() -> None:
    """A first start of an hour would look like a hanging load, and spoil the estimate of every later one."""
    assert Reader().read("model-00001-of-00002.safetensors:  12%|█▏        | 613M/4.99G [00:07<00:50, 86.4MB/s]") == (
        "pull",
        0.12,
        "613M of 4.99G",
    )


def test_lines_that_mean_nothing_tell_nothing() -> None:
    """Warnings would show up as stages."""
    assert Reader().read("(Worker pid=9) WARNING 11-22 02:41:26 [utils.py:333] Attempted to load weight norm.weight") is None
    assert plain("(EngineCore pid=7) ERROR 11-22 02:43:00 [core.py:1512] ValueError: x") == "ValueError: x"
