"""What a configuration asks Terraform for."""

from decimal import Decimal

import pytest

from lamplighter.config import Config, parse
from lamplighter.operations.cloud.errors import CloudError
from lamplighter.operations.cloud.stacks import find_pool, select, stacks, variables, wants_lighthouse
from tests.unit.operations.cloud.conftest import INSTALLATION

TWO = """
pools:
  a: {kind: aws, region: eu-central-1, max_price: 0.4 USD/hour, image: baked}
  b: {kind: aws, region: eu-central-1, model_storage: {kind: s3}, allocation: lowest-price}
  c: {kind: aws, region: us-east-1, stack: far}
mesh: {lighthouses: [{name: light, overlay: 10.77.0.1}]}
cloud: {lighthouse: {name: light}, tags: {team: home}}
"""


def told(config: Config, **options: object) -> dict[str, object]:
    given = {"images": {}, "lighthouse_data": None, **options}
    return variables(config, stacks(config)[0], INSTALLATION, **given)  # type: ignore[arg-type]


def test_pools_of_one_name_and_region_share_a_stack() -> None:
    """Two pools in one region would otherwise pay for two networks."""
    config = parse(TWO)
    assert [(one.name, one.region, list(one.pools)) for one in stacks(config)] == [
        ("lamplighter", "eu-central-1", ["a", "b"]),
        ("far", "us-east-1", ["c"]),
    ]
    assert stacks(config)[1].groups == ("far-c-spot", "far-c-on-demand")


def test_the_module_is_told_what_the_file_says(config: Config) -> None:
    """A setting that does not arrive in AWS is a lie in the file."""
    found = told(config)
    assert found["installation"] == INSTALLATION
    assert found["pools"] == {
        "spot": {
            "instance_types": ["g4dn.xlarge", "g5.xlarge"], "zones": [], "max": 2, "allocation": "price-capacity-optimized",
            "image": "stock", "disk_gb": 100, "model_storage": {"kind": "volume", "size_gb": 100}, "boot_deadline": 600, "lease": 300,
            "drain": 120, "max_price": None,
        }
    }  # fmt: skip
    assert (found["alerts"], found["monthly_budgets"], found["dead_man_minutes"]) == (["a@example.com"], [50, 100, 200], 5)
    assert found["lighthouse"] is None


def test_a_baked_image_is_named_only_once_it_exists() -> None:
    """A launch template that names an image that nobody baked cannot be made."""
    config = parse(TWO)
    before = told(config, lighthouse_data="script")["pools"]
    after = told(config, lighthouse_data="script", images={"a": "ami-0123456789"})["pools"]
    assert (before["a"]["image"], after["a"]["image"]) == ("stock", "baked")  # type: ignore[index]
    assert Decimal(after["a"]["max_price"]) == Decimal("0.4")  # type: ignore[index]


def test_one_lighthouse_in_all_and_not_without_a_certificate() -> None:
    """Two machines with one certificate would fight for one address."""
    config = parse(TWO)
    first, second = stacks(config)
    assert (wants_lighthouse(config, first), wants_lighthouse(config, second)) == (True, False)
    assert told(config, lighthouse_data="script")["lighthouse"] == {
        "name": "light",
        "instance_type": "t4g.nano",
        "user_data": "script",
    }
    with pytest.raises(CloudError, match="no certificate") as refused:
        told(config)
    assert "mesh sign light" in refused.value.next_step


def test_a_dead_man_that_aws_cannot_repeat_is_refused() -> None:
    """AWS would take `*/7` for something else than every seven minutes."""
    with pytest.raises(CloudError, match="dead_man_every"):
        told(parse(TWO.replace("tags:", "dead_man_every: 7m, tags:")), lighthouse_data="x")


@pytest.mark.parametrize(
    ("yaml", "wanted", "says"),
    [
        ("pools: {here: {kind: process}}", None, "nothing to build"),
        (TWO, "near", "no pool names the stack"),
        (TWO, "far/eu-central-1", "no pool names the stack"),
    ],
)
def test_what_is_not_there_cannot_be_chosen(yaml: str, wanted: str | None, says: str) -> None:
    """A typo must not build something else."""
    with pytest.raises(CloudError, match=says) as refused:
        select(parse(yaml), wanted)
    assert refused.value.next_step


def test_a_pool_is_named_where_there_are_several(config: Config) -> None:
    """Baking the wrong pool's image costs money."""
    assert find_pool(config, None)[1] == "spot"
    with pytest.raises(CloudError, match="more than one"):
        find_pool(parse(TWO), None)
    with pytest.raises(CloudError, match="no pool of kind aws named 'x'"):
        find_pool(parse(TWO), "x")
