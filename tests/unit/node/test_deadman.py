"""When a node ends, with a clock that the test moves. Whatever happens to the agent, no sequence of restarts makes a node live longer."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.node.basics import Settings
from lamplighter.node.deadman import Deadman


@dataclass
class Machine:
    """A machine's two clocks and its disk."""

    path: Path
    clock: float = 50.0
    wall: float = 1_000_000.0
    boot: str = "first"

    def pass_time(self, seconds: float) -> None:
        """It runs on."""
        self.clock += seconds
        self.wall += seconds

    def reboot(self, seconds: float = 20.0) -> None:
        """It is away for a while, and its clock begins again."""
        self.wall += seconds
        self.clock, self.boot = 5.0, self.boot + "+"

    def agent(self) -> Deadman:
        """An agent that starts now."""
        raw = {
            "version": 1, "region": "r", "nodes_queue_url": "q", "bucket": "b", "node_role_id": "A", "boot_deadline": 900, "lease": 300, "drain": 120,
        }  # fmt: skip
        settings = Settings.parse(raw)
        return Deadman(self.path, settings, clock=lambda: self.clock, wall=lambda: self.wall, boot_id=self.boot)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A fresh one."""
    return Machine(tmp_path / "state" / "deadman.json")


def test_a_node_that_nobody_ever_leased_ends_at_its_boot_deadline(machine: Machine) -> None:
    """The keeper died between launch and lease: nothing else on the machine would end it."""
    agent = machine.agent()
    machine.pass_time(899)
    assert agent.due() is None
    assert agent.remaining() == 1
    machine.pass_time(1)
    assert agent.due() == "boot_deadline"


def test_a_lease_that_is_not_renewed_leaves_the_drain_and_no_more(machine: Machine) -> None:
    """Home's internet is down: running answers get their time, then the machine ends."""
    agent = machine.agent()
    assert agent.renew(300) == 300
    machine.pass_time(300)
    assert agent.remaining() == 0
    assert agent.due() is None
    machine.pass_time(119)
    assert agent.due() is None
    machine.pass_time(1)
    assert agent.due() == "lease"


def test_a_gateway_that_comes_back_in_time_costs_nothing(machine: Machine) -> None:
    """Within the lease, and even within the drain, a renewal makes all well again."""
    agent = machine.agent()
    agent.renew(300)
    machine.pass_time(400)
    agent.renew(300)
    machine.pass_time(299)
    assert agent.due() is None


def test_nobody_can_give_more_than_the_pools_lease(machine: Machine) -> None:
    """A wrong number from home must not keep a machine for a year."""
    agent = machine.agent()
    assert agent.renew(1e9) == 300
    machine.pass_time(420)
    assert agent.due() == "lease"


def test_killed_and_started_again_it_goes_on_with_the_time_that_was_left(machine: Machine) -> None:
    """`kill -9` in a loop would otherwise be eternal life, at the machine's price."""
    agent = machine.agent()
    agent.renew(300)
    for _ in range(60):
        machine.pass_time(7)
        agent = machine.agent()
    assert agent.due() == "lease"


def test_never_leased_and_killed_again_and_again(machine: Machine) -> None:
    """The boot deadline counts from the first start."""
    agent = machine.agent()
    for _ in range(100):
        machine.pass_time(9)
        agent = machine.agent()
    assert agent.due() == "boot_deadline"


def test_a_reboot_gives_back_nothing(machine: Machine) -> None:
    """The monotonic clock begins again with the machine; what passed meanwhile is read off the wall clock."""
    machine.agent().renew(300)
    machine.pass_time(100)
    machine.reboot(150)
    agent = machine.agent()
    assert agent.remaining() == pytest.approx(50)
    machine.pass_time(170)
    assert agent.due() == "lease"


def test_a_wall_clock_that_goes_back_over_a_reboot_gives_nothing_either(machine: Machine) -> None:
    """A machine without a clock of its own wakes in 1970."""
    machine.agent().renew(300)
    machine.pass_time(100)
    machine.reboot()
    machine.wall = 0
    assert machine.agent().remaining() <= 300


def test_a_wall_clock_that_is_set_while_it_runs_changes_nothing(machine: Machine) -> None:
    """Time synchronisation jumps by minutes just after boot."""
    agent = machine.agent()
    agent.renew(300)
    machine.wall += 86_400
    assert machine.agent().remaining() == 300
    assert agent.due() is None


def test_one_that_was_told_to_end_ends_after_a_restart_too(machine: Machine) -> None:
    """Killed in the middle of ending, it must not come back to life."""
    agent = machine.agent()
    agent.renew(300)
    agent.end("asked")
    agent.keep()
    assert machine.agent().due() == "asked"
    agent.end("lease")
    assert agent.due() == "asked", "the first reason is the reason"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"boot": 1}', '{"boot":"first","born":"x","until":null,"ending":null}']
)
def test_a_damaged_file_leaves_one_lease(machine: Machine, content: str) -> None:
    """The disk was full, or someone edited it: neither an eternal node nor one that ends an answer at once."""
    machine.path.parent.mkdir()
    machine.path.write_text(content)
    agent = machine.agent()
    assert agent.due() is None
    machine.pass_time(420)
    assert agent.due() == "lease"


def test_a_file_that_cannot_be_written_keeps_the_node_running(machine: Machine) -> None:
    """A full disk must not stop renewals; a restarted agent then ends sooner, never later."""
    machine.path.parent.write_text("a file where a folder should be")
    agent = machine.agent()
    assert agent.renew(300) == 300
    machine.pass_time(299)
    assert agent.due() is None


def test_a_file_that_promises_years_is_cut_to_one_lease(machine: Machine) -> None:
    """What is on the disk is no more trusted than what comes over the mesh."""
    machine.agent().renew(300)
    saved = json.loads(machine.path.read_text())
    machine.path.write_text(json.dumps(saved | {"until": 1e12, "born": 1e12}))
    agent = machine.agent()
    assert agent.remaining() <= 300
    machine.pass_time(420)
    assert agent.due() == "lease"


STEPS = st.lists(st.tuples(st.sampled_from(("run", "kill", "reboot")), st.floats(0, 400)), max_size=30)


@given(leased=st.booleans(), steps=STEPS)
def test_no_sequence_of_restarts_makes_a_node_live_longer(
    tmp_path_factory: pytest.TempPathFactory, *, leased: bool, steps: list[tuple[str, float]]
) -> None:
    """The bound itself: nothing bills for longer than max(boot deadline, lease) + drain after the last renewal."""
    machine = Machine(tmp_path_factory.mktemp("node") / "deadman.json")
    agent = machine.agent()
    if leased:
        agent.renew(300)
    began = machine.wall
    for kind, seconds in steps:
        if kind == "reboot":
            machine.reboot(seconds)
        else:
            machine.pass_time(seconds)
        if kind != "run":
            agent = machine.agent()
    bound = 420 if leased else 900
    assert agent.due() is not None or machine.wall - began < bound
