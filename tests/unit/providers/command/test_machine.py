"""When the machine is woken and put to sleep: on a virtual clock, with pretended commands and a pretended port."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config import CommandPool
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import LossReason
from lamplighter.providers.command import memory
from lamplighter.providers.command.commands import Mark, Outcome
from lamplighter.providers.command.machine import AGAIN_FIRST, GIVE_UP, LINGER, SETTLE, Machine, Reach
from lamplighter.testing.clock import VirtualClock


class Told:
    """Implements `Loading`."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.details: list[str | None] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def progress(self, share: float | None, detail: str | None) -> None:
        self.details.append(detail)


class World:
    """A machine whose commands take `takes` seconds and end as `codes` says (by verb; default 0). It boots in `boots` seconds."""

    def __init__(self, data: Path, **settings: Any) -> None:
        self.data = data
        self.clock = VirtualClock()
        self.config = CommandPool.model_validate(
            {
                "kind": "command",
                "url": "http://desk.lan:11434",
                "wake": "W",
                "sleep": ["S", "now"],
                "wake_every": "30s",
                **settings,
            }
        )
        self.reach = Reach.SILENT
        self.codes: dict[str, int | None] = {}
        self.takes: dict[str, float] = {}
        self.boots: float | None = 20.0
        self.obeys = True
        self.ran: list[str] = []
        self.running = 0
        self.most = 0
        self.commands: list[str | Sequence[str]] = []
        self.machine = self.make()

    def make(self) -> Machine:
        return Machine("desk", self.config, data=self.data, clock=self.clock, reach=self._reach, run=self._run)

    async def _reach(self, url: str) -> Reach:
        assert url == self.config.url
        return self.reach

    async def _run(
        self, command: str | Sequence[str], *, limit: float, told: Mapping[str, str], mark: Callable[[Mark | None], None]
    ) -> Outcome:
        verb = told["LAMPLIGHTER_COMMAND"]
        if verb == "running":
            return Outcome(0 if self.reach is not Reach.SILENT else 1)
        self.ran.append(verb)
        self.commands.append(command)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.clock.sleep(self.takes.get(verb, 1.0))
        finally:
            self.running -= 1
        code = self.codes.get(verb, 0)
        if self.obeys and verb == "wake" and code == 0 and self.boots is not None:
            asyncio.get_running_loop().create_task(self._boot(self.boots))
        if self.obeys and verb == "sleep":
            self.reach = Reach.SILENT
        return Outcome(code, "its words")

    async def _boot(self, seconds: float) -> None:
        await self.clock.sleep(seconds)
        self.reach = Reach.ANSWERS

    def kept(self) -> memory.Memory:
        return memory.read(memory.place(self.data, "desk"))

    def lost(self) -> LossReason | None:
        return None if self.machine.lost is None else self.machine.lost[0]

    async def awake(self) -> Told:
        told = Told()
        task = asyncio.create_task(self.machine.awaken(told))
        await self.clock.advance(60)
        await task
        return told

    async def pass_(self, seconds: float, *, in_use: bool = False, serving: bool = False) -> None:
        """Time goes by, and the provider looks every second."""
        for _ in range(round(seconds)):
            self.machine.tend(in_use=in_use, serving=serving)
            await self.clock.advance(1)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestWaking:
    """`awaken`."""

    async def test_the_command_runs_until_it_answers(self, world: World) -> None:
        """Wake-on-LAN is a packet without an answer: one that is lost would leave the machine asleep."""
        world.boots = None
        told = Told()
        task = asyncio.create_task(world.machine.awaken(told))
        await world.clock.advance(100)
        assert world.ran == ["wake"] * 4
        assert told.stages == ["start", "reachable"]
        world.reach = Reach.ANSWERS
        await world.clock.advance(1)
        await task
        assert world.commands[0] == "W"
        assert world.most == 1

    async def test_one_that_is_on_is_not_woken_and_not_ours(self, world: World) -> None:
        """A person at the machine would see it fall asleep under their hands."""
        world.reach = Reach.ANSWERS
        told = await world.awake()
        assert (world.ran, told.stages, world.machine.woken) == ([], ["start", "reachable"], False)
        await world.pass_(LINGER * 3)
        assert world.ran == []

    async def test_two_models_share_one_wake(self, world: World) -> None:
        """The command would run twice at once, which a smart plug answers by switching off again."""
        first, second = Told(), Told()
        one = asyncio.create_task(world.machine.awaken(first))
        await world.clock.advance(5)
        two = asyncio.create_task(world.machine.awaken(second))
        await world.clock.advance(5)
        one.cancel()
        await world.clock.advance(30)
        await two
        assert (world.ran, world.most) == (["wake"], 1)
        assert (first.stages, second.stages) == (["start", "reachable"], ["reachable"])

    async def test_the_last_that_leaves_ends_it(self, world: World) -> None:
        """The wake command would be repeated for ever for somebody who changed their mind."""
        world.boots = None
        task = asyncio.create_task(world.machine.awaken(Told()))
        await world.clock.advance(5)
        task.cancel()
        await world.clock.advance(120)
        assert world.ran == ["wake"]

    async def test_a_failing_command_is_told_and_leaves_no_promise(self, world: World) -> None:
        """Those who wait would wait for the whole deadline; and a machine that was never woken would be sent to sleep every minute."""
        world.codes["wake"] = 2
        task = asyncio.create_task(world.machine.awaken(Told()))
        await world.clock.advance(5)
        with pytest.raises(ProviderError, match="The wake command failed with exit status 2: its words"):
            await task
        assert not world.machine.woken
        assert world.kept().woken_at is None

    async def test_a_failing_repetition_is_only_told(self, world: World) -> None:
        """A plug that says "already on" would end the wake of a machine that is just coming up."""
        world.boots = 40
        told = Told()
        task = asyncio.create_task(world.machine.awaken(told))
        await world.clock.advance(10)
        world.codes["wake"] = 1
        await world.clock.advance(40)
        await task
        assert world.ran == ["wake", "wake"]
        assert told.details == ["The wake command failed with exit status 1: its words"]

    async def test_one_that_is_on_but_starts_its_engine_is_not_woken(self, tmp_path: Path) -> None:
        """With `running` a machine that boots by itself would be counted as woken by us, and put to sleep."""
        world = World(tmp_path, running="R")
        world.reach = Reach.REFUSES
        task = asyncio.create_task(world.machine.awaken(Told()))
        await world.clock.advance(60)
        world.reach = Reach.ANSWERS
        await world.clock.advance(1)
        await task
        assert (world.ran, world.machine.woken) == ([], False)


