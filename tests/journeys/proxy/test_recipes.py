"""The recipes of `deploy/proxy` with the real programs: what a person on the other side of the proxy sees."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_connection

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.journeys.harness import ADMIN_KEY, Server, running
from tests.journeys.proxy.programs import NAME, Proxy, caddy, nginx

CONFIG = """
server:
  public_url: https://llm.example.com
  trusted_proxies: [127.0.0.1]
gateway: {{heartbeat: {heartbeat}}}
models:
  slow: {{engine: fake, pool: cloud}}
pools:
  cloud: {{kind: fake, stages: {{boot: {boot}}}, tokens_per_second: 8}}
"""
KEY = {"authorization": f"Bearer {ADMIN_KEY}"}
QUESTION = {"model": "slow", "stream": True, "max_tokens": 12, "messages": [{"role": "user", "content": "Say something."}]}
Start = Callable[[Path, int], contextlib.AbstractContextManager[Proxy]]


@contextlib.contextmanager
def gateway(folder: Path, *, boot: str = "100ms", heartbeat: str = "1s") -> Iterator[Server]:
    with running(Server(folder / "data", CONFIG.format(boot=boot, heartbeat=heartbeat))) as server:
        yield server


def port_of(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1])


def pieces(client: httpx.Client) -> list[tuple[float, str]]:
    """One streamed answer: what came, and when."""
    found: list[tuple[float, str]] = []
    with client.stream("POST", "/v1/chat/completions", json=QUESTION, headers=KEY) as answer:
        assert answer.status_code == 200, answer.read()
        began = time.monotonic()
        found.extend((time.monotonic() - began, piece) for piece in answer.iter_text())
    return found


def test_nginx_with_a_short_timeout_lets_held_streams_live(tmp_path: Path) -> None:
    """Whoever asks a sleeping model through a proxy would get a gateway timeout instead of an answer."""
    with gateway(tmp_path, boot="7s") as server, nginx(tmp_path / "nginx", port_of(server), read_timeout="3s") as proxy:
        with proxy.client() as client:
            began = time.monotonic()
            got = pieces(client)
        assert time.monotonic() - began > 6
        text = "".join(piece for _, piece in got)
        assert text.count(": lamplighter waking") >= 4
        assert text.rstrip().endswith("data: [DONE]")


def test_without_heartbeats_it_would_be_cut(tmp_path: Path) -> None:
    """The test above would pass although nothing keeps the stream alive."""
    with (
        gateway(tmp_path, boot="7s", heartbeat="30s") as server,
        nginx(tmp_path / "nginx", port_of(server), read_timeout="2s") as proxy,
        proxy.client() as client,
    ):
        with contextlib.suppress(httpx.RemoteProtocolError):
            assert "[DONE]" not in "".join(piece for _, piece in pieces(client))
        server.until("awake", "slow")


@pytest.mark.parametrize("start", [nginx, caddy])
def test_everything_works_through_the_proxy(tmp_path: Path, start: Start) -> None:
    """The page, its socket, large prompts or the flow of tokens would break on the way that most people come by."""
    with gateway(tmp_path) as server, start(tmp_path / "proxy", port_of(server)) as proxy, proxy.client() as client:
        got = [(at, piece) for at, piece in pieces(client) if "data:" in piece]
        assert got[-1][0] - got[0][0] > 0.5, "the tokens came all at once"

        page = client.get("/")
        assert page.headers["strict-transport-security"]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]

        opened = client.post("/api/session", json={"key": ADMIN_KEY})
        cookie = opened.headers["set-cookie"]
        assert "Secure" in cookie
        assert "SameSite=strict" in cookie
        link = client.post("/api/login-links", json={}, headers=KEY).json()["url"]
        assert link.startswith(f"https://{NAME}/#login=")

        name, _, value = cookie.partition(";")[0].partition("=")
        plug = create_connection(("127.0.0.1", proxy.port), 20)
        with connect(
            f"wss://{NAME}:{proxy.port}/api/ws",
            sock=plug, ssl=proxy.trust, server_hostname=NAME, origin=Origin(f"https://{NAME}"),
            additional_headers={"cookie": f"{name}={value}"}, proxy=None,
        ) as socket:  # fmt: skip
            assert json.loads(socket.recv(timeout=20))

        large = {**QUESTION, "stream": False, "messages": [{"role": "user", "content": "word " * 1_700_000}]}  # 8.5 MB
        answer = client.post("/v1/chat/completions", json=large, headers=KEY)
        assert answer.json()["error"]["code"] == "context_length_exceeded"  # the engine itself says that
        larger = {**QUESTION, "messages": [{"role": "user", "content": "word " * 2_200_000}]}
        with contextlib.suppress(httpx.TransportError):  # a proxy may close while the body still comes
            assert client.post("/v1/chat/completions", json=larger, headers=KEY).status_code == 413


def test_the_client_behind_the_proxy_is_known(tmp_path: Path) -> None:
    """One person who guesses keys would lock everybody out behind the same proxy; or could, by naming other addresses, guess for ever."""
    with gateway(tmp_path) as server, nginx(tmp_path / "nginx", port_of(server)) as proxy, proxy.client() as client:
        statuses = []
        for guess in range(14):  # the client's own header changes each time: nginx adds the true address behind it
            told = {"x-forwarded-for": f"198.51.100.{guess}"}
            statuses.append(client.post("/api/session", json={"key": f"lk-wrong-{guess}"}, headers=told).status_code)
        assert statuses[0] == 401
        assert statuses[-1] == 429
