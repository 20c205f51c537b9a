"""A pretended vLLM: its routes, its metrics, its log while it starts, and its ways to fail, as of vLLM 0.32; no model, no GPU.

In a test: `async with FakeVllm(model="m") as server`. As a program that takes vLLM's own command line, so that a configuration can name it:
`python -m lamplighter.testing.vllm serve MODEL --host H --port P ...`; what begins with `--fake-` says how it behaves. The contract was checked
against a real one (`tests/contract/test_vllm.py`). Not responsible for making sense: answers are `testing.engine`'s.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from lamplighter.testing.engine import FakeEngine
from lamplighter.testing.http import Exchange

GENERATES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
POOLS = ("/v1/embeddings", "/pooling", "/tokenize", "/detokenize")
RANKS = ("/v1/rerank", "/rerank", "/v1/score", "/tokenize", "/detokenize")
TASKS = {"generate": GENERATES, "embed": POOLS, "rank": RANKS}
"""The routes that vLLM has for what a model is made for; the others answer 404."""
_OPEN = ("/health", "/metrics", "/load", "/version", "/openapi.json", "/is_sleeping", "/sleep", "/wake_up", "/ping")
"""What it answers without a key."""

FAILURES: dict[str, str] = {
    "cuda_oom": "(EngineCore pid=7) ERROR 11-22 02:43:00 [core.py:1512] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.25 GiB. "
    "GPU 0 has a total capacity of 23.64 GiB of which 1.10 GiB is free.\nRuntimeError: Engine core initialization failed. See root cause above.",
    "no_cache": "(EngineCore pid=7) ERROR 11-22 02:43:00 [core.py:1512] ValueError: No available memory for the cache blocks. Try increasing "
    "`gpu_memory_utilization` when initializing the engine.",
    "gpu_busy": "(EngineCore pid=7) ERROR 11-22 02:43:00 [core.py:1512] ValueError: Free memory on device cuda:0 (3.1/23.6 GiB) on startup is less "
    "than desired GPU memory utilization (0.9, 21.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    "context": "(EngineCore pid=7) ERROR 11-22 02:43:00 [core.py:708] ValueError: To serve at least one request with the models's max seq len "
    "(40960), (5.62 GiB KV cache is needed, which is larger than the available KV cache memory (4.50 GiB). Based on the available memory, the "
    "estimated maximum model length is 32768. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.",
    "gated": "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1)\n\nCannot access gated repo for url "
    "https://hub.example/meta-llama/Llama-3.2-3B-Instruct/resolve/main/config.json.\nAccess to model meta-llama/Llama-3.2-3B-Instruct is restricted.",
    "missing": "OSError: nobody/nothing is not a local folder and is not a valid model identifier listed on the hub",
    "offline": "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the Hub",
    "disk": "OSError: [Errno 28] No space left on device",
    "architecture": "(APIServer pid=7) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, Model "
    "architectures ['MambaByteForCausalLM'] are not supported for now. [type=value_error]",
    "no_gpu": "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging",
    "corrupt": "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
    "usage": "usage: vllm serve [model_tag] [options]\nvllm serve: error: unrecognized arguments: --no-such-thing",
    "unknown": "ValueError: something that nobody has seen before",
}  # fmt: skip
"""What it writes before it ends, by what went wrong; `usage` ends with status 2, all others with 1."""

STARTING = (
    "(APIServer pid=7) INFO 11-22 02:40:42 [model.py:733] Resolved architecture: LlamaForCausalLM",
    "(EngineCore pid=8) INFO 11-22 02:41:06 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m', max_seq_len=512",
    "(Worker pid=9) INFO 11-22 02:41:26 [gpu_model_runner.py:68] Starting to load model m...",
    "\rLoading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]\r",
    "\rLoading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01, 1.10it/s]\r",
    "\rLoading safetensors checkpoint shards: 100% Completed | 2/2 [00:02<00:00, 1.20it/s]\n",
    "(Worker pid=9) INFO 11-22 02:41:28 [default_loader.py:501] Loading weights took 2.01 seconds",
    "(Worker pid=9) INFO 11-22 02:41:30 [backends.py:608] Dynamo bytecode transform time: 1.50 s",
    "(Worker pid=9) INFO 11-22 02:41:36 [monitor.py:34] torch.compile takes 6.10 s in total",
    "(EngineCore pid=8) INFO 11-22 02:41:37 [kv_cache_utils.py:2327] GPU KV cache size: 123,456 tokens",
    "\rCapturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|████      | 4/10 [00:00<00:00, 8.00it/s]\r",
    "(Worker pid=9) INFO 11-22 02:41:39 [gpu_model_runner.py:2650] Graph capturing finished in 2 secs, took 0.55 GiB",
    "(EngineCore pid=8) INFO 11-22 02:41:39 [core.py:402] init engine (profile, create kv cache, warmup model) took 11.20 s",
    "(APIServer pid=7) INFO 11-22 02:41:40 [entry.py:140] Starting vLLM server on http://127.0.0.1:8000",
)  # fmt: skip
"""Its log on the way to ready."""


class FakeVllm(FakeEngine):
    """A `FakeEngine` behind vLLM's routes. `task`: what its model is for. `dead`: its inner engine crashed. `asleep`: its weights are unloaded.

    `development`: whether the routes of its development mode exist.
    """

    def __init__(self, *, task: str = "generate", development: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.task = task
        self.development = development
        self.asleep = False
        self.dead = False
        self.waiting = 0
        """Requests that it says wait inside it."""

    async def _serve(self, exchange: Exchange) -> None:
        path, key = exchange.request.path, self.behaviour.key
        if path not in _OPEN and key is not None and exchange.request.headers.get("authorization") != f"Bearer {key}":
            return _json(exchange, 401, {"error": "Unauthorized"})
        if path == "/health":
            return exchange.answer(503 if self.dead else 200, b"", "text/plain")
        if path == "/metrics":
            return exchange.answer(200, self.metrics().encode(), "text/plain; version=0.0.4")
        if path == "/openapi.json":
            return _json(
                exchange, 200, {"openapi": "3.1.0", "paths": {one: {} for one in (*TASKS[self.task], "/v1/models", *_OPEN)}}
            )
        if path == "/version":
            return _json(exchange, 200, {"version": "0.32.0"})
        if path == "/load":
            return _json(exchange, 200, {"server_load": self.counters.running})
        if path in ("/is_sleeping", "/sleep", "/wake_up") and self.development:
            self.asleep = path == "/sleep" or (self.asleep and path != "/wake_up")
            return _json(exchange, 200, {"is_sleeping": self.asleep})
        if path == "/v1/models":
            model = {"id": self.behaviour.model, "object": "model", "owned_by": "vllm", "max_model_len": self.behaviour.context}
            return _json(exchange, 200, {"object": "list", "data": [model]})
        if path not in TASKS[self.task]:
            return _json(exchange, 404, {"detail": "Not Found"})
        if self.asleep:
            await asyncio.Event().wait()  # as the real one does
        if self.dead:
            error = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": None, "code": 500}
            return _json(exchange, 500, {"error": error})
        if path == "/tokenize":
            words = str(json.loads(exchange.request.body).get("prompt", "")).split()
            return _json(
                exchange, 200, {"count": len(words), "max_model_len": self.behaviour.context, "tokens": list(range(len(words)))}
            )
        return await super()._serve(exchange)

    def metrics(self) -> str:
        """The samples that matter, in its own words."""
        labels = f'engine="0",model_name="{self.behaviour.model}"'
        return (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{{{labels}}} {float(self.counters.running)}\n"
            f"vllm:num_requests_waiting{{{labels}}} {float(self.waiting)}\n"
            f'vllm:num_requests_waiting_by_reason{{{labels},reason="capacity"}} {float(self.waiting)}\n'
            f'vllm:engine_sleep_state{{{labels},sleep_state="awake"}} {float(not self.asleep)}\n'
            f'vllm:engine_sleep_state{{{labels},sleep_state="weights_offloaded"}} {float(self.asleep)}\n'
            f"vllm:kv_cache_usage_perc{{{labels}}} {min(1.0, self.counters.running / 100)}\n"
        )


def _json(exchange: Exchange, status: int, value: Any) -> None:
    exchange.answer(status, json.dumps(value).encode())


def main() -> int:
    """Take vLLM's own command line, write its log, and serve until ended."""
    arguments = _arguments()
    if arguments.fake_fail:
        _say(FAILURES[arguments.fake_fail] + "\n")
        return 2 if arguments.fake_fail == "usage" else 1
    if arguments.fake_deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.fake_child:  # as vLLM's own engine processes: not ended by the end of their parent
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)",
                arguments.fake_child,
            ]
        )
    for line in STARTING:
        _say(line if line.startswith("\r") else f"{line}\n")
        time.sleep(arguments.fake_load_seconds / len(STARTING))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(arguments))
    return 1 if arguments.fake_crash_after else 0


