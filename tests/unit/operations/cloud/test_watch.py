"""Status, orphans, destroy, bake and logs against the pretended AWS: what a person sees, and what is ended."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lamplighter.cli.main import run
from lamplighter.config import Config
from lamplighter.core.clock import SystemClock
from lamplighter.operations.cloud import bake as baking_ops
from lamplighter.operations.cloud import beliefs, build, lastwords, watch
from lamplighter.operations.cloud.bake import Oven, Recipe
from lamplighter.operations.cloud.beliefs import Beliefs
from lamplighter.operations.cloud.build import Site
from lamplighter.operations.cloud.errors import CloudError, StillRunning
from lamplighter.operations.cloud.stacks import stacks
from lamplighter.operations.datafolder import DataFolder
from lamplighter.providers.aws import account, inventory
from lamplighter.store.store import Store
from lamplighter.testing.aws import Emulator
from tests.unit.operations.cloud.conftest import INSTALLATION, YAML, FakeTerraform

REGION = "eu-central-1"
KNOWN = Beliefs(INSTALLATION)


def wake(aws: Emulator, pool: str = "spot") -> str:
    """One machine in the pool's spot group; its id."""
    name = f"lamplighter-{pool}-spot"
    aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=1)
    aws.advance(30)
    (machine,) = inventory.running(REGION, INSTALLATION)
    return machine.id


def test_asleep_is_well_and_names_what_stands(aws: Emulator, built: dict[str, Any], config: Config, tmp_path: Path) -> None:
    """The usual case: exit status 0, and the dead-man's next time for each group."""
    picture = watch.look(config, tmp_path, KNOWN, now=aws.now)
    assert picture.well
    assert picture.identity.emulated
    (region,) = picture.regions
    assert {group.name for group in region.groups} == {"lamplighter-spot-spot", "lamplighter-spot-on-demand"}
    assert all(group.dead_man is not None for group in region.groups)


def test_a_machine_that_nobody_owns_is_told_and_ended(
    aws: Emulator, built: dict[str, Any], config: Config, tmp_path: Path
) -> None:
    """It is what `cloud status` is for: exit status 1, the price, and one command that ends it and proves it."""
    machine = wake(aws)
    picture = watch.look(config, tmp_path, KNOWN, now=aws.now)
    assert not picture.well
    (found,) = [one for one in picture.unowned if one.item.kind == "instance"]
    assert found.item.id == machine
    assert found.item.hourly is not None
    told: list[str] = []
    ended = watch.end([found], INSTALLATION, limit=60, told=told.append, pause=aws.advance, now=aws.now)
    assert ended.done == (machine,)
    assert inventory.running(REGION, INSTALLATION) == ()
    groups = aws.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert [group["DesiredCapacity"] for group in groups] == [0, 0], "or AWS would launch another one in its place"


def test_another_installations_things_are_never_seen(
    aws: Emulator, built: dict[str, Any], config: Config, tmp_path: Path
) -> None:
    """Two people may share an account."""
    wake(aws)
    picture = watch.look(config, tmp_path, Beliefs("ins_other"), now=aws.now)
    assert [one.item.kind for region in picture.regions for one in region.judged] == []


def test_an_empty_data_folder_is_no_proof(config: Config, tmp_path: Path) -> None:
    """`Nothing runs` must not be said because the wrong folder was named."""
    with pytest.raises(CloudError, match="nothing was ever started"):
        watch.look(config, tmp_path, Beliefs())


def test_the_store_is_read_beside_its_owner(tmp_path: Path, config: Config) -> None:
    """Status is asked most when the server hangs or is gone; it must not need it, and must not change its store."""
    folder = DataFolder(tmp_path / "data")
    assert beliefs.read(config.store, folder) == Beliefs()

    async def begin() -> str:
        folder.prepare()
        store = await Store.open(folder.store, SystemClock())
        try:
            assert beliefs.read(config.store, folder).installation == store.installation  # while it is open
            return store.installation
        finally:
            await store.close()

    known = asyncio.run(begin())
    assert beliefs.read(config.store, folder).installation == known  # and after its end


def test_a_destroy_ends_and_proves_before_it_takes_anything_down(
    aws: Emulator, built: dict[str, Any], terraform: FakeTerraform, site: Callable[..., Site]
) -> None:
    """A group that is deleted while its machine runs, or a keeper that launches meanwhile, leaves a machine that nothing knows."""
    machine, told = wake(aws), list[str]()
    made = site(told, aws)
    (stack,) = stacks(made.config)
    assert [one.id for one in build.doomed(made, stack).running] == [machine]
    build.stop_everything(made, stack, limit=60, told=told.append)
    assert inventory.running(REGION, INSTALLATION) == ()
    groups = aws.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert [group["MaxSize"] for group in groups] == [0, 0]
    assert told[-1] == "No machine of this stack runs (AWS says so)."


