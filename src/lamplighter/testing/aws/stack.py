"""A stack as the Terraform module makes it, made by boto3 instead: quick, and independent of Terraform. Its names are the plan that both follow.

Not responsible for what only Terraform makes (alarms, budgets, registry, backups): tests of those apply the module.
"""

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lamplighter.testing.aws.guard import ACCOUNT
from lamplighter.testing.aws.templates import IMAGE

if TYPE_CHECKING:
    from lamplighter.testing.aws.emulator import Emulator

DEAD_MAN = "dead-man"
_ASSUME = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


@dataclass(frozen=True, slots=True)
class PoolSeed:
    """One pool of a stack. `max`: of each of its groups."""

    instance_types: tuple[str, ...] = ("g4dn.xlarge",)
    zones: tuple[str, ...] = ("a", "b")
    max: int = 2
    boot_deadline: float = 900
    lease: float = 300
    drain: float = 120
    image: str = "stock"
    allocation: str = "price-capacity-optimized"
    user_data: str | None = None
    """Text that the launch templates hold instead of a note with the node's settings."""


def seed(
    aws: "Emulator", *, stack: str, installation: str, region: str, pools: Mapping[str, PoolSeed | Mapping[str, Any]] | None = None,
    dead_man: str | None = "*/5 * * * *", lighthouse: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make it; the manifest, which is also in SSM. `dead_man`: recurrence of the scheduled action, None: there is none."""
    wanted = {name: _pool(pool) for name, pool in (pools or {"spot": {}}).items()}
    tags = {"lamplighter:installation": installation, "lamplighter:stack": stack}
    network = _network(aws, region, tags, sorted({zone for pool in wanted.values() for zone in pool.zones}))
    bucket = f"{stack}-{region}-{installation}".lower()
    aws.client("s3", region).create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
    queues = _queues(aws, region, stack, tags)
    role = _role(aws, region, stack, installation, bucket)
    manifest: dict[str, Any] = {
        "version": 1, "stack": stack, "installation": installation, "region": region, "account": ACCOUNT, "bucket": bucket,
        "nodes_queue_url": queues["nodes"], "events_queue_url": queues["events"], "node_role_id": role["RoleId"],
        "node_role_arn": role["Arn"], "vpc_id": network["vpc"], "log_group": None, "lighthouse": dict(lighthouse) if lighthouse else None,
        "registry": None, "hub_token_secret": f"{stack}/hub-token", "pools": {},
    }  # fmt: skip
    for name, pool in wanted.items():
        manifest["pools"][name] = _manifest_of(stack, name, pool, region)
        for market in ("spot", "on-demand"):
            _group(aws, manifest, name, pool, market, network, tags | {"lamplighter:pool": name}, dead_man)
    aws.client("ssm", region).put_parameter(Name=f"/{stack}/manifest", Type="String", Value=json.dumps(manifest), Overwrite=True)
    return manifest


def _seed(**options: Any) -> PoolSeed:
    return PoolSeed(**options)


def _pool(pool: PoolSeed | Mapping[str, Any]) -> PoolSeed:
    return (
        pool
        if isinstance(pool, PoolSeed)
        else _seed(**{key: tuple(value) if isinstance(value, list) else value for key, value in pool.items()})
    )


def _network(aws: "Emulator", region: str, tags: dict[str, str], zones: list[str]) -> dict[str, Any]:
    ec2 = aws.client("ec2", region)
    vpc = ec2.create_vpc(CidrBlock="10.78.0.0/16", TagSpecifications=[_spec("vpc", tags)])["Vpc"]["VpcId"]
    subnets = {}
    for index, zone in enumerate(zones):
        made = ec2.create_subnet(
            VpcId=vpc,
            CidrBlock=f"10.78.{index}.0/24",
            AvailabilityZone=f"{region}{zone[-1]}",
            TagSpecifications=[_spec("subnet", tags)],
        )
        subnets[zone] = made["Subnet"]["SubnetId"]
    group = ec2.create_security_group(
        GroupName="nodes", Description="Nodes", VpcId=vpc, TagSpecifications=[_spec("security-group", tags)]
    )
    return {"vpc": vpc, "subnets": subnets, "security_group": group["GroupId"]}


def _spec(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def _queues(aws: "Emulator", region: str, stack: str, tags: dict[str, str]) -> dict[str, str]:
    sqs, events = aws.client("sqs", region), aws.client("events", region)
    urls = {kind: sqs.create_queue(QueueName=f"{stack}-{kind}", tags=tags)["QueueUrl"] for kind in ("nodes", "events")}
    patterns = {
        "ec2": {
            "source": ["aws.ec2"],
            "detail-type": [
                "EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation", "EC2 Instance State-change Notification",
            ],
        },
        "launches": {"source": ["aws.autoscaling"], "detail-type": ["EC2 Instance Launch Unsuccessful"]},
    }  # fmt: skip
    for name, pattern in patterns.items():
        events.put_rule(Name=f"{stack}-{name}", EventPattern=json.dumps(pattern))
        arn = f"arn:aws:sqs:{region}:{ACCOUNT}:{stack}-events"
        events.put_targets(Rule=f"{stack}-{name}", Targets=[{"Id": "events", "Arn": arn}])
    return urls


def node_policy(*, region: str, stack: str, installation: str, bucket: str) -> dict[str, Any]:
    """What a node's role may do, as in the Terraform module."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": f"arn:aws:sqs:{region}:{ACCOUNT}:{stack}-nodes"},
            {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{bucket}/nodes/${{aws:userid}}/*"},
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/models/*"},
            {
                "Effect": "Allow", "Action": "autoscaling:TerminateInstanceInAutoScalingGroup", "Resource": "*",
                "Condition": {"StringEquals": {
                    "aws:ResourceTag/lamplighter:installation": installation, "aws:ResourceTag/lamplighter:stack": stack,
                }},
            },
            {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": f"arn:aws:secretsmanager:{region}:{ACCOUNT}:secret:{stack}/hub-token-*"},
        ],
    }  # fmt: skip


def _role(aws: "Emulator", region: str, stack: str, installation: str, bucket: str) -> dict[str, Any]:
    iam = aws.client("iam", region)
    name = f"{stack}-node"
    role: dict[str, Any] = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(_ASSUME))["Role"]
    policy = node_policy(region=region, stack=stack, installation=installation, bucket=bucket)
    iam.put_role_policy(RoleName=name, PolicyName="node", PolicyDocument=json.dumps(policy))
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return role


def _manifest_of(stack: str, name: str, pool: PoolSeed, region: str) -> dict[str, Any]:
    return {
        "groups": {market: f"{stack}-{name}-{market}" for market in ("spot", "on-demand")},
        "instance_types": list(pool.instance_types), "zones": [f"{region}{zone[-1]}" for zone in pool.zones], "max": pool.max,
        "boot_deadline": pool.boot_deadline, "lease": pool.lease, "drain": pool.drain, "image": pool.image, "ami": IMAGE,
        "model_storage": {"kind": "ephemeral", "size_gb": 100, "volume_id": None, "snapshot_id": None},
    }  # fmt: skip


def node_settings(manifest: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """node.json of a pool's nodes."""
    one = manifest["pools"][pool]
    return {
        "version": 1, "stack": manifest["stack"], "installation": manifest["installation"], "pool": pool, "region": manifest["region"],
        "account": manifest["account"], "nodes_queue_url": manifest["nodes_queue_url"], "bucket": manifest["bucket"],
        "node_role_id": manifest["node_role_id"], "boot_deadline": one["boot_deadline"], "lease": one["lease"], "drain": one["drain"],
        "agent_port": 7443, "mesh_interface": "nebula1", "baked": one["image"] != "stock",
        "model_storage": {**{key: one["model_storage"][key] for key in ("kind", "volume_id", "snapshot_id")}, "bucket_prefix": "models/"},
    }  # fmt: skip


def _group(
    aws: "Emulator", manifest: dict[str, Any], name: str, pool: PoolSeed, market: str, network: dict[str, Any], tags: dict[str, str],
    dead_man: str | None,
) -> None:  # fmt: skip
    region, full = manifest["region"], manifest["pools"][name]["groups"][market]
    text = pool.user_data or "#!/bin/bash\n# Made by lamplighter.testing.aws; the node's settings:\n# " + json.dumps(
        node_settings(manifest, name)
    )
    data = {
        "ImageId": IMAGE, "InstanceType": pool.instance_types[0], "UserData": base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode(),
        "IamInstanceProfile": {"Name": f"{manifest['stack']}-node"}, "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "InstanceMetadataTags": "enabled", "HttpEndpoint": "enabled"},
        "NetworkInterfaces": [{"DeviceIndex": 0, "AssociatePublicIpAddress": True, "Groups": [network["security_group"]]}],
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 80, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}}],
        "TagSpecifications": [_spec("instance", tags), _spec("volume", tags)],
    }  # fmt: skip
    aws.client("ec2", region).create_launch_template(LaunchTemplateName=full, LaunchTemplateData=data)
    scaling = aws.client("autoscaling", region)
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=full, MinSize=0, MaxSize=pool.max, DesiredCapacity=0, TerminationPolicies=["NewestInstance"],
        VPCZoneIdentifier=",".join(network["subnets"][zone] for zone in pool.zones),
        MixedInstancesPolicy={
            "LaunchTemplate": {
                "LaunchTemplateSpecification": {"LaunchTemplateName": full, "Version": "$Latest"},
                "Overrides": [{"InstanceType": kind} for kind in pool.instance_types],
            },
            "InstancesDistribution": {
                "OnDemandBaseCapacity": 0, "OnDemandPercentageAboveBaseCapacity": 0 if market == "spot" else 100,
                "SpotAllocationStrategy": pool.allocation, "OnDemandAllocationStrategy": "lowest-price",
            },
        },
        Tags=[{"Key": key, "Value": value, "PropagateAtLaunch": True, "ResourceId": full, "ResourceType": "auto-scaling-group"} for key, value in tags.items()],
    )  # fmt: skip
    if dead_man is not None:
        scaling.put_scheduled_update_group_action(
            AutoScalingGroupName=full, ScheduledActionName=DEAD_MAN, Recurrence=dead_man, MinSize=0, DesiredCapacity=0
        )


__all__ = ["DEAD_MAN", "PoolSeed", "node_policy", "node_settings", "seed"]
