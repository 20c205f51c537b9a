"""`engines.sources.download`, against real sockets."""

import asyncio
import errno
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources.download import Target, client, download, room_for
from tests.unit.engines.origin import Origin

CONTENT = bytes(range(256)) * 2000
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin({"/model": CONTENT}) as server:
        yield server


class Fetch:
    """One download of the origin's file, in a thread; remembers what it told and how long it would have slept."""

    def __init__(self, origin: Origin, part: Path) -> None:
        self.origin = origin
        self.part = part
        self.told: list[tuple[int, int | None]] = []
        self.slept: list[float] = []

    async def __call__(self, path: str = "/model", **options: Any) -> None:
        def run() -> None:
            with client() as http:
                options.setdefault("progress", lambda done, total: self.told.append((done, total)))
                download(
                    http,
                    lambda: Target(f"{self.origin.url}{path}"),
                    self.part,
                    what="the model",
                    sleep=self.slept.append,
                    **options,
                )

        await asyncio.to_thread(run)


@pytest.fixture
def fetch(origin: Origin, tmp_path: Path) -> Fetch:
    return Fetch(origin, tmp_path / "deep" / "model.part")


async def test_a_whole_file_comes_with_progress(fetch: Fetch) -> None:
    """No model, or a bar that never moves."""
    await fetch(size=len(CONTENT), sha256=SHA)
    assert fetch.part.read_bytes() == CONTENT
    assert fetch.told[0] == (0, len(CONTENT))
    assert fetch.told[-1] == (len(CONTENT), len(CONTENT))


async def test_a_part_is_resumed(fetch: Fetch) -> None:
    """Gigabytes would be fetched again after every interruption."""
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:1000])
    await fetch(size=len(CONTENT), sha256=SHA)
    assert fetch.part.read_bytes() == CONTENT
    assert fetch.origin.seen[0].headers["range"] == "bytes=1000-"
    assert fetch.told[0] == (1000, len(CONTENT))


async def test_broken_connections_are_continued(fetch: Fetch) -> None:
    """One hiccup of the network would end a download of an hour."""
    fetch.origin.breaks = [10_000] * 8  # more often than it would try without any progress
    await fetch(size=len(CONTENT), sha256=SHA)
    assert fetch.part.read_bytes() == CONTENT
    assert len(fetch.slept) == 8


async def test_a_server_without_ranges_starts_again(fetch: Fetch) -> None:
    """The file would be glued together wrongly."""
    fetch.origin.ranges = False
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(b"x" * 500)
    await fetch(size=len(CONTENT), sha256=SHA)
    assert fetch.part.read_bytes() == CONTENT


async def test_a_complete_part_needs_no_bytes(fetch: Fetch) -> None:
    """A kill between the last byte and the rename must not cost the whole download."""
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT)
    await fetch(sha256=SHA)  # its size is not known: the server says 416
    await fetch(size=len(CONTENT), sha256=SHA)
    assert [request.headers.get("range") for request in fetch.origin.seen] == [f"bytes={len(CONTENT)}-"]


async def test_a_part_of_another_file_is_thrown_away(fetch: Fetch) -> None:
    """After a new version upstream the download would fail for ever."""
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(b"other" * 100)
    await fetch(size=len(CONTENT), sha256=SHA)
    assert fetch.part.read_bytes() == CONTENT
    fetch.part.write_bytes(CONTENT + b"longer")
    await fetch(size=len(CONTENT), sha256=SHA)
    assert fetch.part.read_bytes() == CONTENT


async def test_a_wrong_checksum_is_refused(fetch: Fetch) -> None:
    """A tampered mirror would run its own weights on the person's machine."""
    with pytest.raises(SourceError, match="checksum") as caught:
        await fetch(size=len(CONTENT), sha256="0" * 64)
    assert caught.value.reason is WakeFailure.DOWNLOAD_FAILED
    assert not fetch.part.exists()


@pytest.mark.parametrize(
    ("status", "reason", "tries"),
    [
        (401, WakeFailure.GATED_MODEL, 1),
        (403, WakeFailure.GATED_MODEL, 1),
        (404, WakeFailure.MODEL_NOT_FOUND, 1),
        (410, WakeFailure.MODEL_NOT_FOUND, 1),
        (429, WakeFailure.DOWNLOAD_FAILED, 5),
        (500, WakeFailure.DOWNLOAD_FAILED, 5),
        (503, WakeFailure.DOWNLOAD_FAILED, 5),
    ],
)
async def test_statuses_have_their_reason(fetch: Fetch, status: int, reason: WakeFailure, tries: int) -> None:
    """The person would be told to check the network when a licence must be accepted, and the wake repeated in vain."""
    fetch.origin.statuses = [status] * 10
    with pytest.raises(SourceError) as caught:
        await fetch()
    assert caught.value.reason is reason
    assert len(fetch.origin.seen) == tries
    assert "the model" in caught.value.message


async def test_a_busy_server_is_asked_again_as_it_wishes(fetch: Fetch) -> None:
    """Hubs answer 429 to the impatient."""
    fetch.origin.statuses = [503, 429]
    await fetch(sha256=SHA)
    assert all(seconds >= 1 for seconds in fetch.slept)


async def test_nothing_listening_is_no_network(fetch: Fetch) -> None:
    """ "No network" is the most frequent failure of a first start: it must read like that."""
    await fetch.origin.server.stop()
    with pytest.raises(SourceError, match="cannot be reached") as caught:
        await fetch()
    assert caught.value.reason is WakeFailure.DOWNLOAD_FAILED


async def test_a_full_disk_is_named(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person would look at the network."""

    def full(done: int, total: int | None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SourceError, match="disk became full") as caught:
        await fetch(progress=full)
    assert caught.value.reason is WakeFailure.DISK_FULL
    usage = shutil.disk_usage(fetch.part.parent)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(SourceError, match="free") as caught:
        await fetch(size=len(CONTENT))
    assert caught.value.reason is WakeFailure.DISK_FULL
    with pytest.raises(SourceError):
        room_for(fetch.part.parent, 1, "It")


async def test_giving_up_keeps_the_part(fetch: Fetch) -> None:
    """Ctrl-C during the first start would throw away what was fetched."""

    class Stopped(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        if done:
            raise Stopped

    with pytest.raises(Stopped):
        await fetch(progress=stop)
    assert fetch.part.stat().st_size > 0
    await fetch(size=len(CONTENT), sha256=SHA)


def test_a_wrong_certificate_file_is_named(tmp_path: Path) -> None:
    """A mistyped path in pip's settings would show as a traceback."""
    with pytest.raises(SourceError, match="certificate"):
        client(str(tmp_path / "missing.pem"))
