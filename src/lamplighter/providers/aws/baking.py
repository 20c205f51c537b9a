"""The machine on which an image is baked, and the image: one API step a function, each safe to repeat.

The machine is on demand and *stops* when it shuts itself down: only a stopped disk is surely whole, and a one-time spot machine cannot stop.
A stopped machine costs its disk alone, and carries `lamplighter:until`, after which `cloud status` calls it nobody's.
Not responsible for the order of the steps, nor for ending the machine in every case (`operations.cloud.bake`).
"""

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.aws.asking import ask, code_of, pages
from lamplighter.providers.aws.inventory import BAKED, BAKES, INSTALLATION, POOL, PURPOSE, STACK, UNTIL

STOCK = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
MOST_USER_DATA = 16_384
_ELSEWHERE = {"InsufficientInstanceCapacity", "Unsupported", "InsufficientHostCapacity", "InvalidParameterValue"}
"""Codes after which another zone or type may do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pool's machines live: its launch template, subnets, firewalls, and the root disk as the template has it."""

    template: str
    subnets: tuple[str, ...]
    firewalls: tuple[str, ...]
    public: bool
    disk: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Image:
    """A baked image. `at`: Unix seconds when."""

    id: str
    at: float
    snapshots: tuple[str, ...]
    encrypted: bool


def place(region: str, group: str) -> Place:
    """Of a pool's group. Raises ProviderError when there is no such group."""
    found = ask("autoscaling", region, "describe_auto_scaling_groups", AutoScalingGroupNames=[group])["AutoScalingGroups"]
    if not found:
        raise ProviderError(f"there is no group {group} in {region}", next_step="Run `lamplighter cloud apply` first.")
    subnets = tuple(part for part in str(found[0].get("VPCZoneIdentifier") or "").split(",") if part)
    versions = ask("ec2", region, "describe_launch_template_versions", LaunchTemplateName=group, Versions=["$Latest"])
    raw = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    network = (raw.get("NetworkInterfaces") or [{}])[0]
    disks = raw.get("BlockDeviceMappings") or [None]
    return Place(
        group,
        subnets,
        tuple(network.get("Groups") or raw.get("SecurityGroupIds") or ()),
        bool(network.get("AssociatePublicIpAddress", True)),
        disks[0],  # the second one is the disk for weights, which belongs into no image
    )


def stock_image(region: str) -> str:
    """AWS's newest Deep Learning AMI. Raises ProviderError."""
    return str(ask("ssm", region, "get_parameter", Name=STOCK)["Parameter"]["Value"])


def user_data(script: str, agent: str, node_json: str, *, hours: float) -> bytes:
    """The bootstrap script with both texts in their places, packed. Raises ProviderError when EC2 would not take it.

    A line of ours comes first: the machine shuts down after `hours` although nothing else of it works.
    """
    first, _, rest = script.partition("\n")
    text = rest.replace("@NODE_JSON@", node_json).replace("@AGENT@", agent)
    packed = gzip.compress(f"{first}\nshutdown -h +{max(1, round(hours * 60))}\n{text}".encode(), 9, mtime=0)
    if len(packed) > MOST_USER_DATA:
        raise ProviderError(f"the builder's user data has {len(packed)} bytes, and EC2 takes {MOST_USER_DATA}")
    return packed


def launch(
    region: str, where: Place, types: Sequence[str], image: str, data: bytes, *, tags: Mapping[str, str], token: str
) -> tuple[str, str]:
    """Start the builder; (its id, its type). `token`: the same one never starts two. Raises ProviderError, with NO_CAPACITY when none is to be had."""
    labels = [{"Key": key, "Value": value} for key, value in tags.items()]
    refusal: ProviderError | None = None
    for number, (kind, subnet) in enumerate((kind, subnet) for kind in types for subnet in where.subnets):
        arguments: dict[str, Any] = {
            "LaunchTemplate": {"LaunchTemplateName": where.template, "Version": "$Latest"},
            "ImageId": image,
            "InstanceType": kind,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": f"{token}-{number}",
            "UserData": base64.b64encode(data).decode(),
            "InstanceInitiatedShutdownBehavior": "stop",
            "NetworkInterfaces": [
                {
                    "DeviceIndex": 0, "SubnetId": subnet, "Groups": list(where.firewalls), "AssociatePublicIpAddress": where.public,
                    "DeleteOnTermination": True,
                }
            ],
            "TagSpecifications": [{"ResourceType": kind_of, "Tags": labels} for kind_of in ("instance", "volume")],
        }  # fmt: skip
        if where.disk is not None:
            arguments["BlockDeviceMappings"] = [_disk(where.disk)]
        try:
            answer = ask("ec2", region, "run_instances", **arguments)
        except ProviderError as error:
            if code_of(error) not in _ELSEWHERE:
                raise
            refusal = error
            continue
        return str(answer["Instances"][0]["InstanceId"]), kind
    raise ProviderError(
        f"no machine for the bake is to be had in {region}: {refusal.message if refusal else 'the pool has no subnet'}",
        reason=WakeFailure.NO_CAPACITY,
        next_step="Try again later, or name another type with --type.",
    )


