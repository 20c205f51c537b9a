"""Who a node is, and what it may do: the security claims of the mesh's bootstrap rest on these two."""

import json
import time
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from lamplighter.testing.aws import Emulator, Machine, NotEmulatedError, allow, check
from lamplighter.testing.aws.guard import check_address

GROUP = "lamplighter-spot-spot"


@pytest.fixture
def machines(aws: Emulator, manifest: dict[str, Any]) -> list[Machine]:
    assert manifest
    aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=2)
    aws.advance(1)
    return aws.instances()


class TestIdentity:
    def test_the_sender_is_aws_word(self, aws: Emulator, manifest: dict[str, Any], machines: list[Machine]) -> None:
        """A machine could claim to be another one and get its certificate."""
        one, other = machines
        forged = json.dumps({"instance": other.id})
        aws.node_client("sqs", one.id).send_message(QueueUrl=manifest["nodes_queue_url"], MessageBody=forged)
        (message,) = aws.client("sqs").receive_message(
            QueueUrl=manifest["nodes_queue_url"], MessageSystemAttributeNames=["SenderId"]
        )["Messages"]
        assert message["Attributes"]["SenderId"] == f"{manifest['node_role_id']}:{one.id}" == one.sender

    def test_a_persons_message_has_another_sender(self, aws: Emulator, manifest: dict[str, Any]) -> None:
        """Anybody with keys of the account could be taken for a node."""
        sqs = aws.client("sqs")
        sqs.send_message(QueueUrl=manifest["nodes_queue_url"], MessageBody="hello")
        (message,) = sqs.receive_message(QueueUrl=manifest["nodes_queue_url"], AttributeNames=["SenderId"])["Messages"]
        assert not message["Attributes"]["SenderId"].startswith(manifest["node_role_id"])

    def test_credentials_end_with_the_machine(self, aws: Emulator, manifest: dict[str, Any], machines: list[Machine]) -> None:
        """Keys that were stolen from a machine would outlive it."""
        sqs = aws.node_client("sqs", machines[0].id)
        aws.shut_down(machines[0].id)
        with pytest.raises(ClientError, match="expired"):
            sqs.send_message(QueueUrl=manifest["nodes_queue_url"], MessageBody="hello")

    def test_a_wrong_signature_is_refused(self, aws: Emulator, machines: list[Machine]) -> None:
        """The agent signs by itself: a mistake in it must show here, not on the real AWS."""
        keys = json.loads(str(aws.metadata_text(machines[0].id, "/latest/meta-data/iam/security-credentials/lamplighter-node")))
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        credential = f"{keys['AccessKeyId']}/{stamp[:8]}/eu-central-1/sqs/aws4_request"
        headers = {
            "x-amz-date": stamp,
            "x-amz-security-token": keys["Token"],
            "content-type": "application/x-www-form-urlencoded",
            "authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host;x-amz-date;x-amz-security-token, Signature={'0' * 64}",
        }
        answer = httpx.post(aws.url, content=b"Action=ListQueues", headers=headers)
        assert answer.status_code == 403
        assert "SignatureDoesNotMatch" in answer.text


class TestPolicy:
    def test_a_node_sees_its_own_folder_only(self, aws: Emulator, manifest: dict[str, Any], machines: list[Machine]) -> None:
        """One node could read another's key and token."""
        one, other = machines
        for machine in machines:
            aws.client("s3").put_object(Bucket=manifest["bucket"], Key=f"nodes/{machine.sender}/assignment.json", Body=b"secret")
        s3 = aws.node_client("s3", one.id)
        found = s3.get_object(Bucket=manifest["bucket"], Key=f"nodes/{one.sender}/assignment.json")
        assert found["Body"].read() == b"secret"
        for key in (f"nodes/{other.sender}/assignment.json", "backups/x", f"nodes/{one.sender}x/assignment.json", "nodes/"):
            with pytest.raises(ClientError, match=r"AccessDenied|Forbidden"):
                s3.get_object(Bucket=manifest["bucket"], Key=key)
            with pytest.raises(ClientError, match="AccessDenied"):
                s3.put_object(Bucket=manifest["bucket"], Key=key, Body=b"x")
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.list_objects_v2(Bucket=manifest["bucket"])
        assert any("s3:GetObject" in text for text in aws.denied)

    @pytest.mark.parametrize(
        ("service", "call", "options"),
        [
            ("sqs", "receive_message", {"QueueUrl": "nodes_queue_url"}),
            ("sqs", "send_message", {"QueueUrl": "events_queue_url", "MessageBody": "x"}),
            ("autoscaling", "set_desired_capacity", {"AutoScalingGroupName": GROUP, "DesiredCapacity": 2}),
            ("ec2", "describe_instances", {}),
            ("ec2", "run_instances", {"ImageId": "ami-03cf127a", "MinCount": 1, "MaxCount": 1}),
            ("ssm", "get_parameter", {"Name": "/lamplighter/manifest"}),
            ("iam", "list_roles", {}),
        ],
    )
    def test_a_node_may_do_nothing_else(
        self, aws: Emulator, manifest: dict[str, Any], machines: list[Machine], service: str, call: str, options: dict[str, Any]
    ) -> None:
        """A node that was broken into could launch machines, or read what others sent."""
        client = aws.node_client(service, machines[0].id)
        filled = {name: manifest.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
        with pytest.raises(ClientError) as caught:
            getattr(client, call)(**filled)
        assert "AccessDenied" in caught.value.response["Error"]["Code"]
        assert "not authorized to perform" in caught.value.response["Error"]["Message"]

    def test_another_stacks_group_is_not_its_own(self, aws: Emulator, machines: list[Machine]) -> None:
        """A node could end machines of another stack in the same account."""
        aws.seed_stack("second", "other", pools={"spot": {}})
        aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName="second-spot-spot", DesiredCapacity=1)
        aws.advance(1)
        (foreign,) = [machine for machine in aws.instances() if machine.group == "second-spot-spot"]
        scaling = aws.node_client("autoscaling", machines[0].id)
        with pytest.raises(ClientError, match="AccessDenied"):
            scaling.terminate_instance_in_auto_scaling_group(InstanceId=foreign.id, ShouldDecrementDesiredCapacity=True)


