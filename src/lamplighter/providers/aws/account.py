"""Small questions to, and small changes in, an AWS account that the cloud commands need. Each function is one step, safe to repeat.

Not responsible for what to do next (`operations.cloud`), for single replicas (the provider), or for building (Terraform).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from lamplighter.core.errors import ProviderError
from lamplighter.providers.aws.asking import ask, code_of, endpoint, pages

_MISSING = {"ParameterNotFound", "NoSuchKey", "404", "NoSuchBucket", "NotFoundException"}
_DELETE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are. `emulated`: the answers come from somewhere that is not AWS."""

    account: str
    arn: str
    emulated: bool


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One of AWS's own budgets, in USD."""

    name: str
    limit: Decimal
    spent: Decimal | None
    forecast: Decimal | None


def identity(region: str) -> Identity:
    """Who the credentials belong to. Raises ProviderError."""
    answer = ask("sts", region, "get_caller_identity")
    return Identity(answer["Account"], answer["Arn"], emulated(region))


def emulated(region: str) -> bool:
    """Whether AWS's library is pointed at something else, as by AWS_ENDPOINT_URL."""
    host = endpoint("ec2", region).split("://", 1)[-1].split("/", 1)[0].split(":", 1)[0]
    return not host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def parameter(region: str, name: str) -> str | None:
    """A parameter's value; None when there is none. Raises ProviderError."""
    try:
        return str(ask("ssm", region, "get_parameter", Name=name)["Parameter"]["Value"])
    except ProviderError as error:
        if code_of(error) in _MISSING:
            return None
        raise


def store_parameter(region: str, name: str, value: str, *, tags: Mapping[str, str], secret: bool = False) -> None:
    """Write a parameter, new or not. `secret`: encrypted at rest. Raises ProviderError."""
    kind = "SecureString" if secret else "String"
    ask("ssm", region, "put_parameter", Name=name, Value=value, Type=kind, Overwrite=True)
    labels = [{"Key": key, "Value": word} for key, word in tags.items()]
    ask("ssm", region, "add_tags_to_resource", ResourceType="Parameter", ResourceId=name, Tags=labels)


def delete_parameter(region: str, name: str) -> None:
    """Delete a parameter; one that is absent is no error. Raises ProviderError."""
    ask("ssm", region, "delete_parameters", Names=[name])


def manifest(region: str, stack: str) -> dict[str, Any] | None:
    """What the stack tells the keeper; None when it is not built. Raises ProviderError, also when it is no manifest."""
    text = parameter(region, f"/{stack}/manifest")
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("version") != 1:
        raise ProviderError(
            f"the parameter /{stack}/manifest in {region} is not a manifest that this version knows",
            next_step="Run `lamplighter cloud apply`, which writes it.",
        )
    return found


def budgets(region: str, account: str, stack: str) -> list[BudgetState]:
    """AWS's own budgets of the stack, with what they saw. Raises ProviderError."""
    return [
        BudgetState(one["BudgetName"], _amount(one["BudgetLimit"]), *_spent(one.get("CalculatedSpend") or {}))
        for page in pages("budgets", region, "describe_budgets", AccountId=account)
        for one in page.get("Budgets") or ()
        if one["BudgetName"].startswith(stack)
    ]


def _spent(raw: Mapping[str, Any]) -> tuple[Decimal | None, Decimal | None]:
    actual, forecast = (_amount(raw[name]) if raw.get(name) else None for name in ("ActualSpend", "ForecastedSpend"))
    return actual, forecast


def _amount(raw: Mapping[str, str]) -> Decimal:
    return Decimal(str(raw["Amount"]))


def set_to_zero(region: str, groups: Iterable[str]) -> list[str]:
    """Desired and minimum 0 for each group that exists; their names. AWS ends the machines itself. Raises ProviderError."""
    names = list(groups)
    if not names:
        return []
    there = ask("autoscaling", region, "describe_auto_scaling_groups", AutoScalingGroupNames=names)["AutoScalingGroups"]
    done = [str(one["AutoScalingGroupName"]) for one in there]
    for name in done:
        ask("autoscaling", region, "update_auto_scaling_group", AutoScalingGroupName=name, MinSize=0, DesiredCapacity=0)
    return done


def close_groups(region: str, groups: Iterable[str]) -> list[str]:
    """As `set_to_zero`, and no keeper can launch in them any more: the maximum is 0 too, until Terraform is applied again."""
    done = set_to_zero(region, groups)
    for name in done:
        ask(
            "autoscaling", region, "update_auto_scaling_group", AutoScalingGroupName=name, MinSize=0, MaxSize=0, DesiredCapacity=0
        )
    return done


def terminate(region: str, instances: Sequence[str]) -> None:
    """End machines, absent ones included. In a group the desired count goes down with them. Raises ProviderError."""
    alone = []
    for one in instances:
        try:
            ask(
                "autoscaling",
                region,
                "terminate_instance_in_auto_scaling_group",
                InstanceId=one,
                ShouldDecrementDesiredCapacity=True,
            )
        except ProviderError as error:
            if code_of(error) != "ValidationError":  # it is in no group
                raise
            alone.append(one)
    for one in alone:  # one at a time: a single absent one would refuse them all
        _gone(region, "InvalidInstanceID.NotFound", "terminate_instances", InstanceIds=[one])


def delete_volume(region: str, volume: str) -> None:
    """Delete an unattached volume; an absent one is no error. Raises ProviderError."""
    _gone(region, "InvalidVolume.NotFound", "delete_volume", VolumeId=volume)


def delete_snapshot(region: str, snapshot: str) -> None:
    """Delete a snapshot; an absent one is no error. Raises ProviderError."""
    _gone(region, "InvalidSnapshot.NotFound", "delete_snapshot", SnapshotId=snapshot)


