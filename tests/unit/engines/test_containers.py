"""What a cloud node is told to run for a model: the right command for the GPU it has, no secret in it, and a refusal of what can never work."""

import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.errors import SourceError
from lamplighter.engines.base import Accelerator, Container, Containerised
from lamplighter.engines.llamacpp.engine import LlamaCpp
from lamplighter.engines.ollama.engine import Ollama
from lamplighter.engines.vllm.engine import Vllm

T4 = Accelerator("T4", 1, 16 * 2**30, bf16=False)
L4 = Accelerator("L4", 1, 24 * 2**30, bf16=True)
A10G = Accelerator("A10G", 1, 24 * 2**30, bf16=True)
H100 = Accelerator("H100", 1, 80 * 2**30, bf16=True)
FOUR = Accelerator("A10G", 4, 24 * 2**30, bf16=True)


def config(engine: str, source: str | None = None, **more: Any) -> ModelConfig:
    """A model of a cloud pool."""
    return ModelConfig.model_validate({"engine": engine, "pool": "spot", "source": source, **more})


def after(container: Container, name: str) -> str:
    """The value that follows an argument."""
    return container.arguments[container.arguments.index(name) + 1]


@pytest.mark.parametrize("engine", [Vllm(), Ollama(), LlamaCpp()])
def test_every_engine_of_a_cloud_pool_can_be_contained(engine: object) -> None:
    """The provider asks by this ability; an engine that lost it would be refused on every wake."""
    assert isinstance(engine, Containerised)


def test_vllm_serves_the_name_that_clients_use_where_the_mesh_publishes_it() -> None:
    """A wrong name or address would make every request fail on a machine that is already paid for."""
    made = Vllm().container("llama", config("vllm", "hf:meta-llama/Llama-3.2-3B-Instruct"), L4)
    assert made.arguments[0] == "meta-llama/Llama-3.2-3B-Instruct"
    assert after(made, "--served-model-name") == "llama"
    assert (after(made, "--host"), after(made, "--port")) == ("0.0.0.0", str(made.port))
    assert made.environment["HF_HUB_CACHE"] == made.weights
    assert "--download-dir" not in made.arguments, "vLLM would put a lock there, which a read-only cache refuses"
    assert made.health == "/health"
    assert ":v" in made.image


def test_a_gpu_without_bfloat16_gets_half_precision() -> None:
    """vLLM refuses to start on a T4 with a bfloat16 model otherwise."""
    model = config("vllm", "hf:a/b")
    assert after(Vllm().container("m", model, T4), "--dtype") == "half"
    assert "--dtype" not in Vllm().container("m", model, L4).arguments
    assert "--dtype" not in Vllm().container("m", model, None).arguments


def test_several_gpus_share_the_model_and_a_persons_own_arguments_win() -> None:
    """A 12xlarge would use one of its four GPUs; and what the configuration says must not be overridden in silence."""
    assert after(Vllm().container("m", config("vllm", "hf:a/b"), FOUR), "--tensor-parallel-size") == "4"
    own = Vllm().container(
        "m", config("vllm", "hf:meta-llama/Llama-3.2-3B-Instruct", arguments=["--dtype=float32", "-tp", "2"]), T4
    )
    assert own.arguments[-3:] == ("--dtype=float32", "-tp", "2")
    assert "--dtype" not in own.arguments
    assert "--tensor-parallel-size" not in own.arguments


def test_ollama_pulls_and_loads_its_model_and_stays_loaded() -> None:
    """Without the pull a node would be ready without its model; without keep-alive the weights would leave after five minutes."""
    made = Ollama().container(
        "llama", config("ollama", "llama3.2:3b", environment={"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_HOST": "x"}), T4
    )
    assert made.prepare[-1] == "llama3.2:3b"
    assert "ollama pull" in made.prepare[2]
    assert made.environment["OLLAMA_KEEP_ALIVE"] == "-1"
    assert made.environment["OLLAMA_NUM_PARALLEL"] == "4"
    assert made.environment["OLLAMA_HOST"] == f"0.0.0.0:{made.port}"
    assert made.environment["OLLAMA_MODELS"].startswith(made.weights)
    assert Ollama().container("phi4", config("ollama"), T4).prepare[-1] == "phi4"


def test_llama_cpp_gets_the_file_and_the_room_that_the_model_asks_for() -> None:
    """The context is per request and the server's is for all slots together: too little would cut answers short."""
    made = LlamaCpp().container("q", config("llamacpp", "hf:o/r:f-Q4.gguf", context=8192, slots=3, gpu_layers=12, threads=4), T4)
    assert (after(made, "--hf-repo"), after(made, "--hf-file"), after(made, "--alias")) == ("o/r", "f-Q4.gguf", "q")
    assert (after(made, "--ctx-size"), after(made, "--parallel")) == (str(3 * 8192), "3")
    assert (after(made, "--n-gpu-layers"), after(made, "--threads")) == ("12", "4")
    assert after(made, "--ubatch-size") == "8192"
    free = LlamaCpp().container("q", config("llamacpp", "hf:o/r", embeddings=False), T4)
    assert not {"--n-gpu-layers", "--hf-file", "--embeddings"} & set(free.arguments)


