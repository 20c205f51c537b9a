"""A server of files on a real socket, with the faults of real ones: for the tests of downloads beside it."""

import re
from dataclasses import dataclass, field
from typing import Any

from lamplighter.testing.http import Exchange, HttpServer, Request


@dataclass
class Origin:
    """`files`: path to content. `breaks`: cut the connection after so many body bytes, once for each entry. `statuses`: answered first."""

    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = HttpServer(self.serve)

    @property
    def url(self) -> str:
        return self.server.url

    async def __aenter__(self) -> "Origin":
        await self.server.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.server.stop()

    async def serve(self, exchange: Exchange) -> None:
        request = exchange.request
        self.seen.append(request)
        if self.statuses:
            return exchange.answer(self.statuses.pop(0), b"", headers={"retry-after": "1"})
        if request.path in self.redirects:
            return exchange.answer(302, b"", headers={"location": self.redirects[request.path]})
        content = self.files.get(request.path)
        if content is None:
            return exchange.answer(404, b"")
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if match and self.ranges:
            start = int(match[1])
            if start >= len(content):
                return exchange.answer(416, b"", headers={"content-range": f"bytes */{len(content)}"})
        body = content[start:]
        headers = {"content-type": self.types.get(request.path, "application/octet-stream"), **self.headers}
        if start:
            headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        exchange.start(206 if start else 200, headers, length=len(body))
        if request.method == "HEAD":
            return exchange.end()
        if self.breaks:
            exchange.write(body[: self.breaks.pop(0)])
            return exchange.close()
        exchange.write(body)
        return exchange.end()
