"""The provider contract against `aws` on an emulated AWS with pretended nodes, and what only a cloud does: emulated, not proven."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.mesh.authority import read_blocklist
from lamplighter.providers.aws import account
from lamplighter.providers.aws.picture import TAG_ORDER, Order
from lamplighter.providers.aws.watcher import read_findings
from lamplighter.providers.base import Desired, Presence, Quote, Quoting
from lamplighter.testing.aws import Emulator, Fault, NodeFactory, NodePlan, PoolSeed
from lamplighter.testing.aws.templates import IMAGE
from lamplighter.testing.contracts import ProviderContract
from lamplighter.testing.contracts.provider import ready
from tests.contract.aws_world import BOOT, DRAIN, LEASE, MODELS, OURS, REGION, THEIRS, AwsWorld, make_data


@pytest.fixture(scope="module")
def aws() -> Iterator[Emulator]:
    with Emulator(region=REGION) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
async def world(aws: Emulator, data: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsWorld]:
    world = AwsWorld(aws, data, monkeypatch)
    yield world
    await world.close()


class TestContract(ProviderContract):
    """`aws`."""


# --- what only a cloud does -----------------------------------------------------------------------------------------------------------------


async def test_no_spot_capacity_takes_an_on_demand_machine_and_says_so(world: AwsWorld) -> None:
    """Somebody who allowed it would wait for a spot machine that does not come; or pay three times as much without being told."""
    world.aws.capacity.none("spot")
    provider = world.make(on_no_capacity="on-demand")
    await provider.scale(Desired({"one": 1}), frozenset())
    (waiting,) = await world.until(lambda seen: bool(seen and seen[0].stages[0].detail), provider)
    assert waiting.stages[0].detail is not None
    assert "no spot capacity" in waiting.stages[0].detail
    assert "taking an on-demand g4dn.xlarge for 0.658 USD/h" in waiting.stages[0].detail
    (one,) = await world.until(ready, provider)
    assert one.handle == waiting.handle
    assert one.rate is not None
    assert (one.rate.hourly, one.rate.currency) == (658_000_000, "USD")
    assert one.rate.basis.startswith("on-demand g4dn.xlarge")
    assert one.billed_from is not None
    assert (world.desired("spot"), world.desired("on-demand")) == (0, 1)


async def test_no_capacity_anywhere_fails_with_its_reason_and_leaves_nothing(world: AwsWorld) -> None:
    """The person would wait for the whole boot deadline, and a machine might come when nobody wants it any more."""
    world.aws.capacity.none()
    provider = world.make(on_no_capacity="on-demand")
    await provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(lambda seen: bool(seen and seen[0].failure), provider)
    assert (one.presence, one.failure) == (Presence.ENDED, WakeFailure.NO_CAPACITY)
    assert one.detail is not None
    assert "no on-demand capacity" in one.detail
    assert [again.failure for again in await world.another().observe()] == [WakeFailure.NO_CAPACITY], "told until it is doomed"
    await provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen, provider)
    world.aws.capacity.plenty()
    await asyncio.sleep(1.2)
    assert (world.desired("spot"), world.desired("on-demand"), world.live()) == (0, 0, [])


async def test_a_failed_boot_says_why_and_leaves_nothing(world: AwsWorld) -> None:
    """A model that does not fit would bill until its lease runs out, and then be tried again."""
    world.nodes.plan = NodePlan(fault=Fault.OUT_OF_MEMORY)
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(lambda seen: bool(seen and seen[0].failure))
    assert one.failure is WakeFailure.OUT_OF_MEMORY
    assert one.detail is not None
    assert "CUDA out of memory" in one.detail
    assert one.endpoint is None
    fingerprint = certificate_of(world, one.handle)
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen)
    assert not world.live()
    assert world.desired() == 0
    await eventually(lambda: fingerprint in read_blocklist(world.data / "mesh"))
    await eventually(lambda: fingerprint in (account.parameter(REGION, f"/{world.stack}/lighthouse/blocklist.yml") or ""))
    await eventually(lambda: not assignments(world))
    assert not await world.another().observe(), "what ended is not told again after a restart"


async def test_a_forged_sender_is_ignored(world: AwsWorld) -> None:
    """Whoever may write into the queue would get a certificate of the mesh."""
    world.nodes.plan = NodePlan(fault=Fault.SILENT)
    await world.provider.scale(Desired({"one": 1}), frozenset())
    await world.until(lambda seen: bool(world.aws.instances(live=True)) and len(seen[0].stages) > 1)
    (instance,) = world.live()
    hello = {"version": 1, "kind": "hello", "instance": instance, "public_key": world.nodes.node(instance).public_key, "at": 0}
    queue = world.manifest["nodes_queue_url"]
    world.aws.client("sqs", REGION).send_message(QueueUrl=queue, MessageBody=json.dumps(hello))  # a person of the account
    await asyncio.sleep(1.0)
    assert not assignments(world)
    world.aws.node_client("sqs", instance).send_message(QueueUrl=queue, MessageBody=json.dumps({**hello, "instance": "i-0123"}))
    await asyncio.sleep(0.7)
    assert not assignments(world)
    world.aws.node_client("sqs", instance).send_message(QueueUrl=queue, MessageBody=json.dumps(hello))
    await eventually(lambda: bool(assignments(world)))


async def test_a_spot_notice_is_told_and_then_the_loss(world: AwsWorld) -> None:
    """Two minutes in which another machine could take over would pass unused."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    began = time.time()
    world.aws.reclaim(world.instance(one.handle), seconds=4)
    (noticed,) = await world.until(lambda seen: seen[0].notice is not None)
    assert time.time() - began < 3.5
    assert noticed.notice is not None
    assert noticed.notice.at is not None
    assert noticed.endpoint == one.endpoint, "it still answers"
    (lost,) = await world.until(lambda seen: seen[0].presence is Presence.ENDED)
    assert lost.loss is LossReason.SPOT_RECLAIMED
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    # Where the group was quicker than we and has replaced it, the replacement is a surplus, and ended as such half a minute later.
    assert not await world.until(lambda seen: not seen and world.desired() == 0 and not world.live(), limit=60)


