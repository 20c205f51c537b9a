"""Tags, keys, addresses, findings: what is written down, and what is read back."""

import json
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.aws.admission import free_address, open_authority
from lamplighter.providers.aws.mailbox import notice_of
from lamplighter.providers.aws.manifest import PoolManifest
from lamplighter.providers.aws.nodes import Keys
from lamplighter.providers.aws.picture import (
    Certificate,
    Group,
    Machine,
    Order,
    Picture,
    certificates_text,
    machine_of,
    read_certificates,
)
from lamplighter.providers.aws.reading import Writes
from lamplighter.providers.aws.watcher import ORPHAN_AFTER, Finding, findings_file, orphans, read_findings, unused
from lamplighter.testing.clock import VirtualClock

NOW = 1_790_000_000.0
NOTES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=80)


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,40}", fullmatch=True),
    st.floats(0, 4e9),
    st.floats(0, 4e9),
    NOTES,
    st.none() | st.sampled_from(list(WakeFailure)),
)
def test_an_order_survives_being_a_tag(model: str, at: float, since: float, note: str, failure: WakeFailure | None) -> None:
    """After a restart an order would be another one, or none."""
    order = Order("aws_1", model, round(at, 3), round(since, 3), note.rstrip("|"), failure)
    assert len(order.text()) <= 256
    assert Order.read("aws_1", order.text()) == order


@given(st.text(max_size=300))
def test_a_strange_tag_is_no_order(text: str) -> None:
    """Somebody's own tag would stop the keeper."""
    Order.read("x", text)
    read_certificates(text)


def test_the_shortest_order_can_be_read() -> None:
    """What the protocol promises, and another version writes."""
    assert Order.read("aws_1", "1790000000|m") == Order("aws_1", "m", NOW, NOW)


def test_certificates_survive_being_a_tag() -> None:
    """A certificate that is not known cannot be revoked."""
    three = tuple(Certificate(f"{n:064x}", NOW + n) for n in range(3))
    text = certificates_text(three)
    assert len(text) <= 256
    assert read_certificates(text) == three


def test_an_instance_as_ec2_describes_it() -> None:
    """A field that is missing, or empty, would stop every look at AWS."""
    assert machine_of({"InstanceId": "i-1"}, {"lamplighter:overlay": "no address", "lamplighter:port": "x"}) == Machine(
        "i-1", "", "", "", "on-demand", 0.0
    )
    full = {
        "InstanceId": "i-1", "State": {"Name": "terminated"}, "InstanceType": "g4dn.xlarge", "Placement": {"AvailabilityZone": "eu-central-1a"},
        "InstanceLifecycle": "spot", "LaunchTime": datetime.fromtimestamp(NOW, UTC), "StateReason": {"Code": "Server.SpotInstanceTermination"},
    }  # fmt: skip
    tags = {
        "aws:autoscaling:groupName": "g",
        "lamplighter:replica": "aws_1",
        "lamplighter:overlay": "10.77.128.1",
        "lamplighter:port": "8000",
    }
    machine = machine_of(full, tags)
    assert (machine.gone, machine.living, machine.market, machine.launched_at) == (True, False, "spot", NOW)
    assert (machine.replica, machine.overlay, machine.port) == ("aws_1", IPv4Address("10.77.128.1"), 8000)
    assert machine.ended[0] == "Server.SpotInstanceTermination"


async def test_what_was_written_counts_before_what_is_read() -> None:
    """AWS's answers are some seconds old: an instance would get a second order."""
    clock = VirtualClock()
    writes = Writes(clock)
    writes.note("i-1", {"replica": "aws_1", "old": None})
    assert writes.correct("i-1", {"old": "x"}) == {"replica": "aws_1"}
    assert writes.correct("i-2", {"old": "x"}) == {"old": "x"}
    await clock.advance(31)
    assert writes.correct("i-1", {"old": "x"}) == {"old": "x"}


