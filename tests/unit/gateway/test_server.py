"""The server's side of HTTP: odd, slow and hostile clients, byte by byte."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from lamplighter.gateway import server
from lamplighter.gateway.inference.dialects.openai import OpenAIDialect
from lamplighter.testing.engine import FakeEngine
from tests.unit.gateway.harness import KEY, Rig, config_of, events, question, raw_post, running

BODY = json.dumps(question()).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: +5\r\n",
        b"content-length: 5, 5\r\n",
        b"content-length: -1\r\n",
        b"content-length: 0x5\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding : chunked\r\n",
        b"content-length\t: 5\r\n",
        b" content-length: 5\r\n",
        b"x: a\x00b\r\n",
        b"x: a\nb: c\r\n",
    ],
)
async def test_ambiguous_requests_are_refused(head: bytes) -> None:
    """A second request could be smuggled past a proxy in front of us, and be answered to somebody else."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        smuggled = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        answer = await rig.raw(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n%b\r\n0\r\n\r\n%b"
            % (KEY.encode(), head, smuggled)
        )
        assert answer == b"" or status(answer) in {400, 413, 408}
        assert b'"object":"list"' not in answer
        assert engine.counters.requests == 0


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"HELLO / HTTP/9\r\n\r\n"]
)
async def test_garbage_ends_the_connection_and_nothing_else(garbage: bytes) -> None:
    """A port scan or a TLS client would take the gateway down."""
    async with running() as rig:
        answer = await rig.raw(garbage)
        assert answer == b"" or status(answer) == 400
        assert (await rig.client.get("/health")).status_code == 200


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Answers would be mixed up between requests on one connection."""
    async with FakeEngine(tokens=1) as engine, running() as rig:
        await rig.ready(engine.url)
        both = raw_post(BODY, extra=b"x-request-id: one\r\n") + raw_post(BODY, extra=b"x-request-id: two\r\n")
        answer = await rig.raw(both, more=1.0)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert answer.index(b"x-request-id: one") < answer.index(b"x-request-id: two")
        await rig.until_idle()


async def test_a_vanished_client_with_pipelined_requests_leaves_nothing() -> None:
    """Requests of a client that is gone would go on working in the engine."""
    async with FakeEngine(tokens=10_000, tokens_per_second=100) as engine, running() as rig:
        await rig.ready(engine.url)
        long = raw_post(json.dumps(question(stream=True, max_tokens=10_000)).encode())
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(long + long)
        await reader.readuntil(b"data:")
        writer.transport.abort()
        await rig.until_idle()
        for _ in range(200):
            if engine.counters.cancelled:
                break
            await asyncio.sleep(0.01)
        assert engine.counters.requests == 1
        assert engine.counters.cancelled == 1


async def test_http_1_0_gets_no_chunks() -> None:
    """An old client would read chunk sizes as part of the answer."""
    async with FakeEngine(tokens=3) as engine, running() as rig:
        await rig.ready(engine.url)
        body = json.dumps(question(stream=True)).encode()
        answer = await rig.raw(raw_post(body).replace(b"HTTP/1.1", b"HTTP/1.0", 1), more=1.0)
        head, _, text = answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert events(text.decode())[-1] == "[DONE]"


async def test_continue_is_sent_only_when_the_body_is_wanted() -> None:
    """A client that asks first would send a body that is refused, or wait for ever."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        head, _, body = raw_post(BODY, extra=b"expect: 100-continue\r\n").partition(b"\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        refused = await rig.raw(head.replace(KEY.encode(), b"wrong") + b"\r\n\r\n", more=2.5)
        assert status(refused) == 401
        large = head.replace(b"content-length: %d" % len(body), b"content-length: 999999999")
        assert status(await rig.raw(large + b"\r\n\r\n", more=2.5)) == 413


async def test_a_body_of_100_mb_is_refused_early_and_readably() -> None:
    """Memory would fill, or the client would see a broken connection instead of 413."""
    async with running() as rig:
        for chunked in (False, True):
            began = time.monotonic()
            if chunked:
                answer = await rig.client.post("/v1/chat/completions", content=_pieces())
            else:
                answer = await rig.client.post("/v1/chat/completions", content=b"x" * 100_000_000)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "body_too_large"
            assert time.monotonic() - began < 15


async def _pieces() -> AsyncIterator[bytes]:
    for _ in range(1600):
        yield b"x" * 65536


async def test_a_body_that_never_comes_gets_408() -> None:
    """A client that stops sending would hold its request for ever."""
    async with running(config_of(gateway={"body_timeout": "200ms"})) as rig:
        answer = await rig.raw(raw_post(BODY)[:-10], more=4)
        assert status(answer) == 408
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_timeout"


async def test_a_client_that_leaves_while_sending_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The log would fill with tracebacks of ordinary departures."""
    async with running() as rig:
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(raw_post(BODY)[:-10])
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await asyncio.sleep(0.1)
        await rig.until_idle()
    assert "Traceback" not in caplog.text


async def test_headers_are_bounded_in_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless or dripping headers would hold memory and sockets."""
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    async with running() as rig:
        answer = await rig.raw(b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 300_000)
        assert answer == b"" or status(answer) in {400, 431}
        for drip in (b"", b"GET /health HTTP/1.1\r\nhost:"):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(drip)
            assert await asyncio.wait_for(reader.read(), 2) == b""
            writer.close()
        assert (await rig.client.get("/health")).status_code == 200


