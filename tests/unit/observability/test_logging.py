"""Log lines: readable for people, parseable for programs, and free of secrets."""

import asyncio
import io
import json
import logging as standard
from collections.abc import Iterator

import pytest
import structlog

from lamplighter.observability import logging
from lamplighter.observability.logging import AccessLog
from lamplighter.testing.clock import START, VirtualClock


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = standard.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def line(log: AccessLog, **more: object) -> None:
    fields = {
        "request_id": "req_1", "route": "chat", "model": "big", "status": 200, "seconds": 1.5, "first": 0.25, "held": None,
        "prompt_tokens": 3, "completion_tokens": 5, "key_id": "key_1", "outcome": "ok",
    }  # fmt: skip
    log.line(**{**fields, **more})  # type: ignore[arg-type] # values are of many types


async def test_access_lines_in_json_are_json() -> None:
    """Log shippers would drop the lines."""
    written: list[str] = []
    log = AccessLog(VirtualClock(), format="json", write=written.append)
    line(log)
    line(log, held=2.5, first=None, prompt_tokens=None, client="203.0.113.7")
    log.flush()
    one, other = (json.loads(text) for text in "".join(written).splitlines())
    assert one["timestamp"].startswith("2026-")
    assert (one["status"], one["prompt_tokens"], one["first_token_seconds"]) == (200, 3, 0.25)
    assert other["held_seconds"] == 2.5
    assert other["client"] == "203.0.113.7"
    assert "client" not in one
    assert "prompt_tokens" not in other


async def test_access_lines_for_people_are_one_line_each() -> None:
    """A person could not read what happened."""
    written: list[str] = []
    log = AccessLog(VirtualClock(START), write=written.append)
    line(log, held=2.0, client="203.0.113.7")
    log.flush()
    assert (
        "[request] 200 chat model=big ok 1500.0ms first=250.0ms held=2.0s tokens=3+5 client=203.0.113.7 key=key_1 id=req_1\n"
        in written[0]
    )


async def test_access_lines_are_written_soon_and_together() -> None:
    """Lines would be lost in memory, or each cost a system call."""
    written: list[str] = []
    log = AccessLog(VirtualClock(), write=written.append)
    for _ in range(10):
        line(log)
    assert not written
    for _ in range(100):
        await asyncio.sleep(0.01)
        if written:
            break
    assert len(written) == 1
    assert written[0].count("\n") == 10


@pytest.mark.parametrize("format", ["text", "json"])
def test_all_loggers_come_out_the_same_way(format: str) -> None:
    """A library's warning would break the stream of JSON lines, or vanish."""
    out = io.StringIO()
    logging.configure(format=format, level="info", stream=out)
    structlog.get_logger("ours").info("something happened", count=3)
    structlog.get_logger("ours").debug("too quiet")
    standard.getLogger("library").warning("careful %s", "now")
    standard.getLogger("library").info("chatter")
    text = out.getvalue()
    assert "too quiet" not in text
    assert "chatter" not in text
    if format == "json":
        first, second = (json.loads(item) for item in text.splitlines())
        assert (first["event"], first["count"], first["level"]) == ("something happened", 3, "info")
        assert second["event"] == "careful now"
    else:
        assert "something happened" in text
        assert "careful now" in text


def test_exceptions_are_one_json_line() -> None:
    """A traceback would be torn into dozens of lines that nobody can join."""
    out = io.StringIO()
    logging.configure(format="json", stream=out)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("it failed")
    (only,) = out.getvalue().splitlines()
    assert "broken" in only
    assert json.loads(only)["event"] == "it failed"


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_traceback_tells_no_local_variables(format: str) -> None:
    """A defect would write the prompts and keys of the requests that meet it into the log."""
    out = io.StringIO()
    logging.configure(format=format, stream=out)
    try:
        secret = "a prompt " + "nobody may read"
        raise ValueError(f"{len(secret)} characters")
    except ValueError:
        structlog.get_logger().exception("a request failed")
    assert "ValueError" in out.getvalue()
    assert "nobody may read" not in out.getvalue().replace('"a prompt " + "nobody may read"', "")
