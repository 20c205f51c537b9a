"""The parts of `up` that need no process of their own: the port, the banner, the supervision, the settings of `dev`."""

import asyncio
import json
import socket
from datetime import datetime
from itertools import pairwise

import pytest

from lamplighter.cli.announce import Announcement, Announcer
from lamplighter.cli.dev import configuration
from lamplighter.cli.fetching import _Lines
from lamplighter.cli.listen import is_public, listen, local_url
from lamplighter.cli.supervise import FIRST_PAUSE, LONGEST_PAUSE, WELL_AFTER, supervise
from lamplighter.config import FakePool
from lamplighter.core.errors import AlreadyRunning, ConfigError
from lamplighter.testing.clock import VirtualClock


def test_a_free_port_is_chosen_and_told() -> None:
    """`--port 0` is for tests and for machines with many of us."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert local_url(listener) == f"http://127.0.0.1:{port}"
        assert not is_public(listener)


def test_a_taken_port_names_itself_and_the_way_out() -> None:
    """The commonest failure of a first start."""
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(AlreadyRunning, match=f"port {port} on 127.0.0.1 is already in use") as caught:
            listen("127.0.0.1", port)
    assert "--port" in caught.value.next_step
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("host", "says"), [("no.such.host.invalid", "is not known"), ("192.0.2.1", "not an address of this machine")]
)
def test_an_impossible_address_is_a_sentence(host: str, says: str) -> None:
    """A typo in --host ends in words."""
    with pytest.raises(ConfigError, match=says):
        listen(host, 0)


def test_everywhere_is_public_and_reached_by_loopback() -> None:
    """The command line of the same machine cannot connect to 0.0.0.0."""
    with listen("0.0.0.0", 0) as listener:
        assert is_public(listener)
        assert local_url(listener).startswith("http://127.0.0.1:")


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_addresses_are_bracketed() -> None:
    """An IPv6 URL without brackets is none."""
    try:
        listener = listen("::1", 0)
    except ConfigError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener:
        assert local_url(listener).startswith("http://[::1]:")
        assert not is_public(listener)


async def test_a_crashed_part_is_started_again_less_and_less_eagerly() -> None:
    """A keeper that dies in silence would leave machines running and requests waiting."""
    clock, began = VirtualClock(), []

    async def dies() -> None:
        began.append(clock.monotonic())
        raise RuntimeError("oh")

    start = clock.monotonic()
    task = asyncio.create_task(supervise("part", dies, clock))
    await clock.advance(200)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gaps = [later - earlier for earlier, later in pairwise(began)]
    assert began[0] == start
    assert gaps[:3] == pytest.approx([FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE])
    assert gaps[-1] == pytest.approx(LONGEST_PAUSE)


async def test_a_part_that_lived_well_is_started_at_once() -> None:
    """One crash a day must not make the next start slow."""
    clock, began = VirtualClock(), []

    async def lives() -> None:
        began.append(clock.monotonic())
        if len(began) > 4:
            await clock.sleep(WELL_AFTER + 1)
        raise RuntimeError("oh")

    task = asyncio.create_task(supervise("part", lives, clock))
    await clock.advance(100)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert began[5] - began[4] == pytest.approx(WELL_AFTER + 1 + FIRST_PAUSE)


async def test_cancelling_ends_the_supervision() -> None:
    """The end of the process must not be taken for a crash."""
    clock = VirtualClock()

    async def runs() -> None:
        await clock.sleep(1e9)

    task = asyncio.create_task(supervise("part", runs, clock))
    await clock.advance(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


SAID = Announcement(
    url="http://127.0.0.1:8080", login="http://127.0.0.1:8080/#login=ll-t", first_key="lk-first", models=("small",), data="/d",
    config_file=None, public=True, note="Tiny.",
)  # fmt: skip


def test_the_banner_has_what_a_newcomer_pastes(capsys: pytest.CaptureFixture[str]) -> None:
    """The first key is shown once: it must be whole, with a snippet that works."""
    Announcer("text").started(SAID)
    out = capsys.readouterr().out
    assert "\n  lk-first\n" in out
    assert "curl http://127.0.0.1:8080/v1/chat/completions -H 'Authorization: Bearer lk-first'" in out
    assert 'OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="lk-first")' in out
    assert SAID.login is not None
    assert SAID.login in out
    assert "plain HTTP" in out
    assert "Tiny." in out
    body = out.split("-d '")[1].split("'")[0]
    assert json.loads(body)["model"] == "small"


def test_the_banner_in_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Log collectors read lines."""
    announcer = Announcer("json")
    announcer.started(SAID)
    announcer.problem("No network.", "Try again.")
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first)["login"] == SAID.login
    said = json.loads(second)
    assert list(said)[:3] == ["timestamp", "level", "event"], "the same columns as every other line"
    assert datetime.fromisoformat(said.pop("timestamp")).tzinfo is not None
    assert said == {"event": "No network.", "level": "error", "next_step": "Try again."}


def test_downloads_are_told_now_and_then_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log must not fill with a line for each packet, and must say the end."""
    now = 0
    lines = _Lines("model", clock=lambda: now / 10)
    for done in range(101):
        lines(done * 1_000_000, 100_000_000)
        now += 1
    lines(100_000_000, 100_000_000)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "model: 0 B of 100 MB (0%)",
        "model: 50.0 MB of 100 MB (50%), 10.0 MB/s, about 0:05 more",
        "model: 100 MB of 100 MB (100%)",
    ]


def test_dev_has_a_slow_model_and_a_quick_one() -> None:
    """Work on the page needs every stage, and a stand-in meanwhile."""
    config = configuration(speed=10, sleep_after="30s")
    cloud = config.pools["cloud"]
    assert isinstance(cloud, FakePool)
    assert list(cloud.stages) == ["capacity", "boot", "mesh", "pull", "load"]
    assert sum(cloud.stages.values()) == pytest.approx(4.0)
    assert config.models["big"].while_waking == "quick"
    with pytest.raises(ConfigError):
        configuration(sleep_after="soon")