def test_keys_are_known_again_and_differ(tmp_path: Path) -> None:
    """After a restart no node could be asked; or one node's key would open another."""
    first, second = Keys(tmp_path), Keys(tmp_path)
    assert first.agent("i-1", "aws_1") == second.agent("i-1", "aws_1")
    found = {first.agent("i-1", "a"), first.engine("i-1", "a"), first.agent("i-2", "a"), first.agent("i-1", "b")}
    assert len(found) == 4
    assert Keys(tmp_path / "other").agent("i-1", "a") not in found
    assert (tmp_path / "aws" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_damaged_secret_is_told(tmp_path: Path) -> None:
    """Every node would get a key that nobody can check."""
    (tmp_path / "aws").mkdir()
    (tmp_path / "aws" / "secret").write_bytes(b"short")
    with pytest.raises(ProviderError, match="damaged"):
        Keys(tmp_path).agent("i-1", "a")


def mesh(nodes: str, **more: object) -> MeshConfig:
    return MeshConfig.model_validate({"network": "10.77.0.0/16", "nodes": nodes, **more})


def test_addresses_are_free_stable_and_within_the_range() -> None:
    """Two nodes with one address would get each other's requests."""
    config = mesh("10.77.128.0/28")
    used: list[IPv4Address] = []
    for number in range(14):
        address = free_address(config, f"i-{number}", used)
        assert address in config.nodes
        assert address not in (config.nodes.network_address, config.nodes.broadcast_address)
        assert address not in used
        used.append(address)
    with pytest.raises(ProviderError, match="in use"):
        free_address(config, "i-x", used)
    assert free_address(config, "i-1", ()) == free_address(config, "i-1", ())


def test_no_mesh_is_told_before_anything_is_launched(tmp_path: Path) -> None:
    """A machine would be bought that nobody can reach."""
    with pytest.raises(ProviderError, match="no mesh") as caught:
        open_authority(tmp_path, mesh("10.77.128.0/17"), SystemClock())
    assert "lamplighter mesh init" in caught.value.next_step
    light = {"name": "light", "overlay": "10.77.0.1", "addresses": ["192.0.2.1:4242"]}
    with pytest.raises(ProviderError, match="No certificate can be made"):
        open_authority(tmp_path, mesh("10.77.128.0/17", lighthouses=[light]), SystemClock())


def test_events_of_aws() -> None:
    """An interruption would be taken for a state change."""
    told = notice_of({"detail-type": "EC2 Spot Instance Interruption Warning"}, NOW)
    assert told is not None
    assert (told.certain, told.at) == (True, NOW + 120)
    mild = notice_of({"detail-type": "EC2 Instance Rebalance Recommendation"}, NOW)
    assert mild is not None
    assert (mild.certain, mild.at) == (False, None)
    assert notice_of({"detail-type": "EC2 Instance State-change Notification"}, NOW) is None


# --- what nothing stands for --------------------------------------------------------------------------------------------------------------


def stray(number: int, **more: object) -> Machine:
    values = {"age": 1000.0, "group": None, "state": "running", "purpose": "", **more}
    return Machine(
        f"i-{number}", str(values["state"]), "g4dn.xlarge", "eu-central-1a", "spot", NOW - float(str(values["age"])),
        values["group"] if values["group"] is None else str(values["group"]), purpose=str(values["purpose"]),
    )  # fmt: skip


def watched(*machines: Machine) -> Picture:
    return Picture(NOW, (Group("g", "spot", 0, 2, (), {}),), machines)


def test_only_what_is_certainly_forgotten_is_ended() -> None:
    """A machine that bakes an image, or has just come, would be killed; a forgotten one would bill for ever."""
    ended, found = orphans(
        watched(
            stray(1),
            stray(2, group="g"),
            stray(3, age=ORPHAN_AFTER - 1),
            stray(4, purpose="bake"),
            stray(5, state="terminated"),
            stray(6, state="shutting-down"),
            stray(7, state="stopped"),
        ),
        2,
        NOW,
    )
    assert ended == ["i-1", "i-7"]
    assert {(one.id, one.ended) for one in found} == {("i-1", True), ("i-4", False), ("i-7", True)}


def test_many_at_once_are_told_and_not_ended() -> None:
    """A wrong tag or a lost store would end a whole account."""
    ended, found = orphans(watched(*(stray(n) for n in range(3))), 2, NOW)
    assert not ended
    assert len(found) == 3
    assert not any(one.ended for one in found)


def test_volumes_and_addresses_are_told_never_deleted() -> None:
    """Weights, or somebody's data, would be deleted; or cost money unseen."""
    part = PoolManifest({}, (), (), 2, 900, 300, 120, volume="vol-models")
    old, tags = datetime.fromtimestamp(NOW - 9999, UTC), [{"Key": "lamplighter:pool", "Value": "gpu"}]
    volume = {"VolumeId": "vol-1", "Size": 100, "State": "available", "CreateTime": old, "Tags": tags}
    volumes = [
        volume,
        {**volume, "VolumeId": "vol-models"},
        {**volume, "VolumeId": "vol-used", "State": "in-use"},
        {**volume, "VolumeId": "vol-young", "CreateTime": datetime.fromtimestamp(NOW - 5, UTC)},
        {**volume, "VolumeId": "vol-other", "Tags": []},
    ]
    addresses = [{"AllocationId": "eip-1", "PublicIp": "192.0.2.1"}, {"AllocationId": "eip-2", "AssociationId": "x"}]
    assert [one.id for one in unused(volumes, addresses, part, "gpu", NOW)] == ["vol-1", "eip-1"]


def test_findings_can_be_read_by_others(tmp_path: Path) -> None:
    """`lamplighter cloud status` would not show what bills."""
    assert read_findings(tmp_path, "gpu") == []
    file = findings_file(tmp_path, "gpu")
    file.parent.mkdir()
    file.write_text(json.dumps([{"kind": "volume", "id": "vol-1", "detail": "100 GB", "at": NOW, "ended": False}]))
    assert read_findings(tmp_path, "gpu") == [Finding("volume", "vol-1", "100 GB", NOW)]
    file.write_text("{")
    assert read_findings(tmp_path, "gpu") == []
