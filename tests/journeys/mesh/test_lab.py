"""The lab itself: whatever happens to a test, no Nebula and no namespace stays behind."""

import os
import subprocess
import sys

import pytest

from tests.journeys.mesh.conftest import CONFIG
from tests.mesh_lab import missing
from tests.mesh_lab.lab import ip, remove_leftovers, wait

_CRASH = """
import os, signal
from lamplighter.mesh.nodes import Node
from tests.journeys.mesh.conftest import CONFIG
from tests.mesh_lab import Lab
lab = Lab(CONFIG)
lab.__enter__()
machine = lab.add('one', Node('lighthouse'), '10.77.0.1').start()
print(machine.process.pid, lab.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_test_that_is_killed_leaves_nothing_for_long() -> None:
    """A developer's Ctrl-C must not leave tunnels and namespaces that the next run trips over."""
    if reason := missing():
        pytest.skip(reason)
    crashed = subprocess.Popen(
        [sys.executable, "-c", _CRASH], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    said, _ = crashed.communicate(timeout=60)
    nebula, folder = said.split()
    wait(lambda: not _runs(int(nebula)), "the Nebula of the killed test to end")
    assert f"lp{crashed.pid}-" in ip("netns", "list")
    remove_leftovers()
    assert f"lp{crashed.pid}-" not in ip("netns", "list")
    subprocess.run(["rm", "-r", folder], check=True)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - a zombie's file is read once
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_labs_know_their_configuration() -> None:
    """The journeys talk of two lighthouses; with one of them most would pass and prove less."""
    assert len(CONFIG.lighthouses) == 2
