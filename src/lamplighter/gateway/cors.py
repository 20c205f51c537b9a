"""Which web pages of other origins may read our answers: the Fetch standard's CORS protocol, closed unless `server.cors` names origins.

For the inference routes only: they are asked with keys, so credentials of the browser (cookies) are never allowed along. Not responsible
for who may ask: a page still needs a key.
"""

import re
from collections.abc import Mapping

from lamplighter.config.security import CorsConfig
from lamplighter.gateway.wire import Headers

METHODS = b"GET, HEAD, POST"
_EXPOSED = (
    b"retry-after, x-request-id, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, "
    b"x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens, lamplighter-model, lamplighter-served-by, "
    b"lamplighter-wake-ms, lamplighter-queue-ms"
)
"""Headers of an answer that a page may read; `*` would be possible, but then nobody decided it."""
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_MAX_NAMES = 2_000
OLLAMA = frozenset({f"/api/{name}" for name in ("chat", "generate", "tags", "show", "ps", "embed", "embeddings", "version")})


def open_to_pages(path: str) -> bool:
    """Whether `path` is one that pages of other origins may ever be let call: what needs a key and no cookie."""
    return path.startswith("/v1/") or path in OLLAMA or path in {"/rerank", "/tokenize", "/detokenize"}


class Cors:
    """The policy of one gateway."""

    def __init__(self, config: CorsConfig) -> None:
        self._all = "*" in config.origins
        self._origins = frozenset(origin.encode() for origin in config.origins)
        self._max_age = b"%d" % int(config.max_age)
        # What depends on the origin must not be served to another by a cache.
        self._always: Headers = [] if self._all or not self._origins else [(b"vary", b"origin")]
        self._lines: dict[bytes | None, bytes] = {None: _lines(self._always)}
        for origin in self._origins:
            self._lines[origin] = _lines(self.fields_for(origin))
        self._any = _lines(self.fields_for(b"https://any.example")) if self._all else None

    @property
    def enabled(self) -> bool:
        """Whether any origin is let in."""
        return bool(self._origins)

    def headers_for(self, origin: bytes | None) -> bytes:
        """Header lines for an answer to a request with this `Origin`, each ended by CRLF; empty when there is nothing to say."""
        if origin is not None and self._any is not None:
            return self._any
        return self._lines.get(origin) or self._lines[None]

    def fields_for(self, origin: bytes | None) -> Headers:
        """The same as a list of headers."""
        if origin is None or not self._admits(origin):
            return self._always
        return [
            (b"access-control-allow-origin", b"*" if self._all else origin),
            (b"access-control-expose-headers", _EXPOSED),
            *self._always,
        ]

    def preflight(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Headers of the answer (204) to an OPTIONS request; without those that allow, the browser does not go on."""
        origin = headers.get(b"origin")
        wanted = headers.get(b"access-control-request-headers", b"")
        answer: Headers = [(b"allow", METHODS + b", OPTIONS")]
        if not self.enabled:
            return answer
        answer.append((b"vary", b"origin, access-control-request-headers"))
        if origin is None or not self._admits(origin) or b"access-control-request-method" not in headers:
            return answer
        answer += [
            (b"access-control-allow-origin", b"*" if self._all else origin),
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", self._max_age),
        ]
        if wanted and len(wanted) <= _MAX_NAMES and _NAMES.fullmatch(wanted):
            # Clients' libraries send headers of their own (x-stainless-..., anthropic-...): any name may come, none carries a power by itself.
            answer.append((b"access-control-allow-headers", wanted))
        return answer

    def _admits(self, origin: bytes) -> bool:
        return self._all or origin in self._origins


def _lines(headers: Headers) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)
