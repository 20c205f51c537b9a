"""Where one request ends and the next begins, without any doubt: what the parser lets through and a proxy could read otherwise is refused.

uvicorn's httptools protocol with a stricter judgement of heads, trailers that are no headers, upgrades that are ignored instead of eating the
body, and silence instead of a second answer when a connection breaks. Not responsible for limits (`server`) or routes.
"""

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SOCKET_PATH = b"/api/ws"
"""The only path that becomes a WebSocket."""
_VERSIONS = frozenset({"1.0", "1.1"})

_MALFORMED = b'{"error":{"message":"This is not a proper HTTP/1.1 request.","type":"invalid_request_error","param":null,"code":"malformed"}}\n'
MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_MALFORMED), _MALFORMED)
)


class Malformed(Exception):
    """A head that may mean different things to different readers."""


class StrictProtocol(HttpToolsProtocol):
    """One client's connection, as `server.HttpProtocol` wants it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._broken = False

    def check_head(self) -> str:
        """The version of HTTP. Raises Malformed, which ends the connection: call it when a head is whole, before anything is done for it."""
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise Malformed(f"HTTP/{version}")
        hosts = 0
        coded = False
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                # The parser takes `gzip, chunked` too, and nobody here undoes gzip.
                if coded or value.strip().lower() != b"chunked" or version == "1.0":
                    raise Malformed("transfer-encoding")
                coded = True
        if hosts != 1 and (hosts or version == "1.1"):
            raise Malformed("host")
        return version

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer: no proxy checks those, so they must not pass for headers
            super().on_header(name, value)

    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._go_on(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    # -- upgrades

    def _should_upgrade(self) -> bool:
        """Whether the head that was read asks for our WebSocket. Any other wish is ignored, as HTTP allows: Java's client asks for h2c with
        every request."""
        path = self.url.partition(b"?")[0]
        return path == SOCKET_PATH and self.parser.get_method() == b"GET" and not self._framing() and super()._should_upgrade()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing() and not self._should_upgrade():
            return  # the parser takes the body for another protocol; it is still to come
        self._in_head = True
        super().on_message_complete()

    def _framing(self) -> bytes:
        """The header lines that say how long the body is; empty when there is none."""
        return b"".join(
            b"%b: %b\r\n" % (name, value)
            for name, value in self.headers
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" \t0"))
        )

    def _go_on(self, rest: bytes) -> None:
        """Read on as if nobody had asked for an upgrade: a fresh parser that believes to be within the body."""
        framing = self._framing()
        relay = _Resumed(self)
        self.parser = httptools.HttpRequestParser(relay)
        self.parser.set_dangerous_leniencies(
            lenient_data_after_close=True
        )  # as uvicorn does: the first of two requests is answered
        if framing:
            self.parser.feed_data(b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n" % framing)
        relay.real = True
        if rest:
            self.data_received(rest)

    # -- the end

    def send_400_response(self, msg: str) -> None:
        """The connection cannot be read any further. An answer is given only where nobody can take it for that of another request."""
        self._broken = True
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn declares
        idle = cycle is None or cycle.response_complete
        within = not idle and not self._in_head and not cycle.response_started and not self.pipeline
        if not self.transport.is_closing() and ((idle and self._in_head) or within):
            self.transport.write(MALFORMED)
        if not idle:  # whoever works on it must not write behind this
            self.abandon(cycle)
        self.pipeline.clear()
        self.transport.close()

    def abandon(self, cycle: Any) -> None:
        """Let whoever works on `cycle` know that its client is gone."""
        cycle.disconnected = True
        cycle.message_event.set()


class _Resumed:
    """Hands a parser's news to a connection, once the head that the parser was made to believe is over."""

    def __init__(self, connection: StrictProtocol) -> None:
        self._connection = connection
        self.real = False

    def on_message_begin(self) -> None:
        if self.real:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.real:
            self._connection.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.real:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.real:
            self._connection.on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._connection.on_body(body)

    def on_message_complete(self) -> None:
        self._connection.on_message_complete()
