"""What the keeper is told of a pool: stages in order, reasons that a person understands, endpoints only of what serves."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.providers.aws.dial import NodeFailure, NodeNotice, NodeStage, NodeStatus, read_status
from lamplighter.providers.aws.nodes import Node
from lamplighter.providers.aws.observing import LAST_WORDS_WITHIN, WAKE, observations, stages
from lamplighter.providers.aws.picture import Group, Machine, Order, Picture
from lamplighter.providers.base import Observation, Presence

NOW = 1_790_000_000.0
MACHINE = Machine(
    "i-1",
    "running",
    "g4dn.xlarge",
    "eu-central-1a",
    "spot",
    NOW - 90,
    "g",
    "aws_1",
    "m",
    NOW - 100,
    IPv4Address("10.77.128.7"),
    8000,
)


def seen(machine: Machine, node: Node, *, doomed: bool = False, ended_since: float | None = None) -> Observation:
    picture = Picture(NOW, (), (machine,))
    (one,) = observations(
        picture,
        {node.instance: node},
        {"aws_1"} if doomed else set(),
        NOW,
        key=lambda _: "key",
        rate=lambda _: None,
        ended_since={} if ended_since is None else {machine.id: ended_since},
    )
    return one


def ready(**more: object) -> Node:
    reports = {
        "boot": NodeStage("boot", NOW - 80, NOW - 70),
        "mesh": NodeStage("mesh", NOW - 70, NOW - 65),
        "pull": NodeStage("pull", NOW - 65, NOW - 40),
        "load": NodeStage("load", NOW - 40, NOW - 20),
    }
    node = Node("i-1", reports=reports, met_at=NOW - 64, ready_at=NOW - 19)
    for name, value in more.items():
        setattr(node, name, value)
    return node


def test_a_ready_node_has_an_endpoint_and_all_its_stages() -> None:
    """The gateway would have nowhere to send the request that waits."""
    one = seen(MACHINE, ready())
    assert one.endpoint is not None
    assert (one.endpoint.url, one.endpoint.key) == ("http://10.77.128.7:8000", "key")
    assert tuple(stage.name for stage in one.stages) == WAKE
    assert all(stage.ended_at is not None for stage in one.stages)
    assert (one.started_at, one.billed_from) == (NOW - 100, NOW - 90)


def test_stages_are_in_order_whatever_the_nodes_clock_says() -> None:
    """The wake card would jump, and the ETA be learned from nonsense."""
    odd = {
        "boot": NodeStage("boot", NOW + 5000, NOW + 5010),
        "mesh": NodeStage("mesh", NOW - 9000, NOW - 8000),
        "pull": NodeStage("pull", NOW - 50, NOW - 60),
        "load": NodeStage("load", NOW - 70),
    }
    told = stages(MACHINE, ready(reports=odd), NOW)
    times = [at for stage in told for at in (stage.started_at, stage.ended_at) if at is not None]
    assert times == sorted(times)
    assert times[-1] <= NOW


def test_the_mesh_is_up_only_when_we_reach_the_node() -> None:
    """A blocked port would look like a slow download."""
    told = stages(MACHINE, ready(met_at=None, ready_at=None), NOW)
    assert [stage.name for stage in told] == ["capacity", "boot", "mesh"]
    assert told[-1].ended_at is None


def test_an_order_waits_or_has_failed() -> None:
    """The person would not learn that there is no capacity."""
    waiting = Order("aws_1", "m", NOW - 5, NOW - 5, "no spot capacity; taking an on-demand g4dn.xlarge for 0.526 USD/h")
    failed = Order("aws_2", "m", NOW - 9, NOW - 4, "no spot capacity", WakeFailure.NO_CAPACITY)
    picture = Picture(NOW, (Group("g", "spot", 1, 3, (waiting, failed), {}),))
    two, one = observations(picture, {}, (), NOW, key=lambda _: "", rate=lambda _: None, ended_since={})
    assert (one.presence, one.failure, one.stages[0].detail) == (Presence.RUNNING, None, waiting.note)
    assert (two.presence, two.failure, two.detail) == (Presence.ENDED, WakeFailure.NO_CAPACITY, "No spot capacity.")
    assert not observations(picture, {}, {"aws_1", "aws_2"}, NOW, key=lambda _: "", rate=lambda _: None, ended_since={})


@pytest.mark.parametrize(
    ("machine", "node", "loss", "says"),
    [
        ({"ended": ("Server.SpotInstanceTermination", "")}, ready(), LossReason.SPOT_RECLAIMED, "took the spot machine back"),
        ({}, ready(notice=NodeNotice(True, NOW)), LossReason.SPOT_RECLAIMED, "took the spot machine back"),
        ({}, ready(last_words=("spot", None)), LossReason.SPOT_RECLAIMED, "took the spot machine back"),
        ({}, ready(last_words=("lease", None)), LossReason.VANISHED, "nobody renewed its lease"),
        ({}, ready(last_words=("failed", "CUDA error")), LossReason.CRASHED, "CUDA error"),
        ({}, ready(failure=NodeFailure(WakeFailure.OUT_OF_MEMORY, "It does not fit.")), LossReason.CRASHED, "It does not fit."),
        ({"ended": ("Client.UserInitiatedShutdown", "User initiated")}, ready(), LossReason.VANISHED, "User initiated"),
    ],
)
def test_why_a_node_is_no_more(machine: dict[str, object], node: Node, loss: LossReason, says: str) -> None:
    """An answer broke off, and nobody could say why."""
    one = seen(replace(MACHINE, state="terminated", **machine), node)  # type: ignore[arg-type] # fields of the dataclass
    assert (one.presence, one.loss, one.endpoint) == (Presence.ENDED, loss, None)
    assert one.detail is not None
    assert says in one.detail


def test_a_node_that_died_has_a_moment_for_its_last_words() -> None:
    """What it said last arrives a little after its death was seen, and would be lost."""
    dead = replace(MACHINE, state="terminated")
    assert seen(dead, ready(), ended_since=NOW - 0.5).presence is Presence.RUNNING
    assert seen(dead, ready(), ended_since=NOW - LAST_WORDS_WITHIN).presence is Presence.ENDED
    assert seen(dead, ready(last_words=("lease", None)), ended_since=NOW).presence is Presence.ENDED


def test_a_boot_deadline_is_told_as_such() -> None:
    """It would count as a lost machine, and nobody would look at the boot."""
    one = seen(replace(MACHINE, state="terminated"), Node("i-1", last_words=("boot_deadline", None)))
    assert one.failure is WakeFailure.BOOT_DEADLINE


def test_what_is_doomed_stops_and_is_gone_only_with_proof() -> None:
    """A machine that still bills would be forgotten."""
    assert seen(MACHINE, ready(), doomed=True).presence is Presence.STOPPING
    assert seen(replace(MACHINE, state="shutting-down"), ready(), doomed=True).presence is Presence.STOPPING
    picture = Picture(NOW, (), (replace(MACHINE, state="terminated"),))
    assert not observations(picture, {}, {"aws_1"}, NOW, key=lambda _: "", rate=lambda _: None, ended_since={})


def test_a_notice_is_passed_on() -> None:
    """Two minutes would pass unused, and then the answer breaks."""
    one = seen(MACHINE, ready(notice=NodeNotice(True, NOW + 110)))
    assert one.notice is not None
    assert one.notice.at == NOW + 110
    mild = seen(MACHINE, ready(notice=NodeNotice(False)))
    assert mild.notice is not None
    assert mild.notice.at is None


def test_what_a_node_says_is_bounded_and_checked() -> None:
    """A node that somebody broke into would fill the keeper's memory or its log, or crash it."""
    told = read_status(
        {
            "instance": "i-1\n\x1b[31m",
            "stages": [
                {"name": "boot", "started_at": 1, "progress": 7, "detail": "x" * 9999},
                {"name": 3},
                "no",
                {"name": "a", "started_at": "b"},
            ]
            * 20,
            "engine": {"state": ["ready"]},
            "failure": {"reason": "made up", "detail": None},
            "notice": {"kind": "interruption", "at": float("nan")},
            "public_key": 7,
        }
    )
    assert told.instance == "i-1  [31m"
    assert 0 < len(told.stages) <= 16
    assert told.stages[0].progress == 1.0
    assert len(told.stages[0].detail or "") <= 400
    assert told.engine == "waiting"
    assert told.failure == NodeFailure(WakeFailure.ENGINE_CRASHED, None)
    assert told.notice == NodeNotice(True, None, None)
    assert read_status({}) == NodeStatus("")