def deregister(region: str, image: str) -> None:
    """Deregister an image; an absent one is no error. Its snapshots stay. Raises ProviderError."""
    _gone(region, "InvalidAMIID.NotFound", "deregister_image", ImageId=image)


def release_address(region: str, allocation: str) -> None:
    """Give a public address back; an absent one is no error. Raises ProviderError."""
    _gone(region, "InvalidAllocationID.NotFound", "release_address", AllocationId=allocation)


def _gone(region: str, absent: str, operation: str, **arguments: Any) -> None:
    try:
        ask("ec2", region, operation, **arguments)
    except ProviderError as error:
        if code_of(error) not in (absent, "InvalidAMIID.Unavailable"):
            raise


def bucket_size(region: str, bucket: str) -> tuple[dict[str, int], int]:
    """(objects by the first part of their name, bytes in all) of a bucket; versions are not counted. Raises ProviderError."""
    counted: dict[str, int] = {}
    size = 0
    for page in pages("s3", region, "list_objects_v2", Bucket=bucket):
        for one in page.get("Contents") or ():
            head = one["Key"].partition("/")[0]
            counted[head] = counted.get(head, 0) + 1
            size += int(one["Size"])
    return counted, size


def empty_bucket(region: str, bucket: str) -> int:
    """Delete every object, version and unfinished upload of a bucket; how many. A bucket that is absent counts as empty. Raises ProviderError."""
    gone = 0
    try:
        for page in pages("s3", region, "list_object_versions", Bucket=bucket):
            named = [
                {"Key": one["Key"], "VersionId": one["VersionId"]}
                for one in (*(page.get("Versions") or ()), *(page.get("DeleteMarkers") or ()))
            ]
            for start in range(0, len(named), _DELETE_AT_ONCE):
                part = named[start : start + _DELETE_AT_ONCE]
                answer = ask("s3", region, "delete_objects", Bucket=bucket, Delete={"Objects": part, "Quiet": True})
                if failed := answer.get("Errors"):
                    raise ProviderError(f"{bucket}: {failed[0].get('Key')} cannot be deleted: {failed[0].get('Message')}")
                gone += len(part)
        for page in pages("s3", region, "list_multipart_uploads", Bucket=bucket):
            for one in page.get("Uploads") or ():
                ask("s3", region, "abort_multipart_upload", Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])
    except ProviderError as error:
        if code_of(error) != "NoSuchBucket":
            raise
    return gone


def empty_repository(region: str, name: str) -> int:
    """Delete every image of a registry's repository; how many. One that is absent counts as empty. Raises ProviderError."""
    gone = 0
    try:
        for page in pages("ecr", region, "list_images", repositoryName=name):
            if images := page.get("imageIds"):
                ask("ecr", region, "batch_delete_image", repositoryName=name, imageIds=images)
                gone += len(images)
    except ProviderError as error:
        if code_of(error) != "RepositoryNotFoundException":
            raise
    return gone


def read_object(region: str, bucket: str, key: str, *, last: int | None = None) -> bytes | None:
    """An object's bytes (the `last` ones); None when there is none. Raises ProviderError."""
    try:
        extra = {"Range": f"bytes=-{last}"} if last is not None else {}
        return bytes(ask("s3", region, "get_object", Bucket=bucket, Key=key, **extra)["Body"].read())
    except ProviderError as error:
        code = code_of(error)
        if code == "InvalidRange":  # an empty object has no last bytes
            return b""
        if code in _MISSING:
            return None
        raise


def delete_object(region: str, bucket: str, key: str) -> None:
    """Delete an object; an absent one is no error. Raises ProviderError."""
    ask("s3", region, "delete_object", Bucket=bucket, Key=key)


def list_keys(region: str, bucket: str, prefix: str) -> list[str]:
    """The names of all objects that begin with `prefix`. Raises ProviderError."""
    return [
        str(one["Key"])
        for page in pages("s3", region, "list_objects_v2", Bucket=bucket, Prefix=prefix)
        for one in page.get("Contents") or ()
    ]


def spot_prices(region: str, types: Sequence[str]) -> dict[tuple[str, str], Decimal]:
    """The spot market's newest price by (type, zone), USD an hour, Linux. Raises ProviderError."""
    now = datetime.now(UTC)
    newest: dict[tuple[str, str], tuple[datetime, Decimal]] = {}
    for page in pages(
        "ec2", region, "describe_spot_price_history",
        InstanceTypes=list(types), ProductDescriptions=["Linux/UNIX"], StartTime=now, EndTime=now,
    ):  # fmt: skip
        for one in page.get("SpotPriceHistory") or ():
            where, at = (one["InstanceType"], one["AvailabilityZone"]), one["Timestamp"]
            if where not in newest or at > newest[where][0]:
                newest[where] = (at, Decimal(str(one["SpotPrice"])))
    return {where: price for where, (_, price) in newest.items()}


def console(region: str, instance: str) -> str | None:
    """What a machine wrote to its console, as far as AWS kept it; None when nothing. Raises ProviderError."""
    try:
        answer = ask("ec2", region, "get_console_output", InstanceId=instance)
    except ProviderError as error:
        if code_of(error) in ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"):
            return None
        raise
    text = answer.get("Output")
    return str(text) if text else None


__all__ = [
    "BudgetState",
    "Identity",
    "bucket_size",
    "budgets",
    "close_groups",
    "console",
    "delete_object",
    "delete_parameter",
    "delete_snapshot",
    "delete_volume",
    "deregister",
    "empty_bucket",
    "empty_repository",
    "emulated",
    "identity",
    "list_keys",
    "manifest",
    "parameter",
    "read_object",
    "release_address",
    "set_to_zero", "spot_prices",
    "store_parameter",
    "terminate",
]  # fmt: skip