class TestSleeping:
    """`tend` and `close`."""

    async def test_it_sleeps_when_nothing_was_in_use_for_a_moment(self, world: World) -> None:
        """Between two models that take turns it would be switched off and on."""
        await world.awake()
        await world.pass_(300, in_use=True, serving=True)
        await world.pass_(LINGER - 2)
        await world.pass_(5, in_use=True)
        await world.pass_(LINGER - 2)
        assert world.ran == ["wake"]
        await world.pass_(10)
        assert world.ran == ["wake", "sleep"]
        assert world.commands[-1] == ("S", "now")
        await world.pass_(600)
        assert world.ran == ["wake", "sleep"]
        assert world.kept() == memory.Memory()

    async def test_the_promise_outlives_us(self, world: World) -> None:
        """After a crash the machine would be on until somebody pays the bill."""
        await world.awake()
        world.machine = world.make()
        assert world.machine.woken
        await world.pass_(LINGER + 5)
        assert world.ran == ["wake", "sleep"]

    async def test_we_die_while_the_wake_command_runs(self, world: World) -> None:
        """The machine would come up, and nobody know why."""
        world.takes["wake"] = 50
        task = asyncio.create_task(world.machine.awaken(Told()))
        await world.clock.advance(5)
        assert world.kept().woken_at is not None
        task.cancel()
        await asyncio.wait([task])

    async def test_an_ssh_that_is_cut_off_by_the_sleep_did_its_work(self, world: World) -> None:
        """`ssh desk systemctl suspend` often ends with 255, or hangs: it would be repeated on a machine that somebody switched on since."""
        await world.awake()
        for code in (255, None):
            world.machine = world.make()
            world.reach = Reach.ANSWERS
            world.codes["sleep"] = code
            await world.pass_(LINGER + 5)
            assert not world.machine.woken
            await world.awake()
        assert world.kept().failures == 0

    async def test_one_that_stays_on_is_asked_again_and_again_but_ever_more_seldom(self, world: World) -> None:
        """Somebody was logged in, and the command refused: the machine would be on all night. And the log must not be full of it."""
        await world.awake()
        world.obeys = False
        world.codes["sleep"] = 1
        await world.pass_(LINGER + SETTLE + 5)
        assert world.ran.count("sleep") == 1
        assert world.kept().trouble == "The sleep command failed with exit status 1: its words"
        await world.pass_(AGAIN_FIRST + SETTLE + 10)
        assert world.ran.count("sleep") == 2
        await world.pass_(3600)
        assert 4 < world.ran.count("sleep") < 9
        world.obeys = True
        await world.pass_(1000)
        assert not world.machine.woken
        assert world.kept().trouble is None

    async def test_one_that_does_not_answer_any_more_is_given_up(self, world: World) -> None:
        """Its owner pulled the plug: ssh would be tried for ever."""
        await world.awake()
        world.obeys, world.reach, world.codes["sleep"] = False, Reach.SILENT, 255
        await world.pass_(4000)
        assert world.ran.count("sleep") == GIVE_UP
        assert not world.machine.woken
        assert world.kept().trouble

    async def test_a_request_while_it_falls_asleep_waits_and_wakes_it(self, world: World) -> None:
        """It still answers for a moment: the request would be sent to a machine that is gone a second later."""
        await world.awake()
        world.takes["sleep"] = 8
        await world.pass_(LINGER + 3)
        assert world.ran == ["wake", "sleep"]
        assert world.reach is Reach.ANSWERS
        told = Told()
        task = asyncio.create_task(world.machine.awaken(told))
        await world.pass_(40, in_use=True)
        await task
        assert world.ran == ["wake", "sleep", "wake"]
        assert world.most == 1
        assert world.machine.woken

    async def test_leaving_sleeps_what_nobody_uses_and_nothing_else(self, world: World) -> None:
        """Ctrl-C would leave the machine on; a restart would put it to sleep under a model that goes on."""
        await world.awake()
        await world.machine.close(in_use=True)
        assert world.ran == ["wake"]
        world.machine = world.make()
        task = asyncio.create_task(world.machine.close(in_use=False))
        await world.clock.advance(5)
        await task
        assert world.ran == ["wake", "sleep"]
        assert world.kept() == memory.Memory()

    async def test_leaving_waits_for_a_sleep_under_way(self, world: World) -> None:
        """Its command would be cut off half-way, or run twice."""
        await world.awake()
        world.takes["sleep"] = 20
        await world.pass_(LINGER + 3)
        task = asyncio.create_task(world.machine.close(in_use=False))
        await world.clock.advance(60)
        await task
        assert world.ran == ["wake", "sleep"]