async def _run(arguments: argparse.Namespace) -> None:
    options: dict[str, Any] = {
        "model": arguments.served_model_name or arguments.model,
        "key": os.environ.get("VLLM_API_KEY"),  # noqa: TID251 - so vLLM itself is told its key
        "context": arguments.max_model_len,
        "tokens_per_second": arguments.fake_tokens_per_second,
        "tokens": arguments.fake_tokens,
    }
    async with FakeVllm(host=arguments.host, port=arguments.port, task=arguments.fake_task, **options) as server:
        server.dead = arguments.fake_dead
        ended = asyncio.Event()
        if not arguments.fake_deaf:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        if arguments.fake_crash_after:
            await asyncio.sleep(arguments.fake_crash_after)
            _say("(EngineCore pid=8) ERROR 11-22 03:00:00 [core.py:1512] torch.OutOfMemoryError: CUDA out of memory.\n")
            return
        await ended.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", default=None)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--fake-load-seconds", type=float, default=0.0)
    parser.add_argument("--fake-fail", choices=sorted(FAILURES), default=None)
    parser.add_argument("--fake-task", choices=sorted(TASKS), default="generate")
    parser.add_argument("--fake-tokens", type=int, default=16)
    parser.add_argument("--fake-tokens-per-second", type=float, default=0.0)
    parser.add_argument("--fake-dead", action="store_true", help="well by /health, and unable to answer")
    parser.add_argument("--fake-deaf", action="store_true", help="SIGTERM does nothing")
    parser.add_argument("--fake-child", default=None, metavar="MARK", help="leave a child that has MARK in its command line")
    parser.add_argument("--fake-crash-after", type=float, default=None, metavar="SECONDS")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
