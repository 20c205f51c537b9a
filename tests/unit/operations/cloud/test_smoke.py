"""The proof on a real account, here with a pretended AWS and a pretended server: what it does, writes down, and never leaves behind."""

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from lamplighter.config import Config
from lamplighter.operations.client import Client
from lamplighter.operations.cloud import smoke
from lamplighter.operations.cloud.errors import CloudError, Refused
from lamplighter.operations.cloud.smoke import Prover, Transcript, markdown, terms
from lamplighter.operations.cloud.stacks import stacks
from lamplighter.providers.aws import account, inventory
from lamplighter.testing.aws import Emulator
from tests.unit.operations.cloud.conftest import INSTALLATION

REGION = "eu-central-1"
GROUP = "lamplighter-spot-spot"


class Server:
    """A Lamplighter that wakes one machine by a request and ends it when told to sleep, unless it is `broken` or `deaf`."""

    def __init__(self, aws: Emulator, *, broken: bool = False, deaf: bool = False) -> None:
        self.aws, self.broken, self.deaf, self.state, self.slept = aws, broken, deaf, "asleep", 0

    def client(self) -> Client:
        return Client("http://127.0.0.1:1", "key", transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/chat/completions":
            self.want(1)
            self.state = "waking"
            if self.broken:
                return httpx.Response(503, json={"error": {"message": "The machine booted but did not join the mesh in time."}})
            self.state = "awake"
            return httpx.Response(200, stream=Words())
        if request.url.path.endswith("/sleep"):
            self.slept += 1
            if not self.deaf:
                self.want(0)
                self.state = "asleep"
            return httpx.Response(200, json={})
        stages = [{"name": "boot", "started_at": 10.0, "ended_at": 40.5, "progress": None, "detail": None}]
        wake = {"stages": stages, "started_at": 10.0, "eta": None}
        return httpx.Response(
            200, json={"now": time.time(), "models": [{"name": "llama", "state": self.state, "wake": wake}], "pools": []}
        )

    def want(self, count: int) -> None:
        self.aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=count)
        self.aws.advance(1)


class Words(httpx.SyncByteStream):
    """Heartbeats, then an answer."""

    def __iter__(self) -> Iterator[bytes]:
        yield b": waking\n\n"
        for word in ("Yes", "."):
            yield f"data: {json.dumps({'choices': [{'delta': {'content': word}}]})}\n\n".encode()
        yield b"data: [DONE]\n\n"


def prover(aws: Emulator, server: Server, config: Config) -> tuple[Prover, Transcript]:
    (stack,) = stacks(config)
    agreed, price = terms(stack, "spot", Decimal(5))
    seen = Transcript(stack, "spot", "llama", account.identity(REGION), price, agreed, time.time())
    passed = [0.0]

    def pause(seconds: float) -> None:
        passed[0] += seconds
        aws.advance(seconds)
        time.sleep(0.01)  # the request is in a thread of its own

    return Prover(server.client(), seen, INSTALLATION, lambda _: None, pause=pause, now=lambda: time.time() + passed[0]), seen


def test_a_proof_goes_from_nothing_to_nothing(aws: Emulator, built: dict[str, Any], config: Config) -> None:
    """The transcript is what people believe: it must hold the token, the machine, the price and AWS's word that all is gone."""
    running, seen = prover(aws, Server(aws), config)
    running.run()
    assert seen.worked
    assert seen.answer == "Yes."
    assert len(seen.machines) == 1
    assert Decimal(0) < seen.cost < Decimal("0.1")
    assert inventory.running(REGION, INSTALLATION) == ()
    text = markdown(seen)
    assert "EMULATED AWS: this proves nothing of AWS itself" in text
    assert "| gone, as AWS says | yes |" in text
    assert "| boot | 30.5 |" in text
    assert "123456789012" not in text, "an account's number does not belong into a document"


@pytest.mark.parametrize("server", [{"broken": True}, {"deaf": True}, {"broken": True, "deaf": True}])
def test_whatever_fails_nothing_is_left_running(
    aws: Emulator, built: dict[str, Any], config: Config, server: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof that leaves a GPU running would cost more than what it proves."""
    monkeypatch.setattr(smoke, "_ASLEEP_LIMIT", 20.0)
    running, seen = prover(aws, Server(aws, **server), config)
    running.run()
    assert not seen.worked
    assert seen.proven
    assert inventory.running(REGION, INSTALLATION) == ()
    groups = aws.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert [group["DesiredCapacity"] for group in groups] == [0, 0]
    assert "It did NOT work" in markdown(seen)


def test_a_proof_begins_with_nothing(aws: Emulator, built: dict[str, Any], config: Config) -> None:
    """Else it would prove that somebody else's wake worked, and end their machine."""
    server = Server(aws)
    server.want(1)
    running, _ = prover(aws, server, config)
    with pytest.raises(CloudError, match="begins with nothing"):
        running.run()
    assert len(inventory.running(REGION, INSTALLATION)) == 1


def test_the_worst_case_is_what_counts(aws: Emulator, built: dict[str, Any], config: Config) -> None:
    """`a few cents` holds when it goes well; the limit is for when it does not."""
    (stack,) = stacks(config)
    agreed, _ = terms(stack, "spot", Decimal(5))
    seconds = 600 + 120 + 900  # boot_deadline, drain, and the time that its end may take
    assert agreed.worst == agreed.hourly * seconds / 3600
    with pytest.raises(Refused, match="more than --at-most"):
        terms(stack, "spot", agreed.worst - Decimal("0.01"))
