"""What we take for granted of vLLM, asked of a real one (0.32, CPU build, a tiny model with random weights) through our own gateway and keeper.

Run by `make vllm-contract`. A model with random weights says nothing sensible, so only the form of answers is looked at, never what they mean.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from lamplighter.engines.program import free_port
from lamplighter.engines.sources import repository
from lamplighter.engines.vllm.container import DRAIN, container
from tests.journeys.harness import Server, eventually
from tests.vllm_contract.conftest import BOOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(2 * BOOT)]
HELLO = [{"role": "user", "content": "light the lamp"}]
SCHEMA = {"type": "object", "properties": {"lit": {"enum": ["yes", "no"]}}, "required": ["lit"], "additionalProperties": False}


def test_a_request_wakes_it_by_stages(server: Server) -> None:
    """The person who asks first waits for a real start, and sees how far it is."""
    began = time.monotonic()
    seen: set[str] = set()
    with server.http() as client:
        client.post("/api/models/tiny/wake", json={}).raise_for_status()
    while (model := server.model("tiny"))["state"] != "awake":
        assert model["state"] in ("asleep", "waking"), model
        assert time.monotonic() - began < BOOT
        for stage in (model["wake"] or {}).get("stages", ()):
            if stage["started_at"]:
                seen.add(stage["name"])
        time.sleep(0.2)
    print(f"awake after {time.monotonic() - began:.1f} s, stages {sorted(seen)}")
    assert {"start", "load"} <= seen
    assert server.model("tiny")["context"] == 1024, "what it says of itself, and not what we told it"


def test_a_chat_is_answered_and_counted(awake: Server) -> None:
    """The plainest thing: an answer, and its tokens as the engine counts them."""
    answer = awake.openai().chat.completions.create(model="tiny", messages=HELLO, max_tokens=7, extra_body={"ignore_eos": True})
    assert answer.model == "tiny"
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_comes_piece_by_piece_with_its_usage(awake: Server) -> None:
    """Accounts of streams rest on `include_usage`."""
    stream = awake.openai().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=20, stream=True, stream_options={"include_usage": True}, extra_body={"ignore_eos": True}
    )  # fmt: skip
    pieces = list(stream)
    assert len(pieces) > 5
    assert pieces[-1].usage.completion_tokens == 20
    assert pieces[-1].choices == []


def test_a_schema_is_kept_to_even_by_a_model_that_knows_nothing(awake: Server) -> None:
    """Structured answers are the engine's work: random weights prove that."""
    answer = awake.openai().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=200, response_format={"type": "json_schema", "json_schema": {"name": "lamp", "schema": SCHEMA}}
    )  # fmt: skip
    assert json.loads(answer.choices[0].message.content)["lit"] in ("yes", "no")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "light"}}])
def test_a_tool_is_called_when_it_must_be(awake: Server, choice: Any) -> None:
    """Agents' requests go through unchanged, and the answer comes back as a call. (Its arguments are not held to the schema: 0.32 answers
    `Infinity` for these weights, asked directly as well; only a `response_format` is enforced.)"""
    tool = {"type": "function", "function": {"name": "light", "parameters": SCHEMA}}
    answer = awake.openai().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=200, tools=[tool], tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "light"
    assert isinstance(call.function.arguments, str)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/messages"])
def test_the_other_routes_that_we_announce_answer(awake: Server, path: str) -> None:
    """`capabilities` come from the engine's own document; each of them must be more than a name."""
    wanted = {"model": "tiny", "max_tokens": 5}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {**wanted, "prompt": "the lamp"},
        "/v1/responses": {"model": "tiny", "input": "the lamp", "max_output_tokens": 16},
        "/v1/messages": {**wanted, "messages": HELLO},
    }
    assert path.rpartition("/")[2] in awake.model("tiny")["capabilities"]
    with awake.http() as client:
        answer = client.post(path, json=bodies[path])
    assert answer.status_code == 200, answer.text


def test_what_is_too_long_is_the_clients_mistake(awake: Server) -> None:
    """A 4xx with a sentence that names the limit, never a 5xx that would open the breaker."""
    with pytest.raises(openai.BadRequestError) as caught:
        awake.openai().chat.completions.create(model="tiny", messages=[{"role": "user", "content": "lamp " * 3000}])
    assert "1024" in str(caught.value)


def test_a_client_that_leaves_stops_the_engine(awake: Server) -> None:
    """Otherwise a GPU goes on writing for nobody; the engine's own count says so."""
    with awake.http() as client:
        body = {"model": "tiny", "messages": HELLO, "max_tokens": 900, "stream": True, "ignore_eos": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for count, _line in enumerate(answer.iter_lines()):
                if count == 6:
                    assert metric(awake, "vllm:num_requests_running") == 1
                    break
    left = time.monotonic()
    eventually(lambda: metric(awake, "vllm:num_requests_running") == 0, what="the engine noticed", timeout=10)
    print(f"the engine had stopped {time.monotonic() - left:.2f} s after the client left")
    assert metric(awake, "vllm:request_success_total") >= 1


def test_its_metrics_have_the_names_that_we_read(awake: Server) -> None:
    """Scaling and the picture of a replica read these; a renamed one would look like an idle engine."""
    text = raw(awake, "/metrics").text
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "engine_sleep_state", "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_bucket", "prompt_tokens_total", "generation_tokens_total", "request_success_total",
    ):  # fmt: skip
        assert f"vllm:{name}{{" in text, name
    assert raw(awake, "/health", key=False).status_code == 200, "probes of a kubelet have no key"
    assert raw(awake, "/metrics", key=False).status_code == 200, "and neither has a scraper"
    assert raw(awake, "/v1/models", key=False).status_code == 401