def _disk(raw: Mapping[str, Any]) -> dict[str, Any]:
    disk = {name: value for name, value in (raw.get("Ebs") or {}).items() if value is not None}
    return {"DeviceName": raw["DeviceName"], "Ebs": {**disk, "Encrypted": True, "DeleteOnTermination": True}}


def builder_tags(installation: str, stack: str, pool: str, *, until: float) -> dict[str, str]:
    """By which everybody knows what the machine is, and until when it may live."""
    return {
        "Name": f"{stack}-{pool}-bake", INSTALLATION: installation, STACK: stack, POOL: pool, PURPOSE: BAKES, UNTIL: f"{until:.0f}",
    }  # fmt: skip


def state(region: str, instance: str) -> str:
    """`pending`, `running`, `stopping`, `stopped`, `shutting-down` or `terminated`; that also when AWS knows it no more. Raises ProviderError."""
    try:
        found = ask("ec2", region, "describe_instances", InstanceIds=[instance])["Reservations"]
    except ProviderError as error:
        if code_of(error) == "InvalidInstanceID.NotFound":
            return "terminated"
        raise
    return str(found[0]["Instances"][0]["State"]["Name"]) if found else "terminated"


def make_image(region: str, instance: str, name: str, tags: Mapping[str, str]) -> str:
    """Begin an image of a stopped machine; its id. Raises ProviderError."""
    labels = [{"Key": key, "Value": value} for key, value in tags.items()]
    answer = ask(
        "ec2", region, "create_image", InstanceId=instance, Name=name, Description="Baked by Lamplighter", NoReboot=True,
        TagSpecifications=[{"ResourceType": kind, "Tags": labels} for kind in ("image", "snapshot")],
    )  # fmt: skip
    return str(answer["ImageId"])


def image_tags(installation: str, stack: str, pool: str, *, at: float) -> dict[str, str]:
    """Of an image and its snapshots."""
    return {"Name": f"{stack}-{pool}", INSTALLATION: installation, STACK: stack, POOL: pool, BAKED: f"{at:.0f}"}


def image_state(region: str, image: str) -> tuple[str, str]:
    """(`pending`, `available` or `failed`, AWS's reason). Raises ProviderError."""
    found = ask("ec2", region, "describe_images", ImageIds=[image])["Images"]
    if not found:
        return "pending", ""
    return str(found[0]["State"]), str((found[0].get("StateReason") or {}).get("Message") or "")


def images(region: str, installation: str, stack: str, pool: str) -> list[Image]:
    """Those that were baked for a pool, newest first. Raises ProviderError."""
    wanted = {INSTALLATION: installation, STACK: stack, POOL: pool}
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]
    found = []
    for page in pages("ec2", region, "describe_images", Owners=["self"], Filters=filters):
        for one in page.get("Images") or ():
            tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags") or ()}
            if BAKED not in tags:
                continue
            disks = [disk["Ebs"] for disk in one.get("BlockDeviceMappings") or () if disk.get("Ebs")]
            found.append(
                Image(
                    one["ImageId"],
                    float(tags[BAKED]) if tags[BAKED].isdigit() else datetime.fromisoformat(one["CreationDate"]).timestamp(),
                    tuple(disk["SnapshotId"] for disk in disks if disk.get("SnapshotId")),
                    all(bool(disk.get("Encrypted")) for disk in disks),
                )
            )
    return sorted(found, key=lambda one: one.at, reverse=True)


__all__ = [
    "MOST_USER_DATA", "Image", "Place", "builder_tags", "image_state", "image_tags", "images", "launch", "make_image", "place", "state",
    "stock_image", "user_data",
]  # fmt: skip
