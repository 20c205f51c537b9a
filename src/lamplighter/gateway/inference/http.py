"""The POST routes of inference: reads the request, lets `dispatch` find an engine, and brings the answer to the client over a wire.

What a stream passes on: whole events only, from the engine's socket to the client's within one call. What it adds: comments while nothing
comes, and an error event when the answer breaks off. Everything here is called by sockets and timers; there is no task for a request.
"""

import asyncio
import random
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import httptools
import structlog

from lamplighter.core.errors import RequestError
from lamplighter.gateway import hold
from lamplighter.gateway.admission.bodies import Bodies
from lamplighter.gateway.auth import Identity, Keyring
from lamplighter.gateway.connection import Cause, Connection, Head, UpstreamFailure
from lamplighter.gateway.cors import Cors
from lamplighter.gateway.edge import unknown_host
from lamplighter.gateway.hosts import Hosts, Proxies
from lamplighter.gateway.inference import faults
from lamplighter.gateway.inference.dialects.base import StreamReader
from lamplighter.gateway.inference.dispatch import Call, Dispatch, parse_wake
from lamplighter.gateway.inference.operations import Operation
from lamplighter.gateway.metering import CLIENT_LEFT, Record
from lamplighter.gateway.relay import WakeMode
from lamplighter.gateway.responses import JSON_HEADERS, STREAM_HEADERS, send_error, valid_request_id
from lamplighter.gateway.sse import EventTooLarge
from lamplighter.gateway.wire import ClientConnection, Headers, Wire, header_lines
from lamplighter.store.wakes import Wake

_LINGER = 2.0
"""Seconds for which the rest of a refused body is read and forgotten."""
_SMALL = 64 * 1024
"""Bytes of a refused body that are read to keep the connection."""
_EARLIEST = 1.0
"""A held stream has its headers after this long, whatever the configuration says."""
_WHOLE_LINES = header_lines(JSON_HEADERS)
_STREAM_LINES = header_lines(STREAM_HEADERS)

_log = structlog.get_logger(__name__)


class InferenceRoutes:
    """`server.DirectRoutes` of one gateway."""

    def __init__(
        self,
        dispatch: Dispatch,
        keyring: Keyring,
        operations: Mapping[str, Operation],
        bodies: Bodies,
        *,
        cors: Cors,
        hosts: Hosts,
        proxies: Proxies,
    ) -> None:
        self.dispatch = dispatch
        self.keyring = keyring
        self.bodies = bodies
        self.cors = cors if cors.enabled else None
        self.hosts = hosts if hosts.strict else None  # otherwise the key says enough: a page that rebound its name knows none
        self._proxies = proxies
        self._operations = {path.encode(): operation for path, operation in operations.items()}

    def take(
        self, connection: ClientConnection, url: bytes, headers: Headers, *, keep_alive: bool, old: bool, expects: bool
    ) -> Wire | None:
        """See `server.DirectRoutes.take`."""
        operation = self._operations.get(url)
        if operation is None:  # with a query, as an absolute URL, with escapes: the same resource
            try:
                path = httptools.parse_url(url).path or b""
            except httptools.HttpParserInvalidURLError:
                return None
            operation = self._operations.get(unquote_to_bytes(path))
            if operation is None:
                return None
        exchange = Exchange(self, connection, operation, dict(headers), keep_alive=keep_alive, old=old, expects=expects)
        peer = connection.peer
        if self._proxies and peer:
            told = (value for name, value in headers if name == b"x-forwarded-for")
            peer = self._proxies.client(peer, told) or ""
        exchange.record.client = peer
        return exchange


