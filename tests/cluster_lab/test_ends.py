"""The control plane ends with whoever started it, in order or not."""

import shutil
import subprocess
import sys

import psutil
import pytest

from tests.cluster_lab import programs
from tests.journeys.harness import eventually

pytestmark = pytest.mark.long

_HOLD = """
import sys, time
from tests.cluster_lab.control_plane import ControlPlane
with ControlPlane() as plane:
    print(plane.folder, *(process.pid for process in plane._processes.values()), flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_of_a_killed_run() -> None:
    """Four servers of a run that was killed would hold memory and ports until somebody looks for them."""
    if programs.missing() is not None:
        pytest.skip(f"no real control plane: {programs.missing()}")
    run = subprocess.Popen([sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    folder, *pids = run.stdout.readline().split()
    assert len(pids) == 4
    assert all(psutil.pid_exists(int(pid)) for pid in pids)
    run.kill()
    run.wait(10)
    eventually(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids), what="every server ended with it")
    shutil.rmtree(folder)
