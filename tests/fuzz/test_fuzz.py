"""The fuzz targets: shortly with inputs that grow from the seeds in every run, for minutes with coverage to guide them in `make test-long`."""

import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz_http, fuzz_request, fuzz_sse

TARGETS = {"request": fuzz_request, "sse": fuzz_sse, "http": fuzz_http}
ROOT = Path(__file__).parents[2]
SECONDS = 3.0
_ATHERIS = importlib.util.find_spec("atheris") is not None
without_atheris = pytest.mark.skipif(not _ATHERIS, reason="atheris has no wheel for this Python")


def changed(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few things wrong: pieces doubled, dropped, flipped, or replaced by what parsers stumble over."""
    words = (
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"0\r\n\r\n",
        b'"',
        b"\\u0000",
        b"{",
        b"[" * 40,
        b"data:",
        b"[DONE]",
        b"\xff",
        b"-1",
        b": ",
        b"1e999",
    )
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randint(0, 12))
        middle = chance.choice(
            (b"", data[at:end] * 2, bytes(byte ^ 1 << chance.randrange(8) for byte in data[at:end]), chance.choice(words))
        )
        data = data[:at] + middle + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_what_grows_from_the_seeds_breaks_nothing(name: str) -> None:
    """A client's or an engine's odd bytes would end in a traceback, or mean different things in different packets."""
    target = TARGETS[name]
    for seed in target.SEEDS:
        target.check(seed)
    # The same inputs in every run: what fails here fails again.
    chance, end, count = random.Random(name), time.monotonic() + SECONDS, 0
    pool = list(target.SEEDS)
    while count < 3_000 and (time.monotonic() < end or count < 200):
        data = changed(chance.choice(pool), chance)
        try:
            target.check(data)
        except Exception as error:
            raise AssertionError(f"{name}: {data!r}") from error
        count += 1
        if chance.random() < 0.05:
            pool.append(data[:4096])


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True, database=None
)
@given(data=st.binary(max_size=300))
def test_any_bytes_break_nothing(name: str, data: bytes) -> None:
    """The same for bytes that look like nothing at all."""
    TARGETS[name].check(data)


def _atheris(name: str, folder: Path, *amount: str, seconds: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz.drive", name, *amount, "--keep", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 240, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "cov: " in done.stderr, "it did not run at all"


@without_atheris
def test_the_fuzzer_runs(tmp_path: Path) -> None:
    """The minutes of `make test-long` would pass without having fuzzed anything."""
    _atheris("sse", tmp_path, "--runs", "500", seconds=3)


@pytest.mark.long
@pytest.mark.timeout(600)
@without_atheris
@pytest.mark.parametrize("name", TARGETS)
def test_minutes_of_fuzzing_find_nothing(name: str, tmp_path: Path) -> None:
    """Inputs that only coverage finds would break what the short run does not."""
    _atheris(name, tmp_path, "--seconds", "120", seconds=120)