async def test_a_restarted_keeper_adopts_in_every_phase(world: AwsWorld) -> None:
    """A crash of ours at the wrong moment would buy a second machine, or lose the first and its request."""
    order = Order("aws_written", "one", time.time(), time.time())
    tag = {"ResourceId": f"{world.stack}-gpu-spot", "ResourceType": "auto-scaling-group", "PropagateAtLaunch": False}
    tag |= {"Key": TAG_ORDER + order.id, "Value": order.text()}
    world.aws.client("autoscaling", REGION).create_or_update_tags(Tags=[tag])  # killed before capacity was raised
    world.nodes.plan = NodePlan(boot=0.4, mesh=0.4, pull=0.5, load=0.5)
    phases: set[str] = set()
    deadline = time.monotonic() + 25
    while True:
        assert time.monotonic() < deadline, phases
        provider = world.make()
        (one,) = await provider.observe()
        assert one.handle == "aws_written"
        assert one.presence is Presence.RUNNING
        await provider.scale(Desired({"one": 1}), frozenset())
        phases.add(one.stages[-1].name)
        if one.endpoint is not None:
            break
        await asyncio.sleep(0.3)
        await provider.close()  # and the next one begins with nothing
    assert len(world.aws_launched()) == 1
    assert {"capacity", "load"} <= phases
    assert len(phases) > 2
    assert ready(await world.until(ready, provider))


async def test_two_keepers_at_once_stay_within_the_maximum(world: AwsWorld) -> None:
    """While two keepers believe that they lead, one request would buy two machines, and many requests any number."""
    other = world.another()
    await asyncio.gather(world.provider.observe(), other.observe())
    for _ in range(3):
        await asyncio.gather(
            world.provider.scale(Desired({"one": 2, "two": 2}), frozenset()),
            other.scale(Desired({"one": 2, "two": 2}), frozenset()),
        )
        assert world.desired("spot") + world.desired("on-demand") <= 3
    seen = await world.until(lambda seen: sum(one.endpoint is not None for one in seen) == 3)
    assert len({one.handle for one in seen}) == len(seen)
    assert len(world.live()) == 3
    assert len(world.aws_launched()) == 3


