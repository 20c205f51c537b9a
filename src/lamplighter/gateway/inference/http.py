"""The POST routes of `/v1`: reads the request, lets `dispatch` find an engine, and brings the answer to the client over a wire.

What a stream passes on: whole events only, from the engine's socket to the client's within one call. What it adds: comments while nothing
comes, and an error event when the answer breaks off. A client that leaves cancels this task; everything is undone in `finally`.
"""

import asyncio
import random
from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway import hold
from lamplighter.gateway.auth import Keyring
from lamplighter.gateway.connection import Cause, Head, UpstreamFailure
from lamplighter.gateway.inference import faults
from lamplighter.gateway.inference.dialects.base import Dialect, StreamReader
from lamplighter.gateway.inference.dispatch import Call, Dispatch, parse_wake
from lamplighter.gateway.inference.operations import Operation
from lamplighter.gateway.metering import CLIENT_LEFT, Record
from lamplighter.gateway.responses import JSON_HEADERS, STREAM_HEADERS, error_headers, send_error, valid_request_id
from lamplighter.gateway.sse import EventTooLarge
from lamplighter.gateway.wire import Headers, Wire, body_in_hand, discard, make_wire
from lamplighter.store.wakes import Wake

_LINGER = 2.0
"""Seconds for which the rest of a refused body is read and forgotten."""
_SMALL = 64 * 1024
"""Bytes of a refused body that are read to keep the connection."""
_EARLIEST = 1.0
"""A held stream has its headers after this long, whatever the configuration says."""


class _ClientLeft(Exception):
    """It left while it was still sending."""


