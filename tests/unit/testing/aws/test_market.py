"""Spot, prices, quotas and metadata of the emulator."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from lamplighter.testing.aws import Emulator, Machine

GROUP = "lamplighter-spot-spot"


@pytest.fixture
def machine(aws: Emulator, manifest: dict[str, Any]) -> Machine:
    assert manifest
    aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=1)
    aws.advance(1)
    return aws.instances()[0]


def events(aws: Emulator, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    answer = aws.client("sqs").receive_message(QueueUrl=manifest["events_queue_url"], MaxNumberOfMessages=10)
    return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


def test_an_interruption_is_told_twice_and_happens(aws: Emulator, manifest: dict[str, Any], machine: Machine) -> None:
    """A drain that is tested without the end that follows proves nothing."""
    events(aws, manifest)
    aws.reclaim(machine.id, seconds=120)
    (event,) = [one for one in events(aws, manifest) if one["detail-type"] == "EC2 Spot Instance Interruption Warning"]
    assert event["detail"] == {"instance-id": machine.id, "instance-action": "terminate"}
    notice = json.loads(str(aws.metadata_text(machine.id, "/latest/meta-data/spot/instance-action")))
    at = datetime.fromisoformat(notice["time"]).timestamp()
    assert notice["action"] == "terminate"
    assert 118 <= at - aws.now() <= 120
    aws.advance(119)
    assert aws.instance(machine.id).state == "running"
    aws.advance(2)
    assert aws.instance(machine.id).state == "terminated"


def test_a_rebalance_is_only_a_warning(aws: Emulator, manifest: dict[str, Any], machine: Machine) -> None:
    """It comes earlier than an interruption, and often no interruption follows."""
    aws.rebalance(machine.id)
    assert "EC2 Instance Rebalance Recommendation" in [one["detail-type"] for one in events(aws, manifest)]
    assert "noticeTime" in str(aws.metadata_text(machine.id, "events/recommendations/rebalance"))
    aws.advance(600)
    assert aws.instance(machine.id).state == "running"


def test_state_changes_are_events(aws: Emulator, manifest: dict[str, Any], machine: Machine) -> None:
    """The keeper would learn of an end only by asking."""
    aws.shut_down(machine.id)
    aws.advance(0.2)
    states = [one["detail"]["state"] for one in events(aws, manifest) if one["detail"].get("instance-id") == machine.id]
    assert set(states) == {"pending", "running", "shutting-down", "terminated"}


def test_metadata_wants_a_token(aws: Emulator, machine: Machine) -> None:
    """Code for version 1 would pass here and fail on our machines, which allow only version 2."""
    with aws.metadata(machine.id) as service, httpx.Client(base_url=service.url) as client:
        assert client.get("/latest/meta-data/instance-id").status_code == 401
        token = client.put("/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}).text
        client.headers["X-aws-ec2-metadata-token"] = token
        assert client.get("/latest/meta-data/instance-id").text == machine.id
        assert client.get("/latest/meta-data/spot/instance-action").status_code == 404
        assert client.get("/latest/user-data").content[:2] == b"\x1f\x8b"  # gzip, as the template has it
        aws.shut_down(machine.id)
        aws.advance(1)
        with pytest.raises(httpx.TransportError):
            client.get("/latest/meta-data/instance-id")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("placement/region", "eu-central-1"),
        ("instance-life-cycle", "spot"),
        ("iam/security-credentials/", "lamplighter-node"),
        ("tags/instance/lamplighter:pool", "spot"),
        ("iam/security-credentials/other", None),
        ("nothing", None),
    ],
)
def test_metadata_knows(aws: Emulator, machine: Machine, path: str, expected: str | None) -> None:
    """The agent reads these."""
    assert aws.metadata_text(machine.id, f"/latest/meta-data/{path}") == expected


@pytest.mark.usefixtures("manifest")
def test_prices_are_plausible(aws: Emulator) -> None:
    """A price of nothing, years old, would make every budget pass."""
    ec2 = aws.client("ec2")
    found = ec2.describe_spot_price_history(
        InstanceTypes=["g5.xlarge"], ProductDescriptions=["Linux/UNIX"], StartTime=datetime.now(UTC) - timedelta(minutes=1)
    )["SpotPriceHistory"]
    assert {one["AvailabilityZone"] for one in found} == {"eu-central-1a", "eu-central-1b", "eu-central-1c"}
    for one in found:
        assert 0.3 < float(one["SpotPrice"]) < 1.258
        assert datetime.now(UTC) - one["Timestamp"] < timedelta(hours=1)


@pytest.mark.usefixtures("manifest")
def test_scores_follow_capacity(aws: Emulator) -> None:
    """The choice of a zone by score would never be exercised."""
    aws.capacity.none("spot", zone="eu-central-1b")
    scores = aws.client("ec2").get_spot_placement_scores(
        InstanceTypes=["g5.xlarge"], TargetCapacity=1, RegionNames=["eu-central-1"], SingleAvailabilityZone=True
    )["SpotPlacementScores"]
    assert sorted(one["Score"] for one in scores) == [1, 9, 9]


@pytest.mark.usefixtures("manifest")
def test_quotas(aws: Emulator) -> None:
    """A promise of machines that the account may not start would go unnoticed."""
    quotas = aws.client("service-quotas")
    assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-3819A6DF")["Quota"]["Value"] == 8.0
    aws.quotas["L-3819A6DF"] = 0.0
    listed = quotas.list_service_quotas(ServiceCode="ec2")["Quotas"]
    assert {one["QuotaCode"]: one["Value"] for one in listed}["L-3819A6DF"] == 0.0


@pytest.mark.usefixtures("manifest")
def test_the_public_image_is_known(aws: Emulator) -> None:
    """Terraform reads the AMI's id there."""
    name = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
    image = aws.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    assert aws.client("ec2").describe_images(ImageIds=[image])["Images"]