def test_messages_that_come_late_or_twice_change_nothing() -> None:
    """A stage would begin again after its end."""
    node = Node("i-1")
    for state, at in (("begin", 1.0), ("progress", 2.0), ("end", 3.0), ("begin", 1.0), ("end", 9.0)):
        node.told({"kind": "stage", "name": "boot", "state": state, "at": at, "progress": 0.5, "detail": None})
    assert node.reports["boot"].started_at == 1.0
    assert node.reports["boot"].ended_at == 3.0
    node.told({"kind": "stage", "name": "no such", "state": "begin", "at": 1.0})
    assert set(node.reports) == {"boot"}
    node.told({"kind": "stage", "name": "pull", "state": "fail", "at": 4.0, "reason": "disk_full", "detail": "No room."})
    assert node.failure == NodeFailure(WakeFailure.DISK_FULL, "No room.")


def test_a_node_with_another_duty_tells_its_own_stages_and_is_no_endpoint() -> None:
    """The gateway would send a request to a machine on which nothing listens."""
    names = ("boot", "mesh", "cluster")
    node = ready()
    node.reports = {name: NodeStage(name, NOW - 80 + 10 * at, NOW - 70 + 10 * at) for at, name in enumerate(names)}
    (one,) = observations(
        Picture(NOW, (), (MACHINE,)), {"i-1": node}, (), NOW,
        key=lambda _: "key", rate=lambda _: None, ended_since={}, names=names, serves=False,
    )  # fmt: skip
    assert [stage.name for stage in one.stages] == ["capacity", *names]
    assert one.stages[-1].ended_at is not None
    assert one.endpoint is None
    node.ready_at = None
    assert stages(MACHINE, node, NOW, names)[-1].ended_at is None, "its last stage ends when it says that it is ready"
