"""The agent's HTTP interface: what the keeper asks over the mesh, with the token of the assignment. Not responsible for what follows from it."""

from __future__ import annotations

import hmac
import http.server
import json
import socketserver
import threading
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from lamplighter.node.assignment import nebula_files
from lamplighter.node.basics import BODY_LIMIT, log
from lamplighter.node.deadman import Deadman
from lamplighter.node.nebula import Nebula

LOGS = ("bootstrap", "cluster", "engine", "nebula", "agent")
_OK: dict[str, Any] = {"ok": True}


class Asked(Protocol):
    """What the interface needs of the agent."""

    deadman: Deadman
    nebula: Nebula

    @property
    def token(self) -> str:
        """Which every request but `/health` must bear."""
        ...

    def met(self) -> None:
        """Somebody who knows the token dialled."""
        ...

    def status(self) -> dict[str, Any]:
        """The answer of `/status`."""
        ...

    def log(self, name: str, limit: int) -> str:
        """The end of a log."""
        ...

    def kubeconfig(self) -> str:
        """Of the node's own cluster, for whoever is in the mesh. Raises OSError when there is none."""
        ...

    def ask_end(self, reason: str) -> None:
        """End the node at once."""
        ...


class Server(http.server.ThreadingHTTPServer):
    """On the mesh's address alone; at most 16 requests at a time."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], agent: Asked) -> None:
        super().__init__(address, Handler)
        self.agent = agent
        self._free = threading.Semaphore(16)

    def server_bind(self) -> None:
        """Without the library's question to the name service, which may take long to know nothing."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """One too many is closed unread."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In its own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that misbehaves or leaves is no news."""
        log.debug("a request of %s broke", client_address, exc_info=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request, one connection (HTTP/1.0). `/health` is open; all else wants the token."""

    server: Server
    timeout = 5
    server_version, sys_version = "lamplighter-agent", ""

    def do_GET(self) -> None:
        """See `_route`."""
        self._do("GET")

    def do_POST(self) -> None:
        """See `_route`."""
        self._do("POST")

    def _do(self, method: str) -> None:
        url = urlsplit(self.path)
        content: Any
        try:
            if url.path == "/health":
                status, content = 200, _OK
            elif self._allowed():
                status, content = self._route(f"{method} {url.path}", parse_qs(url.query))
            else:
                status, content = 401, {"error": "unauthorized"}
        except (ValueError, KeyError, TypeError) as error:
            status, content = 400, {"error": str(error)[:200]}
        except OSError as error:
            status, content = 500, {"error": str(error)[:200]}
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if isinstance(content, str) else "application/json")
        self.end_headers()
        self.wfile.write(text.encode(errors="replace"))
        if status == 202:
            self.server.agent.ask_end("asked")

    def _route(self, what: str, query: Mapping[str, list[str]]) -> tuple[int, Any]:
        agent = self.server.agent
        if what == "GET /status":
            return 200, agent.status()
        if what == "GET /logs":
            name, count = query["name"][0], int(query.get("bytes", ["65536"])[0])
            if name not in LOGS or count < 1:
                raise ValueError(f"name is one of {LOGS}")
            return 200, agent.log(name, min(count, BODY_LIMIT))
        if what == "GET /kubeconfig":
            return 200, agent.kubeconfig()
        if what == "POST /lease":
            seconds = self._body()["seconds"]
            if type(seconds) not in (int, float) or not 0 < seconds < 1e6:
                raise ValueError("seconds is a number above 0")
            if agent.deadman.ending:
                return 409, {"error": f"ending: {agent.deadman.ending}"}
            return 200, {"remaining": agent.deadman.renew(seconds)}
        if what == "POST /nebula":
            agent.nebula.install(nebula_files(self._body()["files"]))
            return 200, {"fingerprint": agent.nebula.fingerprint()}
        if what == "POST /end":
            log.warning("asked to end: %.200r", self._body().get("reason"))
            return 202, _OK
        return 404, {"error": "not found"}

    def _allowed(self) -> bool:
        agent = self.server.agent
        given = (self.headers.get("Authorization") or "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {agent.token}".encode()):
            return False
        agent.met()
        return True

    def _body(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length", 0))
        if not 0 <= length <= BODY_LIMIT:
            raise ValueError("the body is too large")
        body = json.loads(self.rfile.read(length) or b"{}")
        if not isinstance(body, dict):
            raise TypeError("the body is not an object")
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Not into any log."""
