"""Several servers behind one name: one dies and comes back, or only fails, and nobody is made to wait for it."""

import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.journeys.harness import ADMIN_KEY, Server, eventually, running


def free_port() -> int:
    """A port that nothing uses: the engines of this journey must come back where they were."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def engine(port: int, *arguments: str, model: str = "llama") -> Iterator["subprocess.Popen[bytes]"]:
    """A pretended engine as a process of its own; it is running when this yields."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lamplighter.testing.engine", "--port", str(port), "--model", model, *arguments],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"http://")
        yield process
    finally:
        process.kill()
        process.wait(10)


def config(*ports: int, more: str = "", models: str = "") -> str:
    first, *others = (f"http://127.0.0.1:{port}" for port in ports)
    servers = ", ".join(f'{{url: "{url}"}}' for url in others)
    return (
        f'pools: {{rack: {{kind: static, url: "{first}", servers: [{servers}]}}, spare: {{kind: static, url: "http://127.0.0.1:9"}}}}\n'
        f"models:\n  llama: {{engine: openai, pool: rack, aliases: [gpt-4o]}}\n{models}"
        f"keeper: {{interval: 500ms}}\n{more}"
    )


def awake(server: Server, count: int) -> bool:
    states = [replica["state"] for pool in server.status()["pools"] for replica in pool["replicas"]]
    return states.count("ready") == count


def circuits(server: Server) -> list[str]:
    return [
        replica["breaker"]["state"] for pool in server.status()["pools"] for replica in pool["replicas"] if replica["breaker"]
    ]


def test_one_of_two_servers_dies_and_comes_back(server: Callable[..., Server]) -> None:
    """A crash would cost the answers that the other server could have given; or the one that is back would never be used again."""
    ports = free_port(), free_port()
    with (
        engine(ports[0], "--tokens-per-second", "200") as first,
        engine(ports[1], "--tokens-per-second", "200"),
        running(server(config(*ports))) as lamplighter,
    ):
        eventually(lambda: awake(lamplighter, 2), what="both servers are found")

        def ask(number: int) -> int:
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"Question {number}"}], "max_tokens": 8}
            time.sleep(number % 10 * 0.01)
            return client.post("/v1/chat/completions", json=body).status_code

        with lamplighter.http() as client, ThreadPoolExecutor(8) as crowd:
            before = list(crowd.map(ask, range(60)))
            answers = [crowd.submit(ask, number) for number in range(200)]
            first.kill()
            statuses = Counter(answer.result() for answer in answers)
        assert Counter(before) == {200: 60}
        assert statuses == {200: 200}, "what the dead server had not begun to answer, the other one answered"
        eventually(lambda: awake(lamplighter, 1), what="the keeper sees that one is gone")
        first.wait(10)
        with engine(ports[0]):
            eventually(lambda: awake(lamplighter, 2), what="the server is back")
            with lamplighter.http() as client, ThreadPoolExecutor(8) as crowd:
                assert Counter(crowd.map(ask, range(40))) == {200: 40}
            assert circuits(lamplighter).count("open") == 0


def test_a_lone_server_that_only_fails(server: Callable[..., Server]) -> None:
    """Each client would wait for a failure of its own, and `lamplighter status` would call the model well."""
    port = free_port()
    with (
        engine(port, "--wrong", "garbage"),
        running(server(config(port, more="breaker: {failures: 4, open: 20s}\n"))) as lamplighter,
    ):
        eventually(lambda: awake(lamplighter, 1), what="the server is found")
        body = {"model": "llama", "messages": [{"role": "user", "content": "Hello"}]}
        with lamplighter.http() as client:
            answers = [client.post("/v1/chat/completions", json=body) for _ in range(8)]
        codes = [answer.json()["error"]["code"] for answer in answers]
        assert codes == ["upstream_protocol"] * 4 + ["circuit_open"] * 4
        assert all(1 <= int(answer.headers["retry-after"]) <= 20 for answer in answers[4:])
        assert "4 times in a row" in answers[-1].json()["error"]["message"]
        shown = subprocess.run(
            [sys.executable, "-m", "lamplighter", "status", "--url", lamplighter.url, "--key", ADMIN_KEY],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert re.search(r"has been failing for 0:\d\d: .*; tried again in 0:\d\d", shown.stdout + shown.stderr)


def test_another_model_answers_when_its_servers_are_gone(server: Callable[..., Server]) -> None:
    """Everybody would get errors although a smaller model is awake."""
    port, spare = free_port(), free_port()
    models = "  small: {engine: openai, pool: spare}\n"
    text = config(port, models=models).replace("aliases: [gpt-4o]", "fallback: [small]").replace("http://127.0.0.1:9", f"http://127.0.0.1:{spare}")  # fmt: skip
    with engine(port) as first, engine(spare, model="small"), running(server(text)) as lamplighter:
        eventually(lambda: awake(lamplighter, 2), what="both servers are found")
        body = {"model": "llama", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        with lamplighter.http() as client:
            answer = client.post("/v1/chat/completions", json=body)
            assert (answer.status_code, answer.headers.get("lamplighter-served-by")) == (200, None)
            first.kill()
            for _ in range(10):
                answer = client.post("/v1/chat/completions", json=body)
                assert (answer.status_code, answer.headers.get("lamplighter-served-by")) == (200, "small")