def test_the_keeper_sees_its_queue(awake: Server) -> None:
    """What the probe makes of those metrics."""
    with awake.http() as client:
        body = {"model": "tiny", "messages": HELLO, "max_tokens": 900, "stream": True, "ignore_eos": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for count, _line in enumerate(answer.iter_lines()):
                if count == 2:
                    break
            eventually(lambda: awake.model("tiny")["in_flight"] == 1, what="one request in flight")
    eventually(lambda: awake.model("tiny")["in_flight"] == 0, what="none left")


@dataclass(frozen=True)
class File:
    """One file of a mirror."""

    size: int
    sha256: str | None = None
    md5: str | None = None


class Folder:
    """A mirror that is a folder: `any/thing` is the tiny model."""

    address = "here"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self, folder: str) -> Mapping[str, File]:
        assert folder == "any/thing"
        return {path.name: File(path.stat().st_size) for path in self.folder.iterdir()}

    def read(self, name: str) -> bytes:
        return (self.folder / name.rpartition("/")[2]).read_bytes()

    def download(self, name: str, part: Path, progress: Callable[[int], None]) -> None:
        part.write_bytes(self.read(name))
        progress(part.stat().st_size)


@pytest.fixture
def alone(vllm: Path, tmp_path: Path) -> Any:
    """A vLLM of its own, started with the arguments of a pod, offline, on a cache that `lamplighter models pull --to` filled."""
    from lamplighter.config import ModelConfig

    port = free_port()
    made = container("tiny", ModelConfig.model_validate({"engine": "vllm", "pool": "p", "source": "hf:any/thing"}), None)
    repository.pull("any/thing", tmp_path, lambda _done, _total: None, mirror=Folder(vllm / "model"))
    arguments = [*made.arguments]
    for name, value in (("--host", "127.0.0.1"), ("--port", str(port)), ("--shutdown-timeout", "30")):
        arguments[arguments.index(name) + 1] = value
    environment = {
        **os.environ, **made.environment, "HF_HUB_CACHE": str(tmp_path), "HF_HOME": str(tmp_path), "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
        "VLLM_API_KEY": "k", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    small = ["--max-model-len", "1024", "--max-num-seqs", "8", "--gpu-memory-utilization", "0.2", "--enforce-eager"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(vllm / "venv" / "bin" / "vllm"), "serve", *arguments, *small],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process, f"http://127.0.0.1:{port}", made, log
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in children:
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.kill()
        process.wait(10)


def test_a_pod_drains_after_sigterm(alone: Any) -> None:
    """What a pod's arguments promise: it finds what was pulled, is ready only when a token came, and finishes a running answer after SIGTERM."""
    process, address, made, log = alone
    ask = ["python3", "-c", made.prepare[2].replace("127.0.0.1:8000", address.removeprefix("http://")), made.prepare[3]]

    def prepared() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        return subprocess.run(ask, env={**os.environ, "VLLM_API_KEY": "k"}, capture_output=True, check=False).returncode == 0

    assert not prepared(), "it says that it is not ready while it starts"
    began = time.monotonic()
    eventually(prepared, what="the model answered", timeout=BOOT)
    assert httpx.get(f"{address}/health", timeout=5).status_code == 200
    print(f"a pod would be ready after {time.monotonic() - began:.1f} s")
    headers = {"authorization": "Bearer k"}
    body = {"model": "tiny", "prompt": "lamp", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body, headers=headers, timeout=60) as answer:
        lines = answer.iter_lines()
        for _ in range(4):
            next(lines)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        rest = list(lines)
    assert rest[-1] == "data: [DONE]" or "data: [DONE]" in rest, "the answer was cut off"
    drained = time.monotonic() - asked
    refused = None
    with contextlib.suppress(httpx.HTTPError):
        refused = httpx.post(
            f"{address}/v1/completions", json={**body, "stream": False, "max_tokens": 1}, headers=headers, timeout=10
        ).status_code
    process.wait(60)
    print(f"drained after {drained:.1f} s, a new request got {refused}, ended after {time.monotonic() - asked:.1f} s")
    assert refused != 200, "what asks a draining engine is refused: a pod's preStop must have told it before"
    assert made.stop_grace > DRAIN


def raw(server: Server, path: str, *, key: bool = True) -> httpx.Response:
    """Straight from the engine, past the gateway."""
    folder = server.engine_folder()
    spec, state = (json.loads((folder / file).read_text()) for file in ("spec.json", "state.json"))
    headers = {"authorization": f"Bearer {spec['key']}"} if key else {}
    return httpx.get(f"{state['url']}{path}", headers=headers, timeout=10)


def metric(server: Server, name: str) -> float:
    """The sum of a metric's samples."""
    lines = raw(server, "/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def test_it_ends_when_it_shall_sleep(awake: Server) -> None:
    """Last: nothing of vLLM's several processes may stay."""
    group = [process.pid for one in awake.engines() for process in (one, *one.children(recursive=True))]
    assert len(group) > 2
    awake.order("sleep", "tiny")
    awake.until("asleep", "tiny", timeout=60)
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in group), what="all its processes ended", timeout=20)
