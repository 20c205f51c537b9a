"""One stream out of several engines: stands between the engine that writes and whoever asked, and lets another one go on after a loss.

Not responsible for what is asked of the next engine and how its words fit (`continuation`), nor for finding it (`dispatch`).
"""

from typing import Protocol

from lamplighter.gateway.connection import Cause, Connection, Head, Taker, UpstreamFailure
from lamplighter.gateway.inference.continuation import Continuation
from lamplighter.gateway.inference.dialects.base import StreamReader
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import EventTooLarge, Splitter

_SURVIVED = frozenset({Cause.LOST, Cause.TIMEOUT, Cause.PROTOCOL})
"""Losses that are the engine's: the client's own slowness, and the end of its time, are not."""


class Listener(Taker, Protocol):
    """Whoever asked."""

    def on_lost(self) -> None:
        """The engine is lost; what it said stands. Either `on_resumed` follows and then more pieces, or `on_end`."""
        ...

    def on_resumed(self) -> None:
        """Another engine goes on."""
        ...


class Exchanging(Protocol):
    """The call whose stream this is."""

    connection: Connection | None
    reader: StreamReader | None

    def resume(self, following: InferenceRequest, failure: UpstreamFailure) -> bool:
        """Ask another engine; whether that may be tried. `Unbroken.resumed` or `Unbroken.give_up` is called later."""
        ...


class Unbroken:
    """The `connection.Taker` of a stream that can be continued. It passes on whole events only, so that every loss is between two of them.

    `failure`: the loss after which another engine is looked for, None while one writes.
    """

    __slots__ = ("_call", "_continuation", "_listener", "_splitter", "failure")

    def __init__(self, call: Exchanging, listener: Listener, continuation: Continuation) -> None:
        self._call = call
        self._listener = listener
        self._continuation = continuation
        self._splitter = Splitter()
        self.failure: UpstreamFailure | None = None

    @property
    def happened(self) -> bool:
        """Whether more than one engine was asked."""
        return self._continuation.happened

    def on_head(self, head: Head) -> None:
        """Never called: a stream is handed over when it begins."""

    def on_silence(self, seconds: float) -> None:
        """Passed on."""
        self._listener.on_silence(seconds)

    def on_piece(self, data: bytes) -> None:
        """More of what the engine says."""
        try:
            whole = self._splitter.feed(data)
            if whole:
                self._pass_on(whole)
        except EventTooLarge as error:
            if self._call.connection is not None:
                self._call.connection.fail(Cause.PROTOCOL, str(error))

    def _pass_on(self, whole: bytes) -> None:
        if not self._continuation.happened:
            self._continuation.feed(whole)
        else:
            whole = self._continuation.splice(whole)
        if whole:
            self._listener.on_piece(whole)

    def on_end(self, failure: UpstreamFailure | None, *, announced: bool) -> None:
        """The engine is done, or lost."""
        if rest := self._splitter.close():
            self._pass_on(rest)
        loss = self._loss(failure)
        if loss is not None and loss.cause in _SURVIVED:
            following = self._continuation.next_request()
            if following is not None and self._call.resume(following, loss):
                self.failure = loss
                self._splitter = Splitter()
                self._listener.on_lost()
                return
        self._listener.on_end(failure if loss is None else loss, announced=announced)

    def _loss(self, failure: UpstreamFailure | None) -> UpstreamFailure | None:
        """What is wrong with this end, if anything."""
        reader = self._call.reader
        if failure is not None or reader is None or reader.done:
            return failure
        if self._splitter.partial:
            return UpstreamFailure(Cause.LOST, "the engine ended within an event", received=True)
        if reader.finished:
            return None  # some servers just do not say it
        return UpstreamFailure(Cause.LOST, "the engine ended the answer without finishing it", received=True)

    def resumed(self) -> None:
        """Another engine goes on, on the call's new connection."""
        self.failure = None
        self._listener.on_resumed()

    def give_up(self) -> None:
        """No engine goes on: the first loss is what there is to say."""
        failure, self.failure = self.failure, None
        self._listener.on_end(failure, announced=False)
