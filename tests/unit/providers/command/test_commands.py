"""Running a user's command: how it ends, what it says, what it gets to know, and that nothing of it stays."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lamplighter.providers.command import commands
from lamplighter.providers.command.commands import KEPT, Mark, Outcome, end_left_over


async def run(command: str | Sequence[str], limit: float = 20, marks: list[Mark | None] | None = None) -> Outcome:
    seen: list[Mark | None] = [] if marks is None else marks
    return await commands.run(command, limit=limit, told={"LAMPLIGHTER_POOL": "desk"}, mark=seen.append)


def alive(words: str) -> bool:
    return any(words in " ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))


async def gone(*words: str) -> None:
    """A killed process of somebody else's is gone in a moment, not at once."""
    for _ in range(250):
        if not any(alive(one) for one in words):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"still there: {words}")


async def test_a_text_goes_to_the_shell_and_words_do_not() -> None:
    """`ssh desk && …` would be one unknown program; a word with a space or a `;` would become a command."""
    assert (await run("printf a; printf b && exit 4")) == Outcome(4, "ab")
    assert (await run(["printf", "%s|", "a b", ";", "$HOME"])).words == "a b|;|$HOME|"


async def test_both_outputs_are_told_but_only_their_end() -> None:
    """The reason stands in the last lines, on standard error as often as not; a talkative command must not fill our memory."""
    found = await run(
        f"head -c {20 * KEPT} /dev/zero | tr '\\0' x; echo; echo one; echo two >&2; printf '\\033[31mred\\033[0m\\007\\n'; false"
    )
    assert found.code == 1
    assert found.words == "one / two / red"


async def test_a_program_that_is_not_there_is_named() -> None:
    """A person would see only that something failed."""
    found = await run(["no-such-wakeonlan", "x"])
    assert (found.code, found.words) == (127, "no-such-wakeonlan: No such file or directory")
    assert "no-such-wakeonlan" in found.told("wake", 60)
    assert "exit status 127" in (await run("no-such-wakeonlan x")).told("wake", 60)


async def test_it_gets_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script of somebody else's would read the admin key, the hub's token and the cloud's."""
    for name in ("LAMPLIGHTER_ADMIN_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DESK_KEY"):
        monkeypatch.setenv(name, "secret-value")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    said = (await run("env | grep -c secret-value; echo $SSH_AUTH_SOCK $LAMPLIGHTER_POOL")).words
    assert said == "0 / /run/agent desk"


async def test_it_can_ask_nobody_anything() -> None:
    """An ssh that asks for a password would take the terminal that Lamplighter was started in, or hang until its limit."""
    assert await run("cat; tty") == Outcome(1, "not a tty")


async def test_one_that_takes_too_long_is_killed_with_all_that_it_started() -> None:
    """ssh processes would pile up, one every minute."""
    began = time.monotonic()
    found = await run("trap '' TERM; echo trying; sleep 311 & sleep 312", limit=0.3)
    assert found == Outcome(None, "trying")
    assert found.told("sleep", 0.3) == "The sleep command did not end within 0.3 s and was killed: trying"
    assert time.monotonic() - began < 6
    await gone("sleep 311", "sleep 312")


async def test_one_that_is_called_off_is_killed_too() -> None:
    """A wake that nobody wants any more would still happen, minutes later."""
    task = asyncio.create_task(run("sleep 313 & sleep 314"))
    while not alive("sleep 314"):  # noqa: ASYNC110 - a process sets no event
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await gone("sleep 313", "sleep 314")


async def test_what_it_leaves_in_the_background_is_not_waited_for() -> None:
    """A wake script that starts something would look as if it hung."""
    began = time.monotonic()
    assert (await run("sleep 3 & echo done")) == Outcome(0, "done")
    assert time.monotonic() - began < 2


async def test_a_command_that_a_killed_lamplighter_left_is_ended_by_the_next(tmp_path: Path) -> None:
    """Two wake commands would run at once."""
    marks: list[Mark | None] = []
    task = asyncio.create_task(run("sleep 315", marks=marks))
    while not marks:  # noqa: ASYNC110 - likewise
        await asyncio.sleep(0.02)
    (mark,) = marks
    assert mark is not None
    assert not end_left_over(replace(mark, created=mark.created - 5)), "the number belongs to another process now"
    assert end_left_over(mark)
    assert (await task).told("wake", 60) == "The wake command was ended by signal 9."
    assert marks[-1] is None
    assert not end_left_over(mark)


async def test_no_descriptor_is_left_open() -> None:
    """After a few thousand wakes nothing could be opened any more."""
    await run("true")
    before = psutil.Process().num_fds()
    for _ in range(5):
        await run("echo x")
        await run(["no-such-program"])
    await asyncio.sleep(0)
    assert psutil.Process().num_fds() <= before