def test_llama_cpp_ranks_when_the_model_is_for_that() -> None:
    """A model for ranking answers nothing useful otherwise."""
    made = LlamaCpp().container("r", config("llamacpp", "hf:o/r", capabilities=["rerank"]), T4)
    assert "--rerank" in made.arguments
    assert "--embeddings" not in made.arguments


def test_the_catalogues_models_run_in_the_cloud_too() -> None:
    """`catalogue:NAME` is allowed there, so each of them must be found on the hub."""
    from lamplighter.engines.catalogue import CATALOGUE

    for name, entry in CATALOGUE.items():
        if entry.source.startswith("hf:"):
            assert "--hf-repo" in LlamaCpp().container(name, config("llamacpp", f"catalogue:{name}"), T4).arguments


@pytest.mark.parametrize(
    ("engine", "source"),
    [(Vllm(), "file:/models/x"), (Vllm(), None), (LlamaCpp(), "bundled"), (LlamaCpp(), "file:/x.gguf")],
)
def test_what_is_on_no_hub_is_refused_before_a_machine_is_paid_for(engine: Any, source: str | None) -> None:
    """A node has no files of ours: it would boot, fail and bill."""
    with pytest.raises(SourceError) as caught:
        engine.container("m", config(engine.kind, source), T4)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("engine", "source", "variable"),
    [(Vllm(), "hf:a/b", "VLLM_API_KEY"), (LlamaCpp(), "hf:a/b", "LLAMA_API_KEY")],
)
def test_keys_go_by_the_environment_alone(engine: Any, source: str, variable: str) -> None:
    """A command line can be read by every program of the machine, and is written into logs."""
    made = engine.container("m", config(engine.kind, source), T4)
    assert made.secrets[variable] == "key"
    assert made.secrets["HF_TOKEN"] == "hub_token"
    assert not any("key" in argument for argument in made.arguments)


def test_a_persons_own_image_is_taken() -> None:
    """A private registry or another version is one setting."""
    for engine, source in ((Vllm(), "hf:a/b"), (Ollama(), "m"), (LlamaCpp(), "hf:a/b")):
        assert engine.container("m", config(engine.kind, source, image="mine/engine:1"), None).image == "mine/engine:1"


def test_a_model_that_is_known_gets_the_context_that_its_gpu_can_hold() -> None:
    """Llama 3.2 was made for 131,072 tokens, which an A10G cannot hold: vLLM would refuse to start on a machine that is already paid for."""
    made = Vllm().container("llama", config("vllm", "hf:meta-llama/Llama-3.2-3B-Instruct"), A10G)
    assert 80_000 < int(after(made, "--max-model-len")) < 131_072
    assert 8 <= int(after(made, "--max-num-seqs")) <= 256
    assert after(made, "--gpu-memory-utilization") == "0.9"
    roomy = Vllm().container("llama", config("vllm", "hf:meta-llama/Llama-3.2-3B-Instruct"), H100)
    assert "--max-model-len" not in roomy.arguments, "all of it fits: the model's own length stays"


@pytest.mark.parametrize(
    "arguments", [["--max-model-len", "8192"], ["--max-model-len=8192"], ["--quantization=fp8"], ["--kv-cache-dtype", "fp8"]]
)
def test_what_a_person_says_about_memory_is_left_alone(arguments: list[str]) -> None:
    """Another sum would have to be made, and a second --max-model-len would win over theirs or hide a mistake."""
    made = Vllm().container("llama", config("vllm", "hf:meta-llama/Llama-3.2-3B-Instruct", arguments=arguments), A10G)
    ours = made.arguments[: -len(arguments)]
    assert not {"--max-model-len", "--max-num-seqs"} & set(ours)
    assert list(made.arguments[-len(arguments) :]) == arguments


def test_nothing_is_guessed_about_a_model_that_is_not_known() -> None:
    """Another repository may be another model."""
    assert "--max-model-len" not in Vllm().container("m", config("vllm", "hf:somebody/unknown"), A10G).arguments


def test_a_pinned_commit_is_sized_like_the_model_itself() -> None:
    """Whoever pins a commit, as production should, would get a server that cannot start; a branch in fewer bits is not refused for its name."""
    pinned = config("vllm", "hf:meta-llama/Llama-3.2-3B-Instruct", revision="0cb88a4f764b7a12671c53f0838cd831a0843b95")
    free = config("vllm", "hf:meta-llama/Llama-3.2-3B-Instruct")
    assert after(Vllm().container("m", pinned, A10G), "--max-model-len") == after(
        Vllm().container("m", free, A10G), "--max-model-len"
    )
    branch = config("vllm", "hf:meta-llama/Llama-3.3-70B-Instruct", revision="gptq-2bit")
    assert "--max-model-len" not in Vllm().container("m", branch, L4).arguments


