"""What is left of a stack in an account, asked of each service itself: a list of names, empty when nothing is."""

from collections.abc import Iterable, Iterator
from typing import Any

from lamplighter.testing.aws import Emulator
from lamplighter.testing.aws.guard import ACCOUNT


def remains(aws: Emulator, stack: str) -> list[str]:
    """Everything that carries the stack's name or tag and still exists; machines that are terminated and gateways that are deleted do not."""
    return sorted({*_named(aws, stack), *_tagged(aws, stack)})


def _named(aws: Emulator, stack: str) -> Iterator[str]:
    asked: Iterable[tuple[str, Iterable[str]]] = (
        (
            "group",
            (
                one["AutoScalingGroupName"]
                for one in aws.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
            ),
        ),
        (
            "action",
            (
                one["AutoScalingGroupName"]
                for one in aws.client("autoscaling").describe_scheduled_actions()["ScheduledUpdateGroupActions"]
            ),
        ),
        ("template", (one["LaunchTemplateName"] for one in aws.client("ec2").describe_launch_templates()["LaunchTemplates"])),
        ("queue", (url.rpartition("/")[2] for url in aws.client("sqs").list_queues().get("QueueUrls", []))),
        ("bucket", (one["Name"] for one in aws.client("s3").list_buckets()["Buckets"])),
        ("role", (one["RoleName"] for one in aws.client("iam").list_roles()["Roles"])),
        ("profile", (one["InstanceProfileName"] for one in aws.client("iam").list_instance_profiles()["InstanceProfiles"])),
        ("policy", (one["PolicyName"] for one in aws.client("iam").list_policies(Scope="Local")["Policies"])),
        ("rule", (one["Name"] for one in aws.client("events").list_rules()["Rules"])),
        ("alarm", (one["AlarmName"] for one in aws.client("cloudwatch").describe_alarms()["MetricAlarms"])),
        ("topic", (one["TopicArn"].rpartition(":")[2] for one in aws.client("sns").list_topics()["Topics"])),
        ("secret", (one["Name"] for one in aws.client("secretsmanager").list_secrets()["SecretList"])),
        ("parameter", (one["Name"].lstrip("/") for one in aws.client("ssm").describe_parameters()["Parameters"])),
        ("repository", (one["repositoryName"] for one in aws.client("ecr").describe_repositories()["repositories"])),
        ("budget", (one["BudgetName"] for one in aws.client("budgets").describe_budgets(AccountId=ACCOUNT).get("Budgets", []))),
    )
    for kind, names in asked:
        yield from (f"{kind} {name}" for name in names if name.startswith((f"{stack}-", f"{stack}/")))


def _tagged(aws: Emulator, stack: str) -> Iterator[str]:
    ec2 = aws.client("ec2")
    tag = [{"Name": "tag:lamplighter:stack", "Values": [stack]}]
    for reservation in ec2.describe_instances(Filters=tag)["Reservations"]:
        yield from (f"instance {one['InstanceId']}" for one in reservation["Instances"] if one["State"]["Name"] != "terminated")
    listed: Iterable[tuple[str, list[dict[str, Any]], str]] = (
        ("vpc", ec2.describe_vpcs(Filters=tag)["Vpcs"], "VpcId"),
        ("subnet", ec2.describe_subnets(Filters=tag)["Subnets"], "SubnetId"),
        ("security group", ec2.describe_security_groups(Filters=tag)["SecurityGroups"], "GroupId"),
        ("volume", ec2.describe_volumes(Filters=tag)["Volumes"], "VolumeId"),
        ("address", ec2.describe_addresses(Filters=tag)["Addresses"], "AllocationId"),
        (
            "endpoint",
            [one for one in ec2.describe_vpc_endpoints(Filters=tag)["VpcEndpoints"] if one["State"] != "deleted"],
            "VpcEndpointId",
        ),
        (
            "gateway",
            [one for one in ec2.describe_nat_gateways(Filters=tag)["NatGateways"] if one["State"] != "deleted"],
            "NatGatewayId",
        ),
        ("gateway", ec2.describe_internet_gateways(Filters=tag)["InternetGateways"], "InternetGatewayId"),
    )
    for kind, found, name in listed:
        yield from (f"{kind} {one[name]}" for one in found)