class InferenceApp:
    """ASGI application of one gateway's POST routes."""

    def __init__(self, dispatch: Dispatch, keyring: Keyring) -> None:
        self._dispatch = dispatch
        self._keyring = keyring

    async def __call__(self, operation: Operation, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        dispatch = self._dispatch
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = valid_request_id(headers.get(b"x-request-id")) or f"req_{random.getrandbits(80):020x}"
        record = Record(operation.name, request_id, dispatch.clock.monotonic())
        wire: Wire | None = None
        call: Call | None = None
        unread = b"content-length" in headers or b"transfer-encoding" in headers
        try:
            try:
                identity = self._keyring.identify(headers)
                record.key_id, record.principal_id = identity.key_id or "", identity.principal_id
                wake = parse_wake(headers.get(b"lamplighter-wake"))
                raw = body_in_hand(scope, send)
                if raw is None or b"content-encoding" in headers or len(raw) > dispatch.config.gateway.max_body:
                    raw = await self._body(headers, receive, raw)
                unread = False
                wire = make_wire(scope, receive, send)
                request = operation.parse(raw)
                call = dispatch.admit(request, record, identity, wake, request.session(headers))
            except RequestError as error:
                record.status, record.outcome = error.status, "refused"
                if wire is None:
                    await self._refuse(headers, receive, send, error, request_id, operation.dialect, unread=unread)
                else:
                    send_error(wire, error, request_id, operation.dialect.error(error))
                return
            await _Answer(call, wire, dispatch, operation.dialect).give()
        except _ClientLeft:
            record.status, record.outcome = CLIENT_LEFT, "cancelled"
        except asyncio.CancelledError:
            record.outcome = "cancelled"
            record.status = record.status or CLIENT_LEFT
            if wire is None:
                raise
            if not wire.gone:
                self._give_up(wire, request_id, operation.dialect)
        finally:
            if call is not None:
                call.close()
            dispatch.meter.finish(record)
            if wire is not None:
                if wire.waits:
                    await wire.aclose()
                else:
                    wire.close()

    def _give_up(self, wire: Wire, request_id: str, dialect: Dialect) -> None:
        """The server ends us although the client is still there: its grace is over. The client is told."""
        if wire.started:
            wire.finish(dialect.error_event(faults.lost("the gateway is stopping")))
        else:
            send_error(wire, stopping := hold.stopping(), request_id, dialect.error(stopping))

    async def _body(self, headers: dict[bytes, bytes], receive: Any, in_hand: bytes | None) -> bytes:
        """The request's body. Raises RequestError 408, 413 or 415."""
        config = self._dispatch.config.gateway
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding != b"identity":
            raise RequestError(
                f"A body with Content-Encoding {encoding.decode('latin-1')[:40]} is not understood; send it uncompressed.",
                status=415,
                code="unsupported_encoding",
            )
        declared = headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > config.max_body:
            raise self._too_large()
        if in_hand is not None:
            if len(in_hand) > config.max_body:
                raise self._too_large()
            return in_hand
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._more(receive, config.body_timeout)
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > config.max_body:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    async def _more(self, receive: Any, timeout: float) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await receive()
        except TimeoutError:
            raise RequestError(
                f"The request's body did not arrive: nothing came for {timeout:g}s.",
                status=408,
                code="body_timeout",
                headers=(("connection", "close"),),
            ) from None

    def _too_large(self) -> RequestError:
        limit = self._dispatch.config.gateway.max_body
        return RequestError(
            f"The request's body is larger than {limit}.",
            status=413,
            code="body_too_large",
            next_step="Send less, or raise gateway.max_body.",
            headers=(("connection", "close"),),
        )

    async def _refuse(
        self,
        headers: dict[bytes, bytes],
        receive: Any,
        send: Any,
        error: RequestError,
        request_id: str,
        dialect: Dialect,
        *,
        unread: bool,
    ) -> None:
        """Answer a request whose body was not read (to its end), so that the client gets to read that answer."""
        if unread and ("connection", "close") not in error.headers and _small(headers):
            await discard(receive, seconds=_LINGER)  # what was sent with the head: the connection stays usable
            unread = False
        if unread and ("connection", "close") not in error.headers:
            error.headers = (*error.headers, ("connection", "close"))
        await refuse(receive, send, error, request_id, body=dialect.error(error), linger=unread)


def _small(headers: dict[bytes, bytes]) -> bool:
    declared = headers.get(b"content-length", b"")
    return declared.isdigit() and int(declared) <= _SMALL and b"expect" not in headers


async def refuse(
    receive: Any, send: Any, error: RequestError, request_id: str, *, body: bytes | None = None, linger: bool = False
) -> None:
    """Answer with `error` outside of any wire. `linger`: the client is still sending; read on for a while, and keep nothing."""
    body = msgspec.json.encode(error.body()) if body is None else body
    fields = [*error_headers(error, request_id), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": linger})
    if linger:
        await discard(receive, seconds=_LINGER)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Answer:
    """Brings one call's answer to its client."""

    __slots__ = ("_call", "_commented_at", "_dialect", "_dispatch", "_last", "_reader", "_stage", "_wire")

    def __init__(self, call: Call, wire: Wire, dispatch: Dispatch, dialect: Dialect) -> None:
        self._call = call
        self._wire = wire
        self._dispatch = dispatch
        self._dialect = dialect
        self._reader: StreamReader | None = None
        self._stage: str | None = None
        self._commented_at = 0.0
        self._last = b""

    async def give(self) -> None:
        """From the wait for an engine to the last byte."""
        call, wire = self._call, self._wire
        stream = call.request.stream
        if stream:
            call.on_silence = self._on_silence
        try:
            head = await call.open(self._on_beat if stream else None)
            if head.body is None and head.status == 200:
                await self._stream()
                return
            if head.body is None:
                raise faults.from_answer(head, call.lane)
            if head.status != 200:
                raise faults.from_answer(head, call.lane)
            self._whole(head, head.body)
        except RequestError as error:
            record = call.record
            record.outcome = "refused" if error.status < 500 else "failed"
            if wire.started:  # the status is gone: an event must say it
                record.status = 200
                wire.finish(self._dialect.error_event(error))
            else:
                record.status = error.status
                send_error(wire, error, record.request_id, self._dialect.error(error), extra=self._own_headers())

    def _own_headers(self) -> Headers:
        call, record = self._call, self._call.record
        headers = [(b"lamplighter-model", call.lane.name.encode())]
        if record.held is not None:
            headers.append((b"lamplighter-wake-ms", b"%d" % (record.held * 1000)))
        if call.grant is not None:
            headers += call.grant.headers
        if call.stood_in_for is not None:
            headers.append((b"lamplighter-served-by", call.lane.name.encode()))
        return headers

    # -- whole answers

    def _whole(self, head: Head, body: bytes) -> None:
        call, wire = self._call, self._wire
        try:
            body, usage = self._dialect.whole(body, call.request)
        except ValueError:
            raise RequestError(
                f"The engine of `{call.lane.name}` sent an answer that is not whole JSON.",
                status=502,
                type="upstream_error",
                code="upstream_protocol",
                next_step="Ask again; if it lasts, read the engine's log.",
            ) from None
        if wire.started:  # a stream was promised and comments were sent, but the engine does not stream
            raise RequestError(
                f"The engine of `{call.lane.name}` does not stream.", status=502, type="upstream_error", code="upstream_protocol"
            )
        record = call.record
        record.usage, record.answered = usage, len(body)
        record.status = 200
        wire.start(200, [*JSON_HEADERS, (b"x-request-id", record.request_id.encode()), *self._own_headers()], length=len(body))
        wire.finish(body)

    # -- streams

    def _start(self) -> None:
        record = self._call.record
        record.status = 200
        self._wire.start(
            200,
            [
                (b"content-type", self._dialect.stream_type),
                *STREAM_HEADERS,
                (b"x-request-id", record.request_id.encode()),
                *self._own_headers(),
            ],
            length=None,
        )

    async def _stream(self) -> None:
        call, wire = self._call, self._wire
        connection = call.connection
        if connection is None:
            raise RuntimeError("a stream without its connection")
        reader = self._reader = call.reader = self._dialect.reader(call.request)
        wire.on_pause, wire.on_resume = connection.pause, connection.resume
        if wire.paused:
            connection.pause()
        detail: str | None = None
        failure: UpstreamFailure | None = None
        announced = False
        try:
            announced = await connection.pump(self._sink)
        except UpstreamFailure as caught:
            failure, detail = caught, caught.detail
        wire.on_pause = wire.on_resume = None
        last = self._last + reader.close()
        if failure is None and not reader.done:
            detail = self._judge(announced)
            if detail is None:
                last += self._dialect.terminator
        if not wire.started:
            self._start()
        record = call.record
        if detail is None:
            wire.finish(last)
            return
        record.outcome = "lost"
        call.lost(failure or UpstreamFailure(Cause.LOST, detail, received=True))
        if failure is not None and failure.cause is Cause.STALLED:
            wire.abort()  # it would not read the error either
            return
        wire.finish(last + self._dialect.error_event(faults.lost(detail)))

    def _judge(self, announced: bool) -> str | None:
        """Whether a stream that ended without `[DONE]` is whole: None, or what is wrong."""
        reader = self._reader
        if reader is None or reader.partial:
            return "the engine ended within an event"
        if reader.finished:
            return None  # some servers just do not say it
        return "the engine ended the answer without finishing it" if announced else "the engine closed the connection"

    def _sink(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            return
        try:
            out = reader.feed(data)
        except EventTooLarge as error:
            if self._call.connection is not None:
                self._call.connection.fail(Cause.PROTOCOL, str(error))
            return
        if out:
            record = self._call.record
            if record.first_at is None:
                record.first_at = self._dispatch.clock.monotonic()
                if not self._wire.started:
                    self._start()
            if self._call.connection is not None and self._call.connection.complete:
                self._last += out  # leaves together with the end
            else:
                self._wire.write(out)

    # -- while nothing comes

    def _on_beat(self, wake: Wake | None) -> float | None:
        """While held: headers early, a comment at every stage and at least every heartbeat."""
        config = self._dispatch.config.gateway
        now = self._dispatch.clock.monotonic()
        elapsed = now - self._call.record.began
        early = min(float(config.early_headers), _EARLIEST)
        if not self._wire.started:
            if elapsed < early:
                return early - elapsed
            self._start()
            self._commented_at = 0.0
        stage = hold.stage(wake)
        if stage != self._stage or now - self._commented_at >= config.heartbeat:
            self._stage = stage
            self._commented_at = now
            call = self._call
            self._beat(hold.words(call.lane, call.asker, elapsed=elapsed, now=self._dispatch.clock.time()))
        return max(0.0, self._commented_at + config.heartbeat - now)

    def _on_silence(self, silent: float) -> None:
        """While an engine works without writing (a long prompt): keep proxies from cutting the connection."""
        now = self._dispatch.clock.monotonic()
        heartbeat = self._dispatch.config.gateway.heartbeat
        if silent < heartbeat or now - self._commented_at < heartbeat:
            return
        if not self._wire.started:
            self._start()
        self._commented_at = now
        self._beat(f"lamplighter waiting for the engine silent={silent:.0f}s")

    def _beat(self, text: str) -> None:
        self._wire.write(self._dialect.heartbeat(text, self._call.request))
