"""The benchmark's table, and that the whole of it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.rig import Cost, Load, Subject
from bench.suite import table

ROOT = Path(__file__).resolve().parents[3]


def subject(name: str, per_second: float, pid: int | None = 1) -> Subject:
    load = Load(100, 0, 1.0, per_second, per_second, 1.0, 2.0, 3.0, 4.0)
    return Subject(name, 1, 2, pid_at_once=pid, pid_paced=pid, results={"whole": [Cost(load, 0.01, 50_000_000)]})


def test_the_table_compares_ours_with_the_base() -> None:
    """Figures would be put into the wrong column, or a loss shown as a win."""
    base, ours = subject("prototype", 200.0), subject("lamplighter", 150.0)
    lines = table([subject("engine", 1000.0, pid=None), base, ours], base=base, ours=ours).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "",
        "engine",
        "prototype",
        "lamplighter",
        "lamplighter / prototype",
    ]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "whole answers/s, 64 parallel",
        "1,000",
        "200",
        "150",
        "0.75",
    ]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == ["CPU us per answer", "-", "100", "100", "1.00"]
    assert lines[-1].count("0") >= 3


@pytest.mark.long
def test_the_benchmark_runs() -> None:
    """`make bench` would fail for whoever wants to see what the gateway costs."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "streams/s" in done.stdout
