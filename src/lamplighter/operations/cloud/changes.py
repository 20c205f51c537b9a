"""A Terraform plan in a person's words: what is made, changed, replaced, destroyed, and what that would lose. Pure; never shows a value.

Not responsible for money (`providers.aws.standing`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verb(StrEnum):
    """What happens to one resource."""

    MAKE = "make"
    CHANGE = "change"
    REPLACE = "replace"
    DESTROY = "destroy"


_VERBS: Mapping[frozenset[str], Verb] = {
    frozenset({"create"}): Verb.MAKE,
    frozenset({"update"}): Verb.CHANGE,
    frozenset({"create", "delete"}): Verb.REPLACE,
    frozenset({"delete"}): Verb.DESTROY,
}

_NOUNS: Mapping[str, str] = {
    "aws_vpc": "network",
    "aws_subnet": "subnet",
    "aws_internet_gateway": "internet gateway",
    "aws_nat_gateway": "NAT gateway",
    "aws_eip": "public address",
    "aws_route_table": "route table",
    "aws_route": "route",
    "aws_route_table_association": "route table's link",
    "aws_security_group": "firewall",
    "aws_default_security_group": "default firewall",
    "aws_vpc_security_group_ingress_rule": "firewall rule",
    "aws_vpc_security_group_egress_rule": "firewall rule",
    "aws_security_group_rule": "firewall rule",
    "aws_vpc_endpoint": "VPC endpoint",
    "aws_launch_template": "launch template",
    "aws_autoscaling_group": "Auto Scaling group",
    "aws_autoscaling_schedule": "dead-man action",
    "aws_instance": "machine",
    "aws_ebs_volume": "volume",
    "aws_iam_role": "IAM role",
    "aws_iam_role_policy": "IAM policy",
    "aws_iam_policy": "IAM policy",
    "aws_iam_role_policy_attachment": "IAM policy's link",
    "aws_iam_instance_profile": "instance profile",
    "aws_s3_bucket": "bucket",
    "aws_sqs_queue": "queue",
    "aws_sqs_queue_policy": "queue policy",
    "aws_sns_topic": "alarm topic",
    "aws_sns_topic_subscription": "alarm e-mail",
    "aws_cloudwatch_event_rule": "event rule",
    "aws_cloudwatch_event_target": "event rule's target",
    "aws_cloudwatch_metric_alarm": "alarm",
    "aws_cloudwatch_log_group": "log group",
    "aws_budgets_budget": "budget warning",
    "aws_ssm_parameter": "parameter",
    "aws_secretsmanager_secret": "secret",
    "aws_secretsmanager_secret_version": "secret's value",
    "aws_ecr_repository": "image repository",
    "aws_ecr_lifecycle_policy": "image repository's lifecycle",
    "aws_kms_key": "encryption key",
}

_LOSS: Mapping[str, str] = {
    "aws_ebs_volume": "the volume with the downloaded weights",
    "aws_s3_bucket": "the bucket with backups, models and logs",
    "aws_autoscaling_group": "a group, with every machine that runs in it",
    "aws_instance": "a running machine",
    "aws_ecr_repository": "the repository with your own engine images",
    "aws_secretsmanager_secret": "a secret's value",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What the plan does to one resource. `address`: Terraform's name for it."""

    verb: Verb
    type: str
    address: str

    @property
    def noun(self) -> str:
        """What it is, for people."""
        return _noun(self.type)


def read(plan: Mapping[str, Any]) -> list[Change]:
    """The changes of a plan as `terraform show -json` tells it; what is only read or stays is left out."""
    found = []
    for item in plan.get("resource_changes") or ():
        verb = _VERBS.get(frozenset(item["change"]["actions"]))
        if verb is not None and item.get("mode", "managed") == "managed":
            found.append(Change(verb, item["type"], item["address"]))
    return found


def words(changes: Sequence[Change]) -> list[str]:
    """One line for each verb, such as `make 44: 2 Auto Scaling groups, bucket, ...`; empty when nothing changes."""
    lines = []
    for verb in Verb:
        counted = Counter(change.noun for change in changes if change.verb is verb)
        if counted:
            parts = [noun if count == 1 else f"{count} {plural(noun)}" for noun, count in sorted(counted.items())]
            lines.append(f"{verb.value} {counted.total()}: {', '.join(parts)}")
    return lines


def losses(changes: Sequence[Change]) -> list[str]:
    """What would be lost for good or interrupted, each once."""
    ending = (change for change in changes if change.verb in (Verb.DESTROY, Verb.REPLACE))
    return list(dict.fromkeys(_LOSS[change.type] for change in ending if change.type in _LOSS))


def planned(plan: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(type, values) of everything that exists once the plan is applied; of a state, everything that exists."""
    values = plan.get("planned_values") or plan.get("values") or {}
    return [(item["type"], item.get("values") or {}) for item in _resources(values.get("root_module") or {})]


def addresses(plan: Mapping[str, Any], types: Sequence[str]) -> list[str]:
    """Terraform's names of all existing resources of these types."""
    values = plan.get("values") or {}
    return [str(item["address"]) for item in _resources(values.get("root_module") or {}) if item["type"] in types]


def _resources(module: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for item in module.get("resources") or ():
        if item.get("mode", "managed") == "managed":
            yield item
    for child in module.get("child_modules") or ():
        yield from _resources(child)


def _noun(kind: str) -> str:
    if kind.startswith("aws_s3_bucket_") or kind == "aws_s3_object":
        return "bucket setting"
    return _NOUNS.get(kind, kind.removeprefix("aws_").replace("_", " "))


def plural(noun: str) -> str:
    """`policy` -> `policies`, `address` -> `addresses`, `alarm` -> `alarms`."""
    if noun.endswith("y") and not noun.endswith("ay"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
