"""What a reader is told: nothing twice, nothing lost, and not every step when it is far behind."""

from collections.abc import Sequence

import pytest

from lamplighter.gateway.chat.log import BEHIND, Log, Snapshot, ended
from lamplighter.store.generations import Event


def _applied(pieces: Sequence[Event | Snapshot], after: int = 0, text: str = "") -> tuple[int, str]:
    """As the page applies them: duplicates dropped, a gap is a failure."""
    for piece in pieces:
        if isinstance(piece, Snapshot):
            if piece.seq > after:
                after, text = piece.seq, piece.text
            continue
        assert piece.seq == after + 1
        after = piece.seq
        text += piece.data.get("text", "")
    return after, text


def _long(count: int) -> Log:
    log = Log()
    log.append("wake", {"id": "wak"})
    log.append("wake", {"woke_in": 1.0})
    for number in range(count):
        log.append("delta", {"text": f"{number} "})
    return log


def test_a_reader_goes_on_from_any_point() -> None:
    """If this fails, resuming repeats or skips words."""
    log = _long(20)
    whole = _applied(log.since(0))
    for after in range(log.seq + 1):
        seen, text = _applied(log.between(0)[:after])
        assert _applied(log.since(after), seen, text) == whole
    assert log.since(log.seq) == []


def test_a_reader_far_behind_gets_a_snapshot_and_the_end_of_the_wake() -> None:
    """If this fails, a slow reader is sent thousands of frames, or its wake card never closes."""
    log = _long(BEHIND * 4)
    log.append("usage", {})
    log.append("done", {"status": "done"})
    told = log.since(0)
    assert len(told) < 8
    assert any(isinstance(piece, Event) and "woke_in" in piece.data for piece in told)
    assert isinstance(told[-1], Event)
    assert told[-1].kind == "done"
    assert _applied(told) == (log.seq, log.text)
    in_the_middle = log.since(10)
    assert not any(isinstance(piece, Event) and piece.kind == "wake" for piece in in_the_middle)
    assert _applied(in_the_middle, 10, "whatever") == (log.seq, log.text)


def test_a_long_wake_is_told_by_its_newest_state() -> None:
    """If this fails, a wake with much progress cannot be followed after a reconnect."""
    log = Log()
    for number in range(BEHIND * 2):
        log.append("wake", {"id": "wak", "n": number})
    told = log.since(0)
    assert _applied(told) == (log.seq, "")
    assert [piece.data["n"] for piece in told if isinstance(piece, Event)] == [BEHIND * 2 - 1]


@pytest.mark.parametrize(("after", "pieces"), [(0, 2), (5, 2), (8, 2), (9, 1), (10, 0), (11, 0)])
def test_an_ended_generation_has_its_text_and_its_end(after: int, pieces: int) -> None:
    """If this fails, an answer that ended while the page was away stays half written."""
    log = ended(seq=10, text="All of it", data={"status": "done"})
    assert log.done
    told = log.since(after)
    assert len(told) == pieces
    if pieces == 2:
        assert told[0] == Snapshot(9, "All of it")


def test_readers_are_called_until_they_leave() -> None:
    """If this fails, tails go deaf, or an answer nobody reads counts as read for ever."""
    log, calls = Log(), []

    def reader() -> None:
        calls.append(log.seq)

    log.watch(reader)
    assert log.watched
    log.append("delta", {"text": "a"})
    log.unwatch(reader)
    log.unwatch(reader)
    log.append("delta", {"text": "b"})
    assert calls == [1]
    assert not log.watched