class Exchange(Wire):
    """One request of a client, and its answer. Also the `dispatch.Asking` of its call."""

    __slots__ = (
        "_begun",
        "_body_timer",
        "_call",
        "_commented_at",
        "_dispatch",
        "_expects",
        "_headers",
        "_heard_at",
        "_identity",
        "_last",
        "_operation",
        "_over",
        "_parts",
        "_reader",
        "_refusal",
        "_reserved",
        "_routes",
        "_size",
        "_stage",
        "_upstream",
        "_wake",
        "record",
    )

    def __init__(
        self,
        routes: InferenceRoutes,
        connection: ClientConnection,
        operation: Operation,
        headers: dict[bytes, bytes],
        *,
        keep_alive: bool,
        old: bool,
        expects: bool,
    ) -> None:
        Wire.__init__(self, connection, keep_alive=keep_alive, old=old)
        self._routes = routes
        self._dispatch = routes.dispatch
        self._operation = operation
        self._headers = headers
        self._expects = expects
        self._begun = False
        self._over = False
        self._parts: list[bytes] = []
        self._size = 0
        self._reserved = 0
        self._body_timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._identity: Identity | None = None
        self._wake: WakeMode | None = None
        self._refusal: RequestError | None = None
        request_id = valid_request_id(headers.get(b"x-request-id")) or f"req_{random.getrandbits(80):020x}"
        self.record = Record(operation.name, request_id, routes.dispatch.clock.monotonic())
        self._call: Call | None = None
        self._upstream: Connection | None = None
        self._reader: StreamReader | None = None
        self._last = b""
        self._stage: str | None = None
        self._commented_at = 0.0

    # -- reading the request

    def begin(self) -> None:
        """Its turn has come: who asks, and may the body come?"""
        self._begun = True
        headers, record = self._headers, self.record
        try:
            hosts = self._routes.hosts
            if hosts is not None and not hosts.admits(host := headers.get(b"host")):
                raise unknown_host(host)
            identity = self._identity = self._routes.keyring.identify(headers)
            record.key_id, record.principal_id = identity.key_id or "", identity.principal_id
            self._wake = parse_wake(headers.get(b"lamplighter-wake"))
            self._check_body()
            self._reserve(self._size)
        except RequestError as error:
            self._refuse(error)
            return
        if not self.more_body:
            self._ask()
        elif self._expects:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _check_body(self) -> None:
        """What the head says of the body, and what has come of it. Raises RequestError 413 or 415."""
        headers = self._headers
        if b"content-encoding" in headers and (encoding := headers[b"content-encoding"].lower()) != b"identity":
            raise RequestError(
                f"A body with Content-Encoding {encoding.decode('latin-1')[:40]} is not understood; send it uncompressed.",
                status=415,
                code="unsupported_encoding",
            )
        declared = headers.get(b"content-length")
        limit = self._dispatch.config.gateway.max_body
        if (declared is not None and declared.isdigit() and int(declared) > limit) or self._size > limit:
            raise _too_large(limit)

    def on_body(self, data: bytes) -> None:
        if self._refusal is not None or self.started:
            return
        self._parts.append(data)
        self._size += len(data)
        if not self._begun:
            return  # what was read with the requests before it
        try:
            if self._size > (limit := self._dispatch.config.gateway.max_body):
                raise _too_large(limit)
            self._reserve(len(data))
        except RequestError as error:
            self._refuse(error)

    def _reserve(self, size: int) -> None:
        """Memory for the body, until the request is over. Raises RequestError 503."""
        self._routes.bodies.reserve(size)
        self._reserved += size

    def on_whole(self) -> None:
        Wire.on_whole(self)
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        if self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._begun and not self._over:
            self._ask()

    def heard(self) -> None:
        loop = self._connection.loop
        self._heard_at = loop.time()
        if self._body_timer is None and self._begun and not self._over:
            self._body_timer = loop.call_later(self._patience, self._listen)

    @property
    def _patience(self) -> float:
        return _LINGER if self._refusal is not None else float(self._dispatch.config.gateway.body_timeout)

    def _listen(self) -> None:
        """Some time passed while the body was not whole."""
        self._body_timer = None
        loop, patience = self._connection.loop, self._patience
        left = self._heard_at + patience - loop.time()
        if left > 0.001:
            self._body_timer = loop.call_later(left, self._listen)
        elif self._refusal is not None:
            self._send_refusal(_closing(self._refusal))
        else:
            self._refuse(
                RequestError(
                    f"The request's body did not arrive: nothing came for {patience:g}s.",
                    status=408,
                    code="body_timeout",
                    headers=(("connection", "close"),),
                )
            )

    def _refuse(self, error: RequestError) -> None:
        """Answer a request whose body was not read (to its end), so that the client gets to read that answer."""
        self.record.status, self.record.outcome = error.status, "refused"
        self._parts = []
        if self.more_body and ("connection", "close") not in error.headers:
            declared = self._headers.get(b"content-length", b"")
            if declared.isdigit() and int(declared) <= _SMALL and not self._expects:
                self._refusal = error  # what was sent with the head is read first: the connection stays usable
                return
            error = _closing(error)
        self._send_refusal(error)

    def _send_refusal(self, error: RequestError) -> None:
        self._refusal = None
        send_error(
            self,
            error,
            self.record.request_id,
            self._operation.dialect.error(error),
            lines=self._cors(),
            linger=_LINGER if self.more_body else 0.0,
        )
        self._close()

    # -- asking

    def _ask(self) -> None:
        """The request is whole."""
        parts, self._parts = self._parts, []
        identity = self._identity
        if identity is None:
            raise RuntimeError("a request whose key was not looked at")
        try:
            request = self._operation.parse(parts[0] if len(parts) == 1 else b"".join(parts))
            call = self._call = self._dispatch.admit(request, self.record, identity, self._wake, request.session(self._headers))
            call.start(self)
        except RequestError as error:
            self.on_error(error)
        except Exception:  # noqa: BLE001 - a defect of ours ends one request, with a line in the log
            _log.exception("a request failed in an unforeseen way", request_id=self.record.request_id)
            self.on_error(faults.defect())

    def _close(self) -> None:
        """The request is over, however it ended: everything that it held is free again, and it is written down. Safe to call twice."""
        if self._over:
            return
        self._over = True
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        call, self._call = self._call, None
        self._upstream = self._reader = None
        self._parts, self._headers = [], {}
        self._routes.bodies.release(self._reserved)
        if call is not None:
            call.close()
        self._dispatch.meter.finish(self.record)

    def leave(self) -> None:
        Wire.leave(self)
        record = self.record
        if not self._over and self._begun:
            if self._refusal is None:
                record.outcome = "cancelled"
                record.status = record.status or CLIENT_LEFT
            self._close()

    def on_pause(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def on_resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # -- answering

    def on_error(self, error: RequestError) -> None:
        """There is no answer, or no more of it."""
        if self._over:
            return
        record = self.record
        record.outcome = "refused" if error.status < 500 or self._call is None else "failed"
        if self.started:  # the status is gone: an event must say it
            record.status = 200
            self.finish(self._operation.dialect.error_event(error))
        else:
            record.status = error.status
            body = self._operation.dialect.error(error)
            send_error(self, error, record.request_id, body, lines=self._own_lines() if self._call is not None else self._cors())
        self._close()

    def _cors(self) -> bytes:
        cors = self._routes.cors
        return b"" if cors is None else cors.headers_for(self._headers.get(b"origin"))

    def _own_lines(self) -> bytes:
        call, record = self._call, self.record
        lines = self._cors()
        if call is None:
            return lines
        lines += call.lane.header
        if record.held is not None:
            if record.asleep:
                lines += b"lamplighter-wake-ms: %d\r\n" % (record.asleep * 1000)
            if (queued := int((record.held - record.asleep) * 1000)) > 0:
                lines += b"lamplighter-queue-ms: %d\r\n" % queued
        if call.grant is not None and call.grant.headers:
            lines += header_lines(call.grant.headers)
        if call.stood_in_for is not None:
            lines += b"lamplighter-served-by: %b\r\n" % call.lane.name.encode()
        return lines

    def on_head(self, head: Head) -> None:
        """An answer that counts: of a stream the beginning, of others all."""
        call = self._call
        if call is None:
            return
        if head.status != 200:
            raise faults.from_answer(head, call.lane)
        if head.body is None:
            self._begin_stream(call)
        else:
            self._send_whole(call, head.body)

    def _send_whole(self, call: Call, body: bytes) -> None:
        try:
            body, usage = self._operation.dialect.whole(body, call.request)
        except ValueError:
            raise faults.not_json(call.lane) from None
        if self.started:  # a stream was promised and comments were sent, but the engine does not stream
            raise faults.no_stream(call.lane)
        record = self.record
        record.usage, record.answered = usage, len(body)
        record.status = 200
        self.start(
            200,
            b"%bx-request-id: %b\r\n%b" % (_WHOLE_LINES, record.request_id.encode(), self._own_lines()),
            length=len(body),
        )
        self.finish(body)
        self._close()

    # -- streams

    def _begin_stream(self, call: Call) -> None:
        self._reader = call.reader = self._operation.dialect.reader(call.request)
        upstream = self._upstream = call.connection
        if upstream is not None and self._connection.paused:
            upstream.pause()
        if self.started and call.stood_in_for is not None:  # the headers that would say it left before anybody knew
            self._beat(f"lamplighter served-by={call.lane.name}")

    def _start(self) -> None:
        record = self.record
        record.status = 200
        self.start(
            200,
            b"content-type: %b\r\n%bx-request-id: %b\r\n%b"
            % (self._operation.dialect.stream_type, _STREAM_LINES, record.request_id.encode(), self._own_lines()),
            length=None,
        )

    def on_piece(self, data: bytes) -> None:
        """More of a stream."""
        reader, upstream = self._reader, self._upstream
        if reader is None or upstream is None:
            return
        try:
            out = reader.feed(data)
        except EventTooLarge as error:
            upstream.fail(Cause.PROTOCOL, str(error))
            return
        except Exception:  # noqa: BLE001 - a defect of ours ends one request, with a line in the log
            _log.exception("a stream could not be read", request_id=self.record.request_id)
            upstream.fail(Cause.PROTOCOL, "the engine's stream could not be read")
            return
        if out:
            record = self.record
            if record.first_at is None:
                record.first_at = self._dispatch.clock.monotonic()
                if not self.started:
                    self._start()
            if upstream.complete:
                self._last += out  # leaves together with the end
            else:
                self.write(out)

    def on_lost(self) -> None:
        """The engine is lost, and another one is looked for: what came so far leaves now."""
        self._upstream = None
        last, self._last = self._last, b""
        if last:
            self.write(last)

    def on_resumed(self) -> None:
        """Another engine goes on with the answer."""
        upstream = self._upstream = None if self._call is None else self._call.connection
        if upstream is not None and self._connection.paused:
            upstream.pause()
        if self.started:
            self._beat("lamplighter another replica goes on with this answer")

    def on_end(self, failure: UpstreamFailure | None, *, announced: bool) -> None:
        """The stream ended."""
        try:
            self._finish_stream(failure, announced=announced)
        except Exception:  # noqa: BLE001 - a defect of ours ends one request, with a line in the log
            _log.exception("a stream could not be ended", request_id=self.record.request_id)
            self.on_error(faults.defect())

    def _finish_stream(self, failure: UpstreamFailure | None, *, announced: bool) -> None:
        call, reader = self._call, self._reader
        if call is None or reader is None:
            return
        last = self._last + reader.close()
        detail = failure.detail if failure is not None else None
        if failure is None and not reader.done:
            detail = _judge(reader, announced=announced)
            if detail is None:
                last += self._operation.dialect.terminator
        if not self.started:
            self._start()
        if detail is None:
            self.finish(last)
            self._close()
            return
        self.record.outcome = "lost"
        call.lost(failure or UpstreamFailure(Cause.LOST, detail, received=True))
        if failure is not None and failure.cause is Cause.STALLED:
            self.abort()  # it would not read the error either
        else:
            self.finish(last + self._operation.dialect.error_event(faults.lost(detail)))
        self._close()

    # -- while nothing comes

    def on_beat(self, wake: Wake | None) -> float | None:
        """While held: headers early, a comment at every stage and at least every heartbeat."""
        config = self._dispatch.config.gateway
        now = self._dispatch.clock.monotonic()
        elapsed = now - self.record.began
        early = min(float(config.early_headers), _EARLIEST)
        if not self.started:
            if elapsed < early:
                return early - elapsed
            self._start()
            self._commented_at = 0.0
        call, stage = self._call, hold.stage(wake)
        if call is not None and (stage != self._stage or now - self._commented_at >= config.heartbeat):
            self._stage = stage
            self._commented_at = now
            self._beat(hold.words(call.lane, call.asker, elapsed=elapsed, now=self._dispatch.clock.time()))
        return max(0.0, self._commented_at + config.heartbeat - now)

    def on_silence(self, seconds: float) -> None:
        """While an engine works without writing (a long prompt): keep proxies from cutting the connection."""
        call = self._call
        if call is None or not call.request.stream:
            return
        now = self._dispatch.clock.monotonic()
        heartbeat = self._dispatch.config.gateway.heartbeat
        if seconds < heartbeat or now - self._commented_at < heartbeat:
            return
        if not self.started:
            self._start()
        self._commented_at = now
        self._beat(f"lamplighter waiting for the engine silent={seconds:.0f}s")

    def _beat(self, text: str) -> None:
        if self._call is not None:
            self.write(self._operation.dialect.heartbeat(text, self._call.request))


def _judge(reader: StreamReader, *, announced: bool) -> str | None:
    """Whether a stream that ended without saying so is whole: None, or what is wrong."""
    if reader.partial:
        return "the engine ended within an event"
    if reader.finished:
        return None  # some servers just do not say it
    return "the engine ended the answer without finishing it" if announced else "the engine closed the connection"


def _closing(error: RequestError) -> RequestError:
    """The same, and the connection ends after it."""
    error.headers = (*error.headers, ("connection", "close"))
    return error


def _too_large(limit: object) -> RequestError:
    return RequestError(
        f"The request's body is larger than {limit}.",
        status=413,
        code="body_too_large",
        next_step="Send less, or raise gateway.max_body.",
        headers=(("connection", "close"),),
    )