def test_gemma_gets_single_precision_on_a_t4_and_not_half() -> None:
    """vLLM refuses Gemma in half precision, and a T4 has no bfloat16: it would never start."""
    made = Vllm().container("g", config("vllm", "hf:google/gemma-3-1b-it"), T4)
    assert after(made, "--dtype") == "float32"
    assert made.arguments.count("--dtype") == 1


def test_weights_that_can_never_fit_are_refused_before_a_machine_is_paid_for() -> None:
    """70 billion parameters on one L4: it would boot, download 140 GB, fail and bill."""
    with pytest.raises(SourceError, match="70B") as caught:
        Vllm().container("m", config("vllm", "hf:meta-llama/Llama-3.3-70B-Instruct"), L4)
    assert "lamplighter fit" in caught.value.next_step


def test_vllm_finishes_its_answers_when_its_pod_is_told_to_end() -> None:
    """Without a timeout vLLM cuts answers off at SIGTERM; one that does not know the flag would refuse to start."""
    made = Vllm().container("m", config("vllm", "hf:a/b"), L4)
    assert int(after(made, "--shutdown-timeout")) < made.stop_grace
    old = Vllm().container("m", config("vllm", "hf:a/b", image="vllm/vllm-openai:v0.11.2"), L4)
    assert "--shutdown-timeout" not in old.arguments
    for image in ("mirror:5000/vllm@sha256:" + "0" * 64, "mirror:5000/vllm/vllm-openai:v0.18.0", "mine:latest"):
        assert "--shutdown-timeout" in Vllm().container("m", config("vllm", "hf:a/b", image=image), L4).arguments


def test_machines_that_serve_together_find_each_other_by_their_group() -> None:
    """A model larger than one machine: only the first member answers, the others are told where it is."""
    made = Vllm().container("m", config("vllm", "hf:a/b"), replace(FOUR, nodes=2))
    assert made.member_arguments is not None
    assert (after(made, "--tensor-parallel-size"), after(made, "--pipeline-parallel-size")) == ("4", "2")
    assert (after(made, "--nnodes"), after(made, "--master-addr")) == ("2", "$(LWS_LEADER_ADDRESS)")
    assert set(made.member_arguments) - set(made.arguments) == {"--headless"}
    assert Vllm().container("m", config("vllm", "hf:a/b"), FOUR).member_arguments is None


def test_the_hubs_revision_reaches_the_engine() -> None:
    """A model that was pinned must not change because its owner pushed something."""
    assert after(Vllm().container("m", config("vllm", "hf:a/b", revision="abc123"), L4), "--revision") == "abc123"
    pinned = LlamaCpp().container("m", config("llamacpp", "hf:o/r:f.gguf", revision="abc123"), L4)
    assert after(pinned, "--model-url") == "https://huggingface.co/o/r/resolve/abc123/f.gguf"
    assert "--hf-repo" not in pinned.arguments
    with pytest.raises(SourceError, match="abc123"):
        LlamaCpp().container("m", config("llamacpp", "hf:o/r", revision="abc123"), L4)


@pytest.mark.parametrize(("engine", "source"), [(Vllm(), "hf:a/b"), (Ollama(), "m"), (LlamaCpp(), "hf:a/b")])
def test_engines_write_nowhere_but_to_the_weights_and_to_temporary_folders(engine: Any, source: str) -> None:
    """In a pod the root is read-only, and a cache or a lock anywhere else would end the engine at its start."""
    made = engine.container("m", config(engine.kind, source), L4)
    folders = [value for value in made.environment.values() if value.startswith("/")]
    assert folders
    for folder in folders:
        assert any(folder == place or folder.startswith(f"{place}/") for place in (made.weights, *made.writable)), folder


class Answering:
    """A server on loopback that answers one status."""

    def __init__(self, status: int) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked.append((self.path, self.headers["authorization"], body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> "Answering":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def prepared(port: int) -> int:
    """The exit status of what a pod runs to see whether vLLM has started, with `port` in place of its own."""
    made = Vllm().container("lamp", config("vllm", "hf:a/b"), L4)
    script = made.prepare[2].replace(f":{made.port}/", f":{port}/")
    words = [sys.executable, *made.prepare[1:2], script, *made.prepare[3:]]
    return subprocess.run(words, env={"VLLM_API_KEY": "secret"}, capture_output=True, check=False, timeout=30).returncode


@pytest.mark.parametrize(("status", "started"), [(200, True), (404, True), (400, True), (500, False), (503, False), (401, False)])
def test_vllm_counts_as_started_once_it_wrote_a_token(status: int, started: bool) -> None:
    """Its health is well while every answer fails (0.32): people would be sent there. A model that only embeds has no such route."""
    with Answering(status) as server:
        assert (prepared(server.server.server_port) == 0) is started
    assert server.asked == [("/v1/completions", "Bearer secret", b'{"model": "lamp", "prompt": "a", "max_tokens": 1}')]


def test_vllm_that_does_not_listen_yet_has_not_started() -> None:
    """A startup probe asks from the first second on."""
    with Answering(200) as server:
        port = server.server.server_port
    assert prepared(port) != 0