class TestGuard:
    def test_its_own_environment_is_well(self, aws: Emulator) -> None:
        """Every test would be refused."""
        check(aws.environment())

    @pytest.mark.parametrize(
        "change",
        [
            {"AWS_ENDPOINT_URL": ""},
            {"AWS_ENDPOINT_URL": "https://ec2.eu-central-1.amazonaws.com"},
            {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"},
            {"AWS_SECRET_ACCESS_KEY": "anything"},
            {"AWS_PROFILE": "home"},
            {"AWS_ENDPOINT_URL_EC2": "https://ec2.eu-central-1.amazonaws.com"},
        ],
    )
    def test_what_may_be_real_is_refused(self, aws: Emulator, change: dict[str, str]) -> None:
        """A test would start machines on somebody's real account."""
        with pytest.raises(NotEmulatedError):
            check(aws.environment() | change)

    def test_namespaces_are_allowed_by_name(self) -> None:
        """Journeys in network namespaces need their addresses; nobody else's."""
        with pytest.raises(NotEmulatedError):
            check_address("10.99.0.7")
        allow("10.99.0.7")
        check_address("10.99.0.7")
        with pytest.raises(NotEmulatedError):
            Emulator(host="10.99.0.8")

    def test_a_real_looking_key_is_refused(self, aws: Emulator) -> None:
        """Somebody's real key would seem to work here, and be used elsewhere."""
        import boto3

        client = boto3.client(
            "sts",
            region_name="eu-central-1",
            endpoint_url=aws.url,
            aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
            aws_secret_access_key="x",
        )
        with pytest.raises(ClientError, match="looks like a real one"):
            client.get_caller_identity()


OURS = {"aws:ResourceTag/lamplighter:stack": "lamplighter"}
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow", "Action": ["autoscaling:Describe*"], "Resource": ["*"],
            "Condition": {"StringEquals": {"aws:RequestedRegion": "eu-central-1"}},
        },
        {
            "Effect": "Allow", "Action": ["autoscaling:CreateOrUpdateTags"],
            "Resource": ["arn:aws:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/lamplighter-*"],
            "Condition": {"StringEquals": OURS, "ForAllValues:StringLike": {"aws:TagKeys": ["lamplighter:*"]}},
        },
        {
            "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "arn:aws:ec2:*:*:instance/*",
            "Condition": {"StringEquals": OURS},
        },
    ],
}  # fmt: skip


def test_a_keeper_may_do_what_its_policy_allows(aws: Emulator, machines: list[Machine]) -> None:
    """A policy that is too narrow would be found out at the first wake, by a person; one that is too wide by nobody."""
    aws.hold_to(POLICY)
    scaling = aws.client("autoscaling")
    scaling.describe_auto_scaling_groups()
    tag = {"ResourceId": GROUP, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": False, "Value": "v"}
    scaling.create_or_update_tags(Tags=[tag | {"Key": "lamplighter:order:1"}])
    aws.client("ec2").create_tags(Resources=[machines[0].id], Tags=[{"Key": "lamplighter:replica", "Value": "r"}])
    with pytest.raises(ClientError, match="not authorized to perform: autoscaling:CreateOrUpdateTags"):
        scaling.create_or_update_tags(Tags=[tag | {"Key": "another"}])
    refused: list[tuple[Any, dict[str, Any]]] = [
        (scaling.set_desired_capacity, {"AutoScalingGroupName": GROUP, "DesiredCapacity": 0}),
        (aws.client("ec2").terminate_instances, {"InstanceIds": [machines[0].id]}),
        (aws.client("autoscaling", "eu-west-1").describe_auto_scaling_groups, {}),
        (aws.client("s3").list_buckets, {}),
    ]
    for call, options in refused:
        with pytest.raises(ClientError, match=r"not authorized|AccessDenied"):
            call(**options)
