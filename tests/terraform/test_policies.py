"""What a plan of the module may never hold; each rule is also shown to catch what it is there for."""

import base64
import copy
import gzip
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.terraform import policies
from tests.terraform.applied import resources_of

Plans = dict[str, dict[str, Any]]


def _resources(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return resources_of(plan["planned_values"]["root_module"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["everything", "least"])
def test_a_plan_breaks_no_rule(plans: Plans, name: str) -> None:
    """A machine could be reached, read or forgotten that should not be; see the rule that is named."""
    assert policies.findings(_resources(plans[name])) == []


def test_the_least_costs_nothing_by_the_hour(plans: Plans) -> None:
    """A person who asked for a pool alone would pay for a NAT gateway, endpoints or a lighthouse every month."""
    kinds = {one["type"] for one in _resources(plans["least"])}
    assert not kinds & {"aws_nat_gateway", "aws_eip", "aws_instance", "aws_ecr_repository"}
    assert [one["values"]["vpc_endpoint_type"] for one in _resources(plans["least"]) if one["type"] == "aws_vpc_endpoint"] == [
        "Gateway"
    ]


def test_nothing_is_made_to_run(plans: Plans) -> None:
    """`apply` itself would start a GPU."""
    for plan in plans.values():
        wanted = [one["values"]["desired_capacity"] for one in _resources(plan) if one["type"] == "aws_autoscaling_group"]
        assert wanted
        assert set(wanted) == {0}


def _first(resources: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    values: dict[str, Any] = next(one["values"] for one in resources if one["type"] == kind)
    return values


def _metadata(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_launch_template")["metadata_options"][0]["http_tokens"] = "optional"


def _hops(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_launch_template")["metadata_options"][0]["http_put_response_hop_limit"] = 2


def _without_tls(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_sqs_queue")["policy"] = '{"Statement":[]}'


def _large(resources: list[dict[str, Any]]) -> None:
    script = b"#!/bin/sh\n" + random.Random(1).randbytes(20_000)
    _first(resources, "aws_launch_template")["user_data"] = base64.b64encode(gzip.compress(script)).decode()


def _unfilled(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_launch_template")["user_data"] = base64.b64encode(gzip.compress(b"#!/bin/sh\n@AGENT@\n")).decode()


def _untagged_target(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_iam_role")["policy"] = (
        '{"Statement":[{"Sid":"EndItself","Effect":"Allow","Action":["ec2:TerminateInstances"],"Resource":["arn:aws:ec2:eu-central-1:1:instance/*"]}]}'
    )


def _encryption(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_launch_template")["block_device_mappings"][0]["ebs"][0]["encrypted"] = "false"


def _doors(resources: list[dict[str, Any]]) -> None:
    rule = _first(resources, "aws_vpc_security_group_ingress_rule")
    rule.update({"cidr_ipv4": "0.0.0.0/0", "ip_protocol": "tcp", "from_port": 22, "to_port": 22})


def _tags(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_ebs_volume")["tags"].pop("lamplighter:stack")


def _groups(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_autoscaling_group")["min_size"] = 1


def _protected(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_autoscaling_group")["protect_from_scale_in"] = True


def _dead_man(resources: list[dict[str, Any]]) -> None:
    resources.remove(next(one for one in resources if one["type"] == "aws_autoscaling_schedule"))


def _budgets(resources: list[dict[str, Any]]) -> None:
    for one in [one for one in resources if one["type"] == "aws_budgets_budget"]:
        resources.remove(one)


def _public(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_s3_bucket_public_access_block")["block_public_policy"] = False


def _secret(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_instance")["user_data"] = "-----BEGIN NEBULA ED25519 PRIVATE KEY-----"


def _everything(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_iam_role")["policy"] = '{"Statement":[{"Sid":"All","Effect":"Allow","Action":"ec2:*","Resource":"*"}]}'


def _any_account(resources: list[dict[str, Any]]) -> None:
    _first(resources, "aws_sqs_queue")["policy"] = (
        '{"Statement":[{"Sid":"R","Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"arn:x"}]}'
    )


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_metadata, policies.metadata), (_hops, policies.metadata), (_without_tls, policies.privacy), (_large, policies.user_data),
        (_unfilled, policies.user_data), (_untagged_target, policies.permissions),
        (_encryption, policies.encryption), (_doors, policies.doors), (_tags, policies.tags),
        (_groups, policies.groups), (_protected, policies.groups), (_dead_man, policies.dead_men), (_budgets, policies.warnings),
        (_public, policies.privacy), (_secret, policies.secrets), (_everything, policies.permissions), (_any_account, policies.senders),
    ],
)  # fmt: skip
def test_a_rule_catches_what_it_is_there_for(
    plans: Plans, spoil: Callable[[list[dict[str, Any]]], None], rule: Callable[[policies.Resources], Any]
) -> None:
    """A rule that cannot fail protects nobody."""
    resources = copy.deepcopy(_resources(plans["everything"]))
    assert list(rule(resources)) == []
    spoil(resources)
    assert list(rule(resources)) != []
