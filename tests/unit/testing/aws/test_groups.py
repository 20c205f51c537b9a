"""Auto Scaling groups of the emulator: what the provider relies on must be as AWS documents it, or its tests prove nothing."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from lamplighter.testing.aws import Emulator
from lamplighter.testing.aws.capacity import BAD_IMAGE, QUOTA

SPOT, ON_DEMAND = "lamplighter-spot-spot", "lamplighter-spot-on-demand"


def want(aws: Emulator, count: int, group: str = SPOT) -> None:
    aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=count)


def group(aws: Emulator, name: str = SPOT) -> dict[str, Any]:
    (found,) = aws.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    return dict(found)


def failure(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, str]:
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def states(aws: Emulator) -> list[str]:
    return [machine.state for machine in aws.instances()]


@pytest.mark.usefixtures("manifest")
class TestLaunching:
    def test_bounds_are_kept(self, aws: Emulator) -> None:
        """A keeper that asks for too much would launch it in a test, and be refused by AWS."""
        with pytest.raises(ClientError) as caught:
            want(aws, 3)
        assert failure(caught) == (
            "ValidationError",
            "New SetDesiredCapacity value 3 is above max value 2 for the AutoScalingGroup.",
        )
        assert group(aws)["DesiredCapacity"] == 0

    def test_an_instance_is_pending_first(self, aws: Emulator) -> None:
        """Code that takes an instance for usable as soon as it is listed would pass."""
        aws.pace.pending = 2.0
        want(aws, 1)
        assert aws.instances() == []
        aws.advance(0.1)
        assert states(aws) == ["pending"]
        assert group(aws)["Instances"][0]["LifecycleState"] == "Pending"
        aws.advance(2)
        assert states(aws) == ["running"]
        assert group(aws)["Instances"][0]["LifecycleState"] == "InService"
        aws.pace.pending = 0.05

    def test_it_is_what_the_template_says(self, aws: Emulator) -> None:
        """A market, a tag or a role that is lost would make an orphan, or a node that nobody trusts."""
        want(aws, 1)
        aws.advance(1)
        ec2 = aws.client("ec2")
        by_tag = {"Name": "tag:lamplighter:pool", "Values": ["spot"]}
        running = {"Name": "instance-state-name", "Values": ["running"]}
        (reservation,) = ec2.describe_instances(Filters=[by_tag, running])["Reservations"]
        (one,) = reservation["Instances"]
        assert one["InstanceLifecycle"] == "spot"
        assert one["InstanceType"] == "g4dn.xlarge"  # the cheapest of its pools
        assert one["IamInstanceProfile"]["Arn"].endswith("lamplighter-node")
        assert [found["GroupName"] for found in one["SecurityGroups"]] == ["nodes"]
        assert one["MetadataOptions"]["HttpTokens"] == "required"
        assert one["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
        tags = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        assert tags["aws:autoscaling:groupName"] == SPOT
        assert tags["lamplighter:installation"] == "test"
        volumes = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [one["InstanceId"]]}])["Volumes"]
        assert {tag["Key"] for tag in volumes[0]["Tags"]} >= {"lamplighter:pool", "lamplighter:stack"}

    def test_on_demand_is_on_demand(self, aws: Emulator) -> None:
        """The fallback would be tested on spot machines."""
        want(aws, 1, ON_DEMAND)
        aws.advance(1)
        (machine,) = aws.instances()
        assert machine.market == "on-demand"

    def test_no_capacity_is_an_activity(self, aws: Emulator) -> None:
        """The provider learns of missing capacity in no other way."""
        aws.capacity.none("spot")
        want(aws, 1)
        aws.advance(0.5)
        assert aws.instances() == []
        activity = aws.client("autoscaling").describe_scaling_activities(AutoScalingGroupName=SPOT)["Activities"][0]
        assert activity["StatusCode"] == "Failed"
        assert activity["StatusMessage"] == (
            "Could not launch Spot Instances. InsufficientInstanceCapacity - There is no Spot capacity available that matches your "
            "request. Launching EC2 instance failed."
        )
        aws.capacity.plenty("spot")
        aws.advance(1.5)
        assert states(aws) == ["running"]  # it tries again by itself

    def test_the_next_type_and_zone_are_tried(self, aws: Emulator) -> None:
        """Only what is wholly gone may fall back to on-demand."""
        aws.capacity.none("spot", "g4dn.xlarge")
        aws.capacity.none("spot", "g5.xlarge", "eu-central-1a")
        want(aws, 1)
        aws.advance(1)
        (machine,) = aws.instances()
        assert (machine.instance_type, machine.zone) == ("g5.xlarge", "eu-central-1b")

    @pytest.mark.parametrize("refusal", [QUOTA, BAD_IMAGE])
    def test_other_refusals_say_what_they_are(self, aws: Emulator, refusal: str) -> None:
        """A quota or a missing image would look like missing capacity, and be waited for in vain."""
        aws.capacity.none(refusal=refusal)
        want(aws, 1)
        aws.advance(0.5)
        assert refusal in aws.activities(SPOT)[0]["StatusMessage"]

    def test_a_failed_launch_is_told_by_event(self, aws: Emulator, manifest: dict[str, Any]) -> None:
        """The keeper would learn it a poll later than it could."""
        aws.capacity.none()
        want(aws, 1)
        aws.advance(0.5)
        (message,) = aws.client("sqs").receive_message(QueueUrl=manifest["events_queue_url"])["Messages"]
        assert "EC2 Instance Launch Unsuccessful" in message["Body"]


@pytest.mark.usefixtures("manifest")
class TestEnding:
    def test_less_capacity_ends_the_newest(self, aws: Emulator) -> None:
        """A keeper that lowers capacity would lose the machine that serves instead of the one that boots."""
        want(aws, 1)
        aws.advance(1)
        (old,) = aws.instances()
        want(aws, 2)
        aws.advance(1)
        want(aws, 1)
        aws.advance(1)
        assert [machine.state for machine in aws.instances()] == ["running", "terminated"]
        assert aws.instance(old.id).state == "running"

    def test_an_ended_instance_stays_visible(self, aws: Emulator) -> None:
        """Absence is proven by its last state, not by its being forgotten."""
        want(aws, 1)
        aws.advance(1)
        want(aws, 0)
        aws.advance(1)
        (machine,) = aws.instances()
        described = aws.client("ec2").describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]
        assert described["State"]["Name"] == "terminated"
        assert {tag["Key"] for tag in described["Tags"]} >= {"lamplighter:pool", "aws:autoscaling:groupName"}
        assert aws.client("ec2").describe_network_interfaces()["NetworkInterfaces"] == []
        assert aws.client("ec2").describe_volumes()["Volumes"] == []
        aws.advance(aws.pace.forget)
        assert aws.instances() == []
        with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
            aws.client("ec2").describe_instances(InstanceIds=[machine.id])

    def test_decrement_ends_without_replacement(self, aws: Emulator) -> None:
        """A node that ends itself would be launched anew, for ever."""
        want(aws, 2)
        aws.advance(1)
        one, other = aws.instances()
        aws.node_client("autoscaling", one.id).terminate_instance_in_auto_scaling_group(
            InstanceId=one.id, ShouldDecrementDesiredCapacity=True
        )
        assert group(aws)["DesiredCapacity"] == 1
        aws.advance(5)
        assert {machine.id for machine in aws.instances(live=True)} == {other.id}

    def test_twice_decrements_once(self, aws: Emulator) -> None:
        """Keeper and node end the same machine: the second must not take another one with it."""
        aws.pace.shutdown = 5
        want(aws, 2)
        aws.advance(1)
        one, other = aws.instances()
        scaling = aws.client("autoscaling")
        scaling.terminate_instance_in_auto_scaling_group(InstanceId=one.id, ShouldDecrementDesiredCapacity=True)
        with pytest.raises(ClientError) as caught:
            scaling.terminate_instance_in_auto_scaling_group(InstanceId=one.id, ShouldDecrementDesiredCapacity=True)
        assert failure(caught)[0] == "ScalingActivityInProgress"
        aws.advance(10)
        with pytest.raises(ClientError, match="No managed instance found"):
            scaling.terminate_instance_in_auto_scaling_group(InstanceId=one.id, ShouldDecrementDesiredCapacity=True)
        assert group(aws)["DesiredCapacity"] == 1
        assert [machine.id for machine in aws.instances(live=True)] == [other.id]
        aws.pace.shutdown = 0.05

    def test_without_decrement_it_is_replaced(self, aws: Emulator) -> None:
        """Who forgets the flag must see a second machine, as in AWS."""
        want(aws, 1)
        aws.advance(1)
        (one,) = aws.instances()
        aws.client("autoscaling").terminate_instance_in_auto_scaling_group(
            InstanceId=one.id, ShouldDecrementDesiredCapacity=False
        )
        aws.advance(1)
        (other,) = aws.instances(live=True)
        assert other.id != one.id

    @pytest.mark.parametrize("how", ["shutdown", "api", "reclaimed"])
    def test_what_ends_otherwise_is_replaced(self, aws: Emulator, how: str) -> None:
        """`shutdown -h now` alone does not stop the bill: the group launches another one."""
        want(aws, 1)
        aws.advance(1)
        (one,) = aws.instances()
        if how == "shutdown":
            aws.shut_down(one.id)
        elif how == "api":
            aws.client("ec2").terminate_instances(InstanceIds=[one.id])
        else:
            aws.reclaim(one.id, 0)
        aws.advance(3)
        (other,) = aws.instances(live=True)
        assert other.id != one.id
        assert "health check" in "".join(activity["Cause"] for activity in aws.activities(SPOT))
        reasons = {
            "shutdown": "Client.InstanceInitiatedShutdown",
            "api": "Client.UserInitiatedShutdown",
            "reclaimed": "Server.SpotInstanceTermination",
        }
        described = aws.client("ec2").describe_instances(InstanceIds=[one.id])["Reservations"][0]["Instances"][0]
        assert described["StateReason"]["Code"] == reasons[how]

    def test_a_wish_can_be_withdrawn(self, aws: Emulator) -> None:
        """A wake that nobody waits for any more would still launch."""
        aws.pace.launch = 5
        want(aws, 1)
        aws.advance(1)
        want(aws, 0)
        aws.advance(20)
        assert aws.instances() == []
        aws.pace.launch = 0.05

    def test_a_group_with_instances_needs_force(self, aws: Emulator) -> None:
        """`cloud destroy` would seem to work while machines run."""
        want(aws, 1)
        aws.advance(1)
        with pytest.raises(ClientError, match="while there are instances"):
            aws.client("autoscaling").delete_auto_scaling_group(AutoScalingGroupName=SPOT)
        aws.client("autoscaling").delete_auto_scaling_group(AutoScalingGroupName=SPOT, ForceDelete=True)
        aws.advance(5)
        assert states(aws) == ["terminated"]


@pytest.mark.usefixtures("manifest")
class TestSettings:
    def test_orders_are_tags(self, aws: Emulator) -> None:
        """Orders live in tags: one that is lost is a machine that nobody knows."""
        scaling = aws.client("autoscaling")
        tag = {
            "ResourceId": SPOT,
            "ResourceType": "auto-scaling-group",
            "Key": "lamplighter:order:aws-1",
            "PropagateAtLaunch": False,
        }
        scaling.create_or_update_tags(Tags=[tag | {"Value": "1|m"}])
        scaling.create_or_update_tags(Tags=[tag | {"Value": "2|m"}])
        found = {one["Key"]: one["Value"] for one in group(aws)["Tags"]}
        assert found["lamplighter:order:aws-1"] == "2|m"
        want(aws, 1)
        aws.advance(1)
        assert "lamplighter:order:aws-1" not in aws.instances()[0].tags
        scaling.delete_tags(Tags=[{"ResourceId": SPOT, "ResourceType": "auto-scaling-group", "Key": tag["Key"]}])
        assert tag["Key"] not in {one["Key"] for one in group(aws)["Tags"]}
        for number in range(50 - len(group(aws)["Tags"])):
            scaling.create_or_update_tags(Tags=[tag | {"Key": f"k{number}", "Value": "v"}])
        with pytest.raises(ClientError, match="LimitExceeded"):
            scaling.create_or_update_tags(Tags=[tag | {"Key": "one too many", "Value": "v"}])

    def test_an_update_keeps_the_policy(self, aws: Emulator) -> None:
        """After an update of a bound the group would launch on-demand machines."""
        aws.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=SPOT, MaxSize=3)
        assert group(aws)["MixedInstancesPolicy"]["InstancesDistribution"]["OnDemandPercentageAboveBaseCapacity"] == 0
        want(aws, 3)
        aws.advance(1)
        assert {machine.market for machine in aws.instances()} == {"spot"}
        aws.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=SPOT, MaxSize=1)
        aws.advance(1)
        assert len(aws.instances(live=True)) == 1

    def test_what_is_unknown_is_an_error(self, aws: Emulator) -> None:
        """A misspelt group must fail as in AWS, not as a broken server."""
        for call in (
            lambda: want(aws, 1, "nothing"),
            lambda: aws.client("autoscaling").terminate_instance_in_auto_scaling_group(
                InstanceId="i-0", ShouldDecrementDesiredCapacity=True
            ),
        ):
            with pytest.raises(ClientError) as caught:
                call()
            assert failure(caught)[0] == "ValidationError"
