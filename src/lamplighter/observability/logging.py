"""Log lines: text for people, one JSON object a line for programs; and the access line of each request.

Never responsible for what is logged: callers keep prompts, answers and secrets out.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
import structlog

from lamplighter.core.clock import Clock

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, format: str = "text", level: str = "info", stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for the process; both come out the same way on `stream` (standard error).

    `format`: text or json. `level`: debug, info, warning or error.
    """
    out = stream if stream is not None else sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if format == "json":
        # Without local variables: those of a request hold its prompt and its key.
        plain = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        shared += [structlog.processors.ExceptionRenderer(plain), _first_things_first]
        renderer: Any = structlog.processors.JSONRenderer(serializer=_json)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=stream is None,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak only when something is wrong: their everyday lines are not about this program.
    root.setLevel(max(_LEVELS[level], logging.WARNING))


def _first_things_first(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Time, level and event lead every line, as in the access log: so a person can read the columns too."""
    return {**{name: fields[name] for name in ("timestamp", "level", "event") if name in fields}, **fields}


def _json(value: MutableMapping[str, Any], **_options: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


class AccessLog:
    """One line for each request to `/v1/*`, written in batches: a system call for each would be a third of a fast request's cost.

    Lines appear within `DELAY` seconds, and at `close`.
    """

    DELAY = 0.1

    def __init__(self, clock: Clock, *, format: str = "text", write: Callable[[str], object] | None = None) -> None:
        self._clock = clock
        self._json = format == "json"
        self._write = write if write is not None else _to_stderr
        # One of several workers says which: their lines come out of one pipe.
        worker = structlog.contextvars.get_contextvars().get("worker")
        self._worker = "" if worker is None else f',"worker":"{worker}"' if self._json else f" worker={worker}"
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = -1
        self._stamp = ""

    def line(
        self,
        *,
        request_id: str,
        route: str,
        model: str,
        status: int,
        seconds: float,
        first: float | None,
        held: float | None,
        prompt_tokens: int | None,
        completion_tokens: int | None,
        key_id: str,
        outcome: str,
        client: str = "",
    ) -> None:
        """Note one request. Durations in seconds. `outcome`: ok, refused, lost, cancelled ...

        All texts must be free of quotes, spaces and control characters: names from the configuration, ids, addresses, never what a client wrote.
        """
        stamp = self._now()
        if self._json:  # every text here is an identifier of ours, or was checked: nothing to escape
            text = (
                f'{{"timestamp":"{stamp}","level":"info","event":"request","request_id":"{request_id}","route":"{route}","model":"{model}",'
                f'"status":{status},"outcome":"{outcome}","seconds":{seconds:.4f},"key":"{key_id}"'
            )
            if client:
                text += f',"client":"{client}"'
            if first is not None:
                text += f',"first_token_seconds":{first:.4f}'
            if held is not None:
                text += f',"held_seconds":{held:.3f}'
            if prompt_tokens is not None:
                text += f',"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens or 0}'
            self._lines.append(text + self._worker + "}\n")
        else:
            text = f"{stamp} [request] {status} {route} model={model} {outcome} {seconds * 1000:.1f}ms"
            if first is not None:
                text += f" first={first * 1000:.1f}ms"
            if held is not None:
                text += f" held={held:.1f}s"
            if prompt_tokens is not None:
                text += f" tokens={prompt_tokens}+{completion_tokens or 0}"
            if client:
                text += f" client={client}"
            self._lines.append(f"{text} key={key_id} id={request_id}{self._worker}\n")
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.DELAY, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            text = "".join(self._lines)
            self._lines.clear()
            self._write(text)

    def _now(self) -> str:
        now = self._clock.time()
        second = int(now)
        if second != self._second:  # the date is formatted once a second
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._stamp}.{int((now - second) * 1000):03d}Z"


def _to_stderr(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # a closed or full terminal must not end requests
        return
