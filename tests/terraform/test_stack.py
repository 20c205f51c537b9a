"""The module applied to an emulated AWS: the second plan is empty, machines live by its permissions and end by its dead-man, and a destroy leaves nothing.

One test, because one apply takes a minute and a half.
"""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lamplighter.testing.aws import Emulator
from tests.terraform import policies
from tests.terraform.applied import Applied, applied_stack
from tests.terraform.conftest import EVERYTHING
from tests.terraform.keeper_calls import keeper_calls
from tests.terraform.remains import remains


def _until(there: Callable[[], Any], limit: float = 20.0) -> Any:
    end = time.monotonic() + limit
    while not (found := there()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)
    return found


def _refused(call: Callable[..., Any], **arguments: Any) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
    return False


def _manifest(aws: Emulator, stack: Applied) -> None:
    """The keeper finds the stack by region and name alone."""
    text = aws.client("ssm").get_parameter(Name="/lamp/manifest")["Parameter"]["Value"]
    assert json.loads(text) == stack.manifest
    assert len(text) <= 4096
    manifest = stack.manifest
    assert (manifest["version"], manifest["stack"], manifest["installation"]) == (1, "lamp", "inst-1")
    assert manifest["node_role_id"].startswith("AROA")
    assert manifest["lighthouse"]["address"].endswith(":4242")
    assert manifest["pools"]["spot"]["model_storage"]["volume_id"].startswith("vol-")
    assert manifest["pools"]["wide"]["model_storage"] == {
        "kind": "snapshot",
        "size_gb": 100,
        "snapshot_id": None,
        "volume_id": None,
    }
    assert manifest["pools"]["wide"]["max"] == 4


def _keeper_may(stack: Applied) -> None:
    """Each call that the keeper makes is in its policy: one that is missing would only fail on the real AWS."""
    text = next(one["values"]["policy"] for one in stack.resources() if one["type"] == "aws_iam_policy")
    allowed = {action for statement in json.loads(text)["Statement"] for action in statement["Action"]}
    called = keeper_calls()
    assert len(called) > 15
    assert called - allowed == set()


def _keeper(aws: Emulator, group: str) -> None:
    """What the keeper changes while it works: the wish, an order's tag, the dead-man's start."""
    scaling = aws.client("autoscaling")
    scaling.create_or_update_tags(
        Tags=[
            {
                "ResourceId": group,
                "ResourceType": "auto-scaling-group",
                "Key": "lamplighter:order:aws-1",
                "Value": "1|small",
                "PropagateAtLaunch": False,
            }
        ]
    )
    scaling.put_scheduled_update_group_action(
        AutoScalingGroupName=group,
        ScheduledActionName="dead-man",
        StartTime=int(aws.now()) + 600,
        Recurrence="*/5 * * * *",
        MinSize=0,
        DesiredCapacity=0,
    )
    scaling.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=1)


def _node(aws: Emulator, stack: Applied, group: str) -> str:
    """A machine of the group speaks with the permissions that Terraform gave it, and with no others."""
    manifest = stack.manifest
    machine = _until(lambda: [one for one in aws.instances(live=True) if one.group == group and one.state == "running"])[0]
    assert machine.tags["lamplighter:pool"] == "spot"
    assert machine.sender == f"{manifest['node_role_id']}:{machine.id}"
    script = gzip.decompress(machine.user_data).decode()
    assert manifest["nodes_queue_url"] in script
    assert "@AGENT@" not in script
    assert "@NODE_JSON@" not in script

    sqs = aws.node_client("sqs", machine.id)
    sqs.send_message(QueueUrl=manifest["nodes_queue_url"], MessageBody="{}")
    assert _refused(sqs.send_message, QueueUrl=manifest["events_queue_url"], MessageBody="{}")
    assert _refused(sqs.receive_message, QueueUrl=manifest["nodes_queue_url"])
    s3 = aws.node_client("s3", machine.id)
    s3.put_object(Bucket=manifest["bucket"], Key=f"nodes/{machine.sender}/logs/agent.log", Body=b"log")
    assert _refused(
        s3.put_object, Bucket=manifest["bucket"], Key=f"nodes/{manifest['node_role_id']}:i-0other/logs/agent.log", Body=b""
    )
    assert _refused(s3.get_object, Bucket=manifest["bucket"], Key="backups/all.tar")
    assert _refused(aws.node_client("ssm", machine.id).get_parameter, Name="/lamp/manifest")
    assert _refused(
        aws.node_client("autoscaling", machine.id).set_desired_capacity, AutoScalingGroupName=group, DesiredCapacity=2
    )
    assert not _refused(
        aws.node_client("ec2", machine.id).attach_volume,
        VolumeId=manifest["pools"]["spot"]["model_storage"]["volume_id"],
        InstanceId=machine.id,
        Device="/dev/sdf",
    )
    return str(machine.id)


def _told(aws: Emulator, stack: Applied) -> set[str]:
    """What lies in the queue of events, by kind."""
    answer = aws.client("sqs").receive_message(
        QueueUrl=stack.manifest["events_queue_url"], MaxNumberOfMessages=10, WaitTimeSeconds=0, VisibilityTimeout=0
    )
    return {json.loads(message["Body"])["detail-type"] for message in answer.get("Messages", [])}


def _wish(aws: Emulator, group: str) -> int:
    found = aws.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
    return int(found[0]["DesiredCapacity"])


@pytest.mark.usefixtures("terraform_there")
@pytest.mark.timeout(900)
def test_a_stack_from_nothing_to_nothing(tmp_path: Path) -> None:
    """Something would be changed at every apply, a node could do too much or not end, or something would be billed after a destroy."""
    with Emulator() as aws:
        with applied_stack(aws, EVERYTHING, tmp_path, destroy=True) as stack:
            assert policies.findings(stack.resources()) == []
            assert list(policies.unknown_actions(stack.resources())) == []
            _manifest(aws, stack)
            _keeper_may(stack)

            group = stack.manifest["pools"]["spot"]["groups"]["spot"]
            _keeper(aws, group)
            machine = _node(aws, stack, group)
            _until(lambda: "EC2 Instance State-change Notification" in _told(aws, stack))

            # While a machine runs and the keeper has written what it writes, Terraform still has nothing to do.
            again = stack.terraform.ended("plan", "-detailed-exitcode", "-no-color", accepted=(0, 2))
            assert again.returncode == 0, again.stdout

            # The end of a node: nothing comes in its place.
            aws.node_client("autoscaling", machine).terminate_instance_in_auto_scaling_group(
                InstanceId=machine, ShouldDecrementDesiredCapacity=True
            )
            _until(lambda: not [one for one in aws.instances(live=True) if one.group == group])
            assert _wish(aws, group) == 0

            # The dead-man: the keeper is gone, the machine never spoke, and the group is set to zero where nobody of ours is needed.
            aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=1)
            _until(lambda: [one for one in aws.instances(live=True) if one.group == group])
            aws.advance(601)
            _until(lambda: not [one for one in aws.instances(live=True) if one.group == group])
            assert _wish(aws, group) == 0
        assert remains(aws, "lamp") == []