async def test_aws_own_dead_man_is_pushed_before_capacity_is_raised(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that dies in between would leave a machine that nothing in AWS ends."""
    calls: list[str] = []
    call = world.provider._aws.call

    async def listen(service: str, operation: str, **more: Any) -> dict[str, Any]:
        calls.append(operation)
        return await call(service, operation, **more)

    monkeypatch.setattr(world.provider._aws, "call", listen)
    before = time.time()
    await world.provider.scale(Desired({"one": 1}), frozenset())
    assert calls.index("put_scheduled_update_group_action") < calls.index("set_desired_capacity")
    answer = world.aws.client("autoscaling", REGION).describe_scheduled_actions(AutoScalingGroupName=f"{world.stack}-gpu-spot")
    (action,) = answer["ScheduledUpdateGroupActions"]
    assert (action["ScheduledActionName"], action["Recurrence"], action["DesiredCapacity"]) == ("dead-man", "*/5 * * * *", 0)
    assert 0 <= action["StartTime"].timestamp() - (before + max(BOOT, LEASE) + DRAIN) < 5
    await world.until(ready)
    calls.clear()
    for _ in range(3):
        await world.provider.renew()
    assert calls.count("put_scheduled_update_group_action") == 0, "at most once a minute"


async def test_what_is_forgotten_outside_of_the_groups_is_ended(world: AwsWorld) -> None:
    """A machine that fell out of its group would bill for ever."""
    await world.provider.observe()
    tags = {"lamplighter:installation": OURS, "lamplighter:stack": world.stack, "lamplighter:pool": "gpu"}

    def run(**more: str) -> str:
        spec = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in {**tags, **more}.items()]}]
        ec2 = world.aws.client("ec2", REGION)
        answer = ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, InstanceType="g4dn.xlarge", TagSpecifications=spec)
        return str(answer["Instances"][0]["InstanceId"])

    forgotten, baking, theirs = run(), run(**{"lamplighter:purpose": "bake"}), run(**{"lamplighter:installation": THEIRS})
    watcher = world.provider.watcher
    watcher.age = 0.0
    await world.provider._poller.refresh()
    await watcher.look()
    assert forgotten in world.live(), "one look may be wrong"
    await watcher.look()
    await eventually(lambda: forgotten not in world.live())
    assert {baking, theirs} <= set(world.live())
    assert {(one.id, one.ended) for one in read_findings(world.data, "gpu")} == {(forgotten, True), (baking, False)}
    world.aws.client("ec2", REGION).terminate_instances(InstanceIds=[baking, theirs])


async def test_no_quota_is_refused_before_anything_is_asked(world: AwsWorld) -> None:
    """A new account would wait a minute for a machine that cannot come, and not learn what to do."""
    world.aws.quotas["L-3819A6DF"] = 0.0
    try:
        with pytest.raises(ProviderError, match="L-3819A6DF") as caught:
            await world.make().scale(Desired({"one": 1}), frozenset())
        assert caught.value.reason is WakeFailure.QUOTA
        assert world.desired() == 0
        provider = world.make(on_no_capacity="on-demand")
        await provider.scale(Desired({"one": 1}), frozenset())
        assert (world.desired("spot"), world.desired("on-demand")) == (0, 1)
    finally:
        world.aws.quotas.clear()


async def test_an_engine_that_cannot_run_there_fails_alone(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """One wrong model would fail the wakes of all others in its pool; or a machine be bought that can never serve."""
    monkeypatch.setitem(MODELS, "odd", ModelConfig.model_validate({"engine": "llamacpp", "pool": "gpu", "source": "bundled"}))
    with pytest.raises(ProviderError, match="cannot run on a cloud machine") as caught:
        await world.provider.scale(Desired({"odd": 1}), frozenset())
    assert caught.value.reason is WakeFailure.ENGINE_MISSING
    for _ in range(2):
        await world.provider.scale(Desired({"odd": 1, "one": 1}), frozenset())
    one, other = sorted(await world.provider.observe(), key=lambda seen: seen.models, reverse=True)
    assert (one.models, one.presence) == (("one",), Presence.RUNNING)
    assert (other.models, other.presence, other.failure) == (("odd",), Presence.ENDED, WakeFailure.ENGINE_MISSING)
    await world.provider.scale(Desired({"one": 1}), frozenset({other.handle}))
    assert [seen.handle for seen in await world.provider.observe()] == [one.handle]


async def test_a_price_above_the_limit_is_refused(world: AwsWorld) -> None:
    """max_price would be a wish."""
    provider = world.make(max_price="0.05 USD/hour")
    await eventually_async(provider.quote)
    with pytest.raises(ProviderError, match="max_price") as caught:
        await provider.scale(Desired({"one": 1}), frozenset())
    assert caught.value.reason is WakeFailure.BUDGET
    assert world.desired() == 0


async def test_a_quote_is_there_before_the_wake(world: AwsWorld) -> None:
    """The page could not say what a wake costs."""
    assert isinstance(world.provider, Quoting)
    quote = await eventually_async(world.provider.quote)
    assert quote.rate.basis == "spot g4dn.xlarge, eu-central-1a"
    assert quote.least == quote.rate.hourly * (480 + 600) // 3600
    assert "placement score 9 of 10" in quote.source


async def test_a_stack_of_another_installation_is_not_touched(world: AwsWorld) -> None:
    """A copied configuration would end somebody's machines."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    await world.until(ready)
    thief = world.make(THEIRS)
    with pytest.raises(ProviderError, match="another installation"):
        await thief.observe()
    with pytest.raises(ProviderError, match="another installation"):
        await thief.scale(Desired({}), frozenset({"aws_1"}))
    assert ready(await world.provider.observe())


async def test_a_revoked_neighbour_is_told_to_every_node(world: AwsWorld) -> None:
    """A node that was broken into would still be talked to by the others."""
    await world.provider.scale(Desired({"one": 2}), frozenset())
    first, second = await world.until(lambda seen: ready(seen, 2))
    fingerprint = certificate_of(world, first.handle)
    stays = world.node(second.handle)
    await world.provider.scale(Desired({"one": 1}), frozenset({first.handle}))
    await world.until(lambda seen: fingerprint in stays.files["config.yml"])
    assert ready(await world.provider.observe())


async def test_a_certificate_is_renewed_without_the_node_asking(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a day every node would fall out of the mesh."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    old, first = certificate_of(world, one.handle), world.node(one.handle).files["node.crt"]
    authority = await world.provider._admission.authority()
    monkeypatch.setattr(authority, "due", lambda fingerprint, now: fingerprint == old)
    monkeypatch.setattr(world.provider._clock, "time", lambda: time.time() + 3)  # certificates count whole seconds
    await world.until(lambda seen: world.node(one.handle).files["node.crt"] != first)
    await eventually(lambda: certificate_of(world, one.handle) != old)
    assert ready(await world.provider.observe())


async def test_a_gated_models_token_is_put_once(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version of the secret at every wake; or the token of last year."""
    monkeypatch.setenv("HUB", "hf_first")
    monkeypatch.setitem(MODELS, "gated", ModelConfig.model_validate({"engine": "fake", "pool": "gpu", "hub_token": "env:HUB"}))
    name, secrets = world.manifest["hub_token_secret"], world.aws.client("secretsmanager", REGION)
    secrets.create_secret(Name=name)
    await world.provider.scale(Desired({"gated": 2}), frozenset())
    seen = await world.until(lambda seen: ready(seen, 2))
    assert secrets.get_secret_value(SecretId=name)["SecretString"] == "hf_first"
    versions = secrets.describe_secret(SecretId=name)["VersionIdsToStages"]
    assert len(versions) == 1
    assert {(world.node(one.handle).assignment or {})["hub_token_secret"] for one in seen} == {name}


async def test_at_rest_nothing_is_called(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that sleeps would run into AWS's limits, and log errors all night."""
    calls: list[str] = []
    whole = world.provider._aws.call

    async def listen(service: str, operation: str, **more: Any) -> dict[str, Any]:
        calls.append(operation)
        return await whole(service, operation, **more)

    monkeypatch.setattr(world.provider._aws, "call", listen)
    quiet = 0
    for _ in range(1000):  # the first looks take as long as this machine lets them
        heard = len(calls)
        assert not await world.provider.observe()
        await asyncio.sleep(0.02)
        quiet = quiet + 1 if len(calls) == heard else 0
        if quiet == 100:
            return
    raise AssertionError(f"it never came to rest: {calls[-20:]}")


async def test_pools_of_one_stack_share_its_queues(world: AwsWorld) -> None:
    """One pool would throw away what the other's nodes say, and their wakes would hang."""
    stack = f"both{world.number}"
    seed = PoolSeed(max=2, boot_deadline=BOOT, lease=LEASE, drain=DRAIN)
    manifest = world.aws.seed_stack(stack, OURS, REGION, pools={"left": seed, "right": seed})
    with NodeFactory(world.aws, manifest):
        pools = [world.make(stack=stack, name=name) for name in ("left", "right")]
        await asyncio.gather(*(pool.scale(Desired({"one": 1}), frozenset()) for pool in pools))
        for pool in pools:
            assert ready(await world.until(ready, pool))
        for pool in pools:
            await pool.close()
        for group in (group for pool in manifest["pools"].values() for group in pool["groups"].values()):
            world.aws.client("autoscaling", REGION).set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=0)


async def test_closing_ends_what_was_doomed_without_waiting_for_it(world: AwsWorld) -> None:
    """Ctrl-C in the middle of a sleep would leave a machine to its lease: minutes that somebody pays."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    world.node(one.handle).plan = NodePlan(fault=Fault.AGENT_DEAD)
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    await world.provider.close()
    await eventually(lambda: not world.live(), 3.0)
    assert world.desired() == 0


async def test_an_aws_that_cannot_be_reached_is_told_and_not_waited_for_twice(
    world: AwsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper would hang in every round, and nobody would be told why."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false")
    provider = world.make()
    with pytest.raises(ProviderError, match="cannot be reached") as caught:
        await provider.observe()
    assert caught.value.reason is WakeFailure.UNREACHABLE
    began = time.monotonic()
    with pytest.raises(ProviderError, match="cannot be reached"):
        await provider.observe()
    assert time.monotonic() - began < 1.0


async def test_our_own_time_in_a_wake(world: AwsWorld, capsys: pytest.CaptureFixture[str]) -> None:
    """Measured, not asserted: what we add to what AWS and the node take. The report reads it."""
    plan = NodePlan(boot=0.3, mesh=0.1, pull=0.3, load=0.3)
    world.nodes.plan = plan
    pace = world.aws.pace
    await world.provider.observe()
    await world.provider._admission.authority()  # a keeper that runs has opened it long ago
    began = time.monotonic()
    await world.provider.scale(Desired({"one": 1}), frozenset())
    asked = time.monotonic()
    (one,) = await world.until(ready)
    total = time.monotonic() - began
    theirs = pace.launch + pace.pending + plan.boot + plan.mesh + plan.pull + plan.load
    spans = {stage.name: round((stage.ended_at or 0) - stage.started_at, 2) for stage in one.stages}
    over = total - sum(spans.values())
    ours = f"ours {total - theirs:.2f} s, {over:.2f} s of it outside of the stages; scale() {asked - began:.2f} s; {spans}"
    with capsys.disabled():
        print(f"\nwake on the emulator: {total:.2f} s, of which AWS and node {theirs:.2f} s, {ours}")


# --- helpers ------------------------------------------------------------------------------------------------------------------------------


async def eventually(met: Callable[[], bool], limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not met():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def eventually_async(ask: Callable[[], Awaitable[Quote | None]]) -> Quote:
    end = time.monotonic() + 10
    while (found := await ask()) is None or "spot price history" not in found.source or "score" not in found.source:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)
    return found


def assignments(world: AwsWorld) -> list[str]:
    answer = world.aws.client("s3", REGION).list_objects_v2(Bucket=world.manifest["bucket"], Prefix="nodes/")
    return [one["Key"] for one in answer.get("Contents") or () if one["Key"].endswith("assignment.json")]


def certificate_of(world: AwsWorld, handle: str) -> str:
    return world.aws.instance(world.instance(handle)).tags["lamplighter:certificates"].split("/")[0]


async def test_a_parting_machine_counts_for_nothing_and_lives_on_its_last_lease(world: AwsWorld) -> None:
    """Whoever still needs it for a moment may hang: neither may its successor wait for that, nor the bill."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (old,) = await world.until(ready)
    instance, node = world.instance(old.handle), world.node(old.handle)
    await world.provider.scale(Desired({"one": 1}), frozenset(), frozenset({old.handle}))
    await world.until(lambda seen: len([one for one in seen if one.endpoint is not None]) == 2)
    assert instance in world.live(), "it is not ended yet"
    await eventually_renewed(world, lambda: instance not in world.live())
    assert node.ended == "lease", "although a keeper renewed all the time"


async def test_a_parting_machine_ends_as_soon_as_it_is_released(world: AwsWorld) -> None:
    """A machine that nobody needs any more bills for as long as its last lease lasts."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    node = world.node(one.handle)
    await world.provider.scale(Desired({}), frozenset(), frozenset({one.handle}))
    await world.provider.release(frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen)
    assert not world.live()
    assert node.ended != "lease"


async def test_a_provider_that_closes_ends_what_was_parting(world: AwsWorld) -> None:
    """The keeper ends with everything that it was ending: the next one may never come."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    node = world.node(one.handle)
    await world.provider.scale(Desired({}), frozenset(), frozenset({one.handle}))
    await world.provider.close()
    await eventually(lambda: not world.live())
    assert node.ended != "lease"


async def eventually_renewed(world: AwsWorld, met: Callable[[], object]) -> None:
    """While a keeper goes on renewing."""
    end = time.monotonic() + 20
    while not met():
        assert time.monotonic() < end
        await world.provider.renew()
        await asyncio.sleep(0.2)
