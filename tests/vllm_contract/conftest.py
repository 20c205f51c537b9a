"""A real vLLM behind our gateway, started once for all contracts, by a wake like any other."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.harness import Server

BOOT = 600.0
"""Seconds for vLLM to start on a busy machine; on a quiet one with two cores it takes about one minute."""


@pytest.fixture(scope="session")
def vllm() -> Path:
    """The folder that `make vllm-contract` made: `venv` and `model`."""
    folder = os.environ.get("LAMPLIGHTER_VLLM_CONTRACT")
    if folder is None:
        pytest.skip("needs a real vLLM: `make vllm-contract` makes one and runs these")
    return Path(folder)


@pytest.fixture(scope="session")
def server(vllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Lamplighter with vLLM in a process pool; asleep. It compiles nothing (`--enforce-eager`), which would only take time here."""
    config = f"""
models:
  tiny:
    engine: vllm
    pool: here
    source: file:{vllm / "model"}
    program: {vllm / "venv" / "bin" / "vllm"}
    arguments:
      [--max-model-len, "1024", --max-num-seqs, "8", --gpu-memory-utilization, "0.2", --enforce-eager, --enable-auto-tool-choice,
       --tool-call-parser, hermes]
    environment: {{VLLM_CPU_KVCACHE_SPACE: "1", HF_HUB_OFFLINE: "1"}}
pools:
  here: {{kind: process, sleep_after: 30m, boot_deadline: 10m}}
keeper: {{interval: 0.5s}}
"""
    data = tmp_path_factory.mktemp("vllm") / "data"
    data.mkdir(mode=0o700)
    made = Server(data, config)
    made.start()
    try:
        yield made
        assert made.stop(60) == 0, made.text()[-4000:]
        assert made.engines() == []
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()
        for process in made.engines():
            process.kill()


@pytest.fixture(scope="session")
def awake(server: Server) -> Server:
    """The same, with the model awake."""
    server.order("wake", "tiny")
    server.until("awake", "tiny", timeout=BOOT)
    return server