def test_a_destroy_stops_where_a_machine_does_not_end(
    aws: Emulator, built: dict[str, Any], site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the proof nothing may be destroyed."""
    machine = wake(aws)
    made = site([], aws)
    monkeypatch.setattr(inventory, "running", lambda *_: (inventory.Item("instance", machine, REGION, "shutting-down", tags={
        "lamplighter:stack": "lamplighter", "lamplighter:pool": "spot"}),))  # fmt: skip
    with pytest.raises(StillRunning, match=machine):
        build.stop_everything(made, stacks(made.config)[0], limit=20, told=lambda _: None)


def test_a_stack_of_another_installation_is_refused(aws: Emulator, terraform: FakeTerraform, site: Callable[..., Site]) -> None:
    """The same stack name in one account: the second person's apply would rebuild the first one's groups."""
    aws.seed_stack(installation="ins_of_somebody_else")
    made = site([])
    with pytest.raises(CloudError, match="belongs to another installation"), build.opened(made, stacks(made.config)[0]):
        pass
    assert terraform.asked == []


def test_plan_and_apply_by_the_fake(
    aws: Emulator, built: dict[str, Any], terraform: FakeTerraform, site: Callable[..., Site]
) -> None:
    """What is planned is what is applied, and the manifest is read before anybody says that it worked."""
    plan = {"resource_changes": [{"type": "aws_vpc", "address": "a", "mode": "managed", "change": {"actions": ["create"]}}]}
    terraform.script(plan=plan)
    made = site([])
    with build.opened(made, stacks(made.config)[0]) as session:
        outlook = session.outlook()
        assert outlook.words == ["make 1: network"]
        assert any("keep them" in note for note in outlook.notes)
        session.apply()
        assert session.verify()["stack"] == "lamplighter"
    assert [call[0] for call in terraform.asked] == ["init", "plan", "show", "apply"]


@contextmanager
def passing(aws: Emulator) -> Iterator[None]:
    """Time passes in AWS although the command waits for real."""
    over = threading.Event()

    def pass_on() -> None:
        while not over.wait(0.05):
            aws.advance(0.1)

    thread = threading.Thread(target=pass_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def commanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose installation is the test's, and the configuration in force."""
    (tmp_path / "lamplighter.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMPLIGHTER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(beliefs, "read", lambda *_: KNOWN)
    return tmp_path


def test_nothing_is_built_without_a_yes(
    commanded: Path, aws: Emulator, built: dict[str, Any], terraform: FakeTerraform, module: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A script that forgot `--yes` must not spend money."""
    monkeypatch.setattr("lamplighter.operations.cloud.workspace.module_folder", lambda: module)
    plan = {"resource_changes": [{"type": "aws_vpc", "address": "a", "mode": "managed", "change": {"actions": ["create"]}}]}
    terraform.script(plan=plan)
    assert run(["cloud", "apply"]) == 2
    assert "Add --yes" in capsys.readouterr().err
    assert "apply" not in [call[0] for call in terraform.asked]
    assert run(["cloud", "apply", "--yes", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["stacks"][0]
    assert (answer["account"], answer["emulated"], answer["changes"][0]["verb"]) == ("123456789012", True, "make")


def test_status_and_orphans_tell_by_their_exit_status(
    commanded: Path, aws: Emulator, built: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a cron job can watch the bill."""
    monkeypatch.setattr(watch, "_SETTLE", 0.05)
    assert run(["cloud", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    machine = wake(aws)
    assert run(["cloud", "status"]) == 1
    said = capsys.readouterr()
    assert machine in said.out
    assert f"NOBODY'S: instance {machine}" in said.err
    assert run(["cloud", "orphans", "--end"]) == 2  # not confirmed
    with passing(aws):
        assert run(["cloud", "orphans", "--end", "--yes", "--limit", "20"]) == 0
    assert inventory.running(REGION, INSTALLATION) == ()
    assert run(["cloud", "orphans"]) == 0


def test_smoke_refuses_without_a_limit_and_above_it(
    commanded: Path, aws: Emulator, built: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """It costs real money: nothing may begin by accident, nor beyond what was agreed."""
    assert run(["cloud", "smoke"]) == 2
    assert "--at-most" in capsys.readouterr().err
    assert run(["cloud", "smoke", "--yes", "--at-most", "0.01 USD"]) == 2
    assert "if everything goes wrong this costs up to" in capsys.readouterr().err
    assert run(["cloud", "smoke", "--at-most", "5 USD"]) == 2
    assert "Add --yes" in capsys.readouterr().err
    assert inventory.running(REGION, INSTALLATION) == ()


class Kitchen:
    """Time for a bake: the machine does its work, or not, when it is waited for."""

    def __init__(self, aws: Emulator, manifest: dict[str, Any], outcome: str) -> None:
        self.aws, self.manifest, self.outcome, self.passed = aws, manifest, outcome, 0.0

    def pause(self, seconds: float) -> None:
        self.passed += seconds
        self.aws.advance(seconds)
        builders = [one for one in inventory.running(REGION, INSTALLATION) if inventory.is_builder(one)]
        for one in builders:
            if one.state == "running" and self.outcome == "interrupt":
                self.outcome = "interrupted"  # a person presses once
                raise KeyboardInterrupt
            if one.state == "running" and self.outcome in ("done", "broken"):
                folder = f"nodes/{self.manifest['node_role_id']}:{one.id}/logs"
                name, text = (
                    ("baked.json", '{"steps": {"images": 311.5}}')
                    if self.outcome == "done"
                    else ("bootstrap.log", "no such image")
                )
                self.aws.client("s3").put_object(Bucket=self.manifest["bucket"], Key=f"{folder}/{name}", Body=text)
                self.aws.client("ec2").stop_instances(InstanceIds=[one.id])


def oven(aws: Emulator, manifest: dict[str, Any], config: Config, module: Path, outcome: str) -> Oven:
    kitchen = Kitchen(aws, manifest, outcome)
    return Oven(
        stacks(config)[0], "spot", INSTALLATION, lambda _: None, kitchen.pause, lambda: kitchen.passed,
        lambda: 1_800_000_000 + kitchen.passed, module,
    )  # fmt: skip


RECIPE = Recipe(("vllm/vllm-openai:v1",))


def test_a_bake_leaves_an_image_and_nothing_that_runs(aws: Emulator, built: dict[str, Any], config: Config, module: Path) -> None:
    """The builder costs by the hour, old images by the month: only the newest two may stay."""
    made = [oven(aws, built, config, module, "done").bake(RECIPE, types=("g4dn.xlarge",), limit=600) for _ in range(3)]
    assert made[0].steps["on it: images"] == 311.5
    assert {"image", "end of the machine"} <= set(made[0].steps)
    assert inventory.running(REGION, INSTALLATION) == ()
    left = [one.id for one in inventory.take(REGION, INSTALLATION).items if one.kind == "image"]
    assert len(left) == baking_ops.KEEP
    assert account.parameter(REGION, "/lamplighter/ami/spot") == made[-1].image


@pytest.mark.parametrize(
    ("outcome", "raised", "says"),
    [("broken", CloudError, "no such image"), ("never", CloudError, "not ready after"), ("interrupt", KeyboardInterrupt, None)],
)
def test_a_bake_ends_its_machine_however_it_ends(
    aws: Emulator,
    built: dict[str, Any],
    config: Config,
    module: Path,
    outcome: str,
    raised: type[BaseException],
    says: str | None,
) -> None:
    """A builder that is left behind costs 0.66 USD an hour until somebody looks."""
    baker = oven(aws, built, config, module, outcome)
    with pytest.raises(raised, match=says):
        baker.bake(RECIPE, types=("g4dn.xlarge",), limit=600)
    assert inventory.running(REGION, INSTALLATION) == ()
    assert account.parameter(REGION, "/lamplighter/ami/spot") is None


def test_last_words_outlive_the_machine(aws: Emulator, built: dict[str, Any], config: Config) -> None:
    """Why did it not start? The machine is gone by the time that anybody asks."""
    machine = wake(aws)
    key = f"nodes/{built['node_role_id']}:{machine}/logs/bootstrap.log"
    aws.client("s3").put_object(Bucket=built["bucket"], Key=key, Body="x" * 100 + "no space left on device")
    aws.client("ec2").create_tags(Resources=[machine], Tags=[{"Key": "lamplighter:replica", "Value": "aws_7"}])
    account.terminate(REGION, [machine])
    aws.advance(60)
    for name in (machine, "aws_7"):
        found = lastwords.read(stacks(config), KNOWN, name, "bootstrap", limit=10)
        assert found.text == " on device"
        assert found.source.startswith("s3://")
    with pytest.raises(CloudError, match="no log 'engine' of 'aws_8'") as missing:
        lastwords.read(stacks(config), KNOWN, "aws_8", "engine", limit=10)
    assert machine in missing.value.next_step


def test_what_a_lost_store_built_can_still_be_found(
    commanded: Path, aws: Emulator, built: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A burnt disk takes the id along; what carries it must not bill for ever."""
    monkeypatch.setattr(beliefs, "read", lambda *_: Beliefs("ins_new", kept_until=1e12))
    machine = wake(aws)
    assert run(["cloud", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == []
    assert run(["cloud", "status", "--installation", INSTALLATION]) == 1
    assert f"NOBODY'S: instance {machine}" in capsys.readouterr().err