async def test_compressed_bodies_are_refused_plainly() -> None:
    """A compressed body would be called malformed JSON."""
    async with running() as rig:
        answer = await rig.client.post("/v1/chat/completions", content=b"x", headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8", None])
async def test_any_content_type_is_taken(kind: str | None) -> None:
    """`curl -d` without a header would be refused."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        headers = {"content-type": kind} if kind else {}
        assert (await rig.client.post("/v1/chat/completions", content=BODY, headers=headers)).status_code == 200


async def test_a_wrong_key_does_not_cost_the_connection() -> None:
    """A client that corrects its key would reconnect for nothing; one that does not would still get its answer."""
    async with running() as rig:
        wrong = raw_post(BODY, key="lk-wrong")
        answer = await rig.raw(wrong + wrong, more=1.0)
        assert answer.count(b"HTTP/1.1 401") == 2


async def _many(rig: Rig, count: int) -> list[int]:
    answers = await asyncio.gather(*(rig.chat(stream=index % 2 == 0) for index in range(count)))
    return [answer.status_code for answer in answers]


async def test_many_at_once_all_get_their_own_answer() -> None:
    """Under load, counts or connections would leak."""
    async with (
        FakeEngine(tokens=20) as engine,
        running(config_of(gateway={"max_upstream_connections": 8, "max_held": 200})) as rig,
    ):
        await rig.ready(engine.url)
        assert set(await _many(rig, 120)) == {200}
        assert engine.counters.peak <= 8
        await rig.until_idle()


async def test_pipelined_requests_of_all_kinds_are_answered_in_order() -> None:
    """An answer of the control API, or a refusal, would overtake the answer of a model, and be taken for it."""
    async with FakeEngine(tokens=5, tokens_per_second=50) as engine, running() as rig:
        await rig.ready(engine.url)

        def get(path: bytes, name: bytes) -> bytes:
            return b"GET %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nx-request-id: %b\r\n\r\n" % (
                path,
                KEY.encode(),
                name,
            )

        sent = [
            get(b"/v1/models", b"one"),
            raw_post(BODY, extra=b"x-request-id: two\r\n"),
            raw_post(b"{", extra=b"x-request-id: three\r\n"),
            get(b"/v1/models/big", b"four"),
            raw_post(json.dumps(question(stream=True)).encode(), extra=b"x-request-id: five\r\n"),
            raw_post(BODY, key="lk-wrong", extra=b"x-request-id: six\r\n"),
        ]
        answer = await rig.raw(b"".join(sent), more=1.0)
        places = [answer.index(b"x-request-id: " + name) for name in (b"one", b"two", b"three", b"four", b"five", b"six")]
        assert places == sorted(places)
        heads = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
        assert heads == [200, 200, 400, 200, 200, 401]
        await rig.until_idle()


async def test_very_many_pipelined_requests_are_just_answered() -> None:
    """A client that pipelines without end would take the gateway down by its depth of calls."""
    async with FakeEngine(tokens=3, tokens_per_second=30) as engine, running() as rig:
        await rig.ready(engine.url)
        wrong = raw_post(b"{}", key="lk-wrong")
        answer = await rig.raw(raw_post(BODY) + wrong * 1200, more=2.0)
        assert answer.count(b"HTTP/1.1 200") == 1
        assert answer.count(b"HTTP/1.1 401") == 1200


async def test_a_body_may_come_in_pieces() -> None:
    """A slow uplink, or a proxy that cuts as it likes, would get no answer."""
    async with FakeEngine(tokens=1) as engine, running() as rig:
        await rig.ready(engine.url)
        whole = raw_post(BODY)
        chunked = raw_post(b"", extra=b"transfer-encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"")
        chunked += b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
        for request in (whole, chunked):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            for at in range(0, len(request), 40):
                writer.write(request[at : at + 40])
                await asyncio.sleep(0)
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            writer.close()
        await rig.until_idle()


async def test_an_unused_connection_is_closed_and_a_used_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of clients that forgot us would pile up; or a slow answer would be cut off as if nobody used its connection."""
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.5)
    async with FakeEngine(tokens=30, tokens_per_second=25) as engine, running() as rig:
        await rig.ready(engine.url)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        for _ in range(2):
            writer.write(raw_post(BODY))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(length)
        assert await asyncio.wait_for(reader.read(), 3) == b""
        writer.close()


async def test_a_defect_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours would leave its client without an answer, and its place in the engine taken for ever."""
    async with FakeEngine(tokens=3) as engine, running() as rig:
        await rig.ready(engine.url)
        for name in ("whole", "reader"):
            with monkeypatch.context() as broken:
                broken.setattr(OpenAIDialect, name, _fails)
                answer = await rig.chat(stream=name == "reader")
                assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert (await rig.chat()).status_code == 200
        await rig.until_idle()


def _fails(*_arguments: object) -> None:
    raise ZeroDivisionError("a defect")


async def test_no_request_takes_longer_than_the_deadline() -> None:
    """A stream that never ends would hold its place for ever, one token at a time."""
    config = config_of(gateway={"deadline": "700ms", "idle_stream_timeout": "1s"})
    async with FakeEngine(tokens=100_000, tokens_per_second=50) as engine, running(config) as rig:
        await rig.ready(engine.url)
        answer = await rig.chat(stream=True, max_tokens=100_000)
        assert "gateway.deadline" in events(answer.text)[-1]["error"]["message"]
        whole = await rig.chat(max_tokens=100_000)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
        await rig.until_idle()