class TestWatching:
    """`lost`."""

    async def test_an_engine_that_ended_is_lost_soon(self, world: World) -> None:
        """Requests would be sent for a minute to a port where nothing listens."""
        await world.awake()
        await world.pass_(5, in_use=True, serving=True)
        assert world.lost() is None
        world.reach = Reach.REFUSES
        await world.pass_(8, in_use=True, serving=True)
        assert world.lost() is LossReason.CRASHED

    async def test_a_link_that_is_cut_for_a_moment_loses_nothing(self, world: World) -> None:
        """A hiccup of the Wi-Fi would end every answer."""
        await world.awake()
        world.reach = Reach.SILENT
        await world.pass_(10, in_use=True, serving=True)
        assert world.lost() is None
        world.reach = Reach.ANSWERS
        await world.pass_(10, in_use=True, serving=True)
        world.reach = Reach.SILENT
        await world.pass_(20, in_use=True, serving=True)
        assert world.lost() is LossReason.VANISHED


def test_a_file_that_makes_no_sense_is_no_promise(tmp_path: Path) -> None:
    """A damaged file would keep Lamplighter from starting."""
    file = memory.place(tmp_path, "desk")
    assert memory.read(file) == memory.Memory()
    memory.write(file, memory.Memory(woken_at=1.0, command=Mark(1, 2.0)))
    assert memory.read(file) == memory.Memory(woken_at=1.0, command=Mark(1, 2.0))
    assert file.stat().st_mode & 0o077 == 0
    for text in ("", "[]", "{}", json.dumps({"version": 2}), json.dumps({"version": 1, "command": None, "unknown": 1})):
        file.write_text(text)
        assert memory.read(file) == memory.Memory()
