"""A plan in a person's words, and what stands still in money."""

from decimal import Decimal

import pytest

from lamplighter.operations.cloud import changes
from lamplighter.operations.cloud.changes import Verb
from lamplighter.providers.aws.standing import Prices, reckon, sources


def change(kind: str, *actions: str, mode: str = "managed") -> dict[str, object]:
    return {"type": kind, "address": f"module.stack.{kind}.x", "mode": mode, "change": {"actions": list(actions)}}


PLAN = {
    "resource_changes": [
        change("aws_autoscaling_group", "create"),
        change("aws_autoscaling_group", "create"),
        change("aws_iam_role_policy", "create"),
        change("aws_s3_bucket_versioning", "update"),
        change("aws_ebs_volume", "delete", "create"),
        change("aws_s3_bucket", "delete"),
        change("aws_vpc", "no-op"),
        change("aws_ami", "read", mode="data"),
    ]
}


def test_a_plan_reads_as_sentences() -> None:
    """Whoever is asked must know what for."""
    assert changes.words(changes.read(PLAN)) == [
        "make 3: 2 Auto Scaling groups, IAM policy",
        "change 1: bucket setting",
        "replace 1: volume",
        "destroy 1: bucket",
    ]
    assert changes.words(changes.read({})) == []


def test_what_would_be_lost_is_said() -> None:
    """A replaced volume takes its weights along without anybody having typed `destroy`."""
    assert changes.losses(changes.read(PLAN)) == [
        "the volume with the downloaded weights",
        "the bucket with backups, models and logs",
    ]
    assert changes.losses([change for change in changes.read(PLAN) if change.verb is Verb.MAKE]) == []


def test_plurals_are_words() -> None:
    """Small, but it is the first thing that a person reads."""
    assert [changes.plural(word) for word in ("policy", "public address", "alarm", "gateway")] == [
        "policies", "public addresses", "alarms", "gateways",
    ]  # fmt: skip


EXISTING: list[tuple[str, dict[str, object]]] = [
    ("aws_ebs_volume", {"size": 100}),
    ("aws_nat_gateway", {}),
    ("aws_eip", {}),
    ("aws_secretsmanager_secret", {}),
    ("aws_cloudwatch_metric_alarm", {}),
    ("aws_cloudwatch_metric_alarm", {}),
    ("aws_s3_bucket", {}),
    ("aws_instance", {"instance_type": "t4g.nano", "root_block_device": [{"volume_size": 8}]}),
    ("aws_vpc_endpoint", {"vpc_endpoint_type": "Gateway"}),
    ("aws_vpc_endpoint", {"vpc_endpoint_type": "Interface", "subnet_ids": ["a", "b"]}),
    ("aws_vpc", {}),
]


def test_the_cost_of_standing_still_adds_up() -> None:
    """The monthly sum is what a person decides by; each line is checked by hand here."""
    found = reckon("eu-central-1", EXISTING)
    by_line = {line.what: line.monthly for line in found.lines}
    assert by_line["volumes for weights"] == Decimal("9.52")
    assert by_line["NAT gateway"] == Decimal("37.96")
    assert by_line["public addresses"] == Decimal("3.65")
    assert by_line["VPC endpoints"] == Decimal("17.52")
    assert by_line["lighthouse (t4g.nano)"] == Decimal("0.0048") * 730 + Decimal("0.7616")
    assert by_line["bucket"] is None
    assert found.monthly == sum(one for one in by_line.values() if one is not None)
    assert (found.guessed, found.checked) == (False, "2026-11-28")


def test_an_unknown_region_is_reckoned_at_the_dearest_and_says_so() -> None:
    """A sum that is too small would be a promise that AWS does not keep."""
    found = reckon("ap-south-2", [("aws_ebs_volume", {"size": 10})])
    assert found.guessed
    assert found.monthly == max(Prices(region).monthly("gp3", 10) for region in ("us-east-1", "eu-central-1"))


def test_every_price_names_its_source() -> None:
    """A number without a source cannot be checked when AWS changes it."""
    known = {"gp3", "snapshot", "address", "nat", "endpoint", "t4g.nano", "t4g.micro", "secret", "alarm", "key", "s3", "ecr"}
    assert set(sources()) == known
    assert all(Prices("us-east-1").has(name) for name in known)


@pytest.mark.parametrize("kind", ["m5.large", "x9.huge"])
def test_a_lighthouse_without_a_known_price_is_not_free(kind: str) -> None:
    """`0.00` would be a lie; a dash and a word are not."""
    (line,) = reckon("us-east-1", [("aws_instance", {"instance_type": kind})]).lines
    assert line.monthly is None
    assert "price" in line.basis
