"""Whose is it? The verdicts on what runs, without AWS."""

from decimal import Decimal

import pytest

from lamplighter.config import Config
from lamplighter.operations.cloud.beliefs import Beliefs, Believed
from lamplighter.operations.cloud.owners import Standing, alarms, judge, unowned
from lamplighter.providers.aws.inventory import Group, Inventory, Item

NOW = 1_800_000_000.0
KEPT = Beliefs("ins", (Believed("rep_1", "spot", "aws_1", "ready"),), NOW + 10)


def item(kind: str = "instance", *, age: float = 600, state: str = "running", detail: str = "", **tags: str) -> Item:
    named = {"lamplighter:stack": "lamplighter", "lamplighter:pool": "spot"} | {
        f"lamplighter:{key}": value for key, value in tags.items()
    }
    given = {key: value for key, value in named.items() if value}
    return Item(kind, f"{kind[0]}-1", "eu-central-1", state, detail, NOW - age, Decimal("0.5"), tags=given)


def verdict(config: Config, one: Item, beliefs: Beliefs = KEPT, *others: Item) -> tuple[Standing, str]:
    found = judge(config, beliefs, Inventory("eu-central-1", (one, *others), ()), NOW)
    return found[0].standing, found[0].why


@pytest.mark.parametrize(
    ("machine", "standing", "says"),
    [
        (item(replica="aws_1"), Standing.OWNED, "rep_1"),
        (item(replica="aws_2"), Standing.UNOWNED, "knows no replica aws_2"),
        (item(age=30), Standing.OWNED, "just made"),
        (item(age=600), Standing.UNOWNED, "knows no replica"),
        (item(state="shutting-down"), Standing.OWNED, "ending"),
        (item(stack="other"), Standing.UNOWNED, "no pool of the configuration names the stack"),
        (item(pool="gone"), Standing.UNOWNED, "no pool 'gone'"),
        (item(pool=""), Standing.STANDING, "lighthouse"),
        (item(purpose="bake", until=str(NOW + 600)), Standing.OWNED, "10 more minutes"),
        (item(purpose="bake", until=str(NOW - 1)), Standing.UNOWNED, "should have ended"),
    ],
)
def test_every_machine_has_an_owner_or_is_nobodys(config: Config, machine: Item, standing: Standing, says: str) -> None:
    """A machine that is called owned although nobody wants it bills until a person looks by hand; the other way round it is ended under them."""
    assert verdict(config, machine)[0] is standing
    assert says in verdict(config, machine)[1]


def test_without_a_keeper_nothing_that_runs_is_owned(config: Config) -> None:
    """Nobody renews it; a person who looks should learn that, and that it ends itself."""
    standing, why = verdict(config, item(replica="aws_1"), Beliefs("ins", KEPT.replicas, NOW - 1))
    assert standing is Standing.UNOWNED
    assert "ends itself within 5m" in why


def test_a_volume_goes_by_what_holds_it(config: Config) -> None:
    """The weights' volume stands for months; a forgotten one costs 10 USD a month in silence."""
    assert verdict(config, item("volume", state="available"))[0] is Standing.STANDING
    assert verdict(config, item("volume", state="available", pool="other"))[0] is Standing.UNOWNED
    held = item("volume", state="in-use", detail="100 GB, on i-1", pool="other")
    assert verdict(config, held, KEPT, item(replica="aws_2")) == (Standing.OWNED, "of i-1, and goes with it")
    assert verdict(config, item("address", state="unused", pool=""))[0] is Standing.UNOWNED


def test_what_costs_nothing_alarms_nobody(config: Config) -> None:
    """A free queue of an old stack is no reason for exit status 1 at 3 a.m."""
    free = Item("other", "arn:aws:sqs:x", "eu-central-1", hourly=Decimal(0), tags={"lamplighter:stack": "old"})
    found = judge(config, KEPT, Inventory("eu-central-1", (free, item(stack="old")), ()), NOW)
    assert [one.item.kind for one in unowned(found)] == ["instance"]


def test_a_group_without_a_timely_dead_man_is_told(config: Config) -> None:
    """It is the last thing that ends a machine when home, keeper and agent are all gone."""
    limit = 600 + 120 + 300

    def group(dead_man: float | None, desired: int = 0) -> Group:
        return Group("lamplighter-spot-spot", "eu-central-1", 0, desired, 2, (), dead_man)

    assert alarms(config, [group(NOW + limit)], NOW) == []
    assert "no dead-man" in alarms(config, [group(None)], NOW)[0].why
    assert "waits" in alarms(config, [group(NOW + limit + 300)], NOW)[0].why
    assert "more than its maximum" in alarms(config, [group(NOW + 60, desired=3)], NOW)[0].why
