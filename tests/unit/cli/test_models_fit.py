"""`lamplighter fit` and `lamplighter models pull --to` as a person, an init container and a Job run them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamplighter.engines.sources import registry, repository
from lamplighter.engines.sources.registry import Pulled as OllamaPulled
from lamplighter.engines.sources.repository import Pulled
from tests.unit.cli.conftest import Result

Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("folder")
SMALL = "meta-llama/Llama-3.2-3B-Instruct"


def test_fit_says_the_flags_that_the_container_gets(lamplighter: Run) -> None:
    """What a person reads is what their pod runs with."""
    from lamplighter.config import ModelConfig
    from lamplighter.engines.base import Accelerator
    from lamplighter.engines.vllm.container import container

    result = lamplighter("fit", SMALL, "--gpu", "g5.xlarge", "--offline", "--json")
    assert result.exit == 0
    flags = json.loads(result.out)["flags"]
    config = ModelConfig.model_validate({"engine": "vllm", "pool": "p", "source": f"hf:{SMALL}"})
    arguments = container("m", config, Accelerator("A10G", 1, 24 * 2**30, bf16=True)).arguments
    assert " ".join(flags) in " ".join(arguments)


def test_fit_fails_for_scripts_when_it_does_not_fit(lamplighter: Run) -> None:
    """A pipeline that deploys must stop."""
    result = lamplighter("fit", "meta-llama/Llama-3.3-70B-Instruct", "--gpu", "L4", "--offline")
    assert result.exit == 1
    assert "does not fit" in result.out
    assert "awq" not in result.out, "not even four-bit weights fit an L4"
    assert "g5.48xlarge" in result.out


def test_fit_answers_a_wish(lamplighter: Run) -> None:
    """Context, parallel requests, another quantisation and an fp8 cache."""
    asked = ("fit", "Qwen/Qwen3-8B", "--gpu", "T4", "--quantization", "awq", "--context", "8192", "--parallel", "2", "--offline")
    result = lamplighter(*asked)
    assert result.exit == 0
    assert "--dtype half --max-model-len 8192 --max-num-seqs 2" in result.out
    assert lamplighter(*asked, "--kv-cache-dtype", "fp8", "--json").exit == 0
    assert lamplighter(*asked[:-1], "--quantization", "magic", "--offline").exit == 1
    assert lamplighter(*asked, "--kv-cache-dtype", "fp3").exit == 2
    assert "A10G" in lamplighter("fit", SMALL, "--gpu", "quantum", "--offline").err


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be pulled; nothing is."""
    asked: list[Any] = []

    def pull(repo: str, cache: Path, progress: Callable[[int, int | None], None], **options: object) -> Pulled:
        asked.append(
            ("hub", repo, cache, options["revision"], options["file"], options["gguf"], options["mirror"], options["verify"])
        )
        progress(1, 2)
        return Pulled(repo, str(options["revision"] or "main"), "c" * 40, cache / "x", 3, 5 * 10**9, 10, ("a",))

    def ollama(text: str, folder: Path, _progress: object, **options: object) -> OllamaPulled:
        asked.append(("ollama", text, folder, options["mirror"]))
        return OllamaPulled(text, folder, 3, 10, 10)

    monkeypatch.setattr(repository, "pull", pull)
    monkeypatch.setattr(registry, "pull", ollama)
    return asked


def test_an_init_container_fills_a_volume(lamplighter: Run, pulled: list[Any], tmp_path: Path) -> None:
    """The words that `providers.kubernetes.workload` gives it."""
    arguments = ("--engine", "vllm", "--progress", "lines", "--revision", "v1")
    result = lamplighter("models", "pull", "hf:a/b", "--to", str(tmp_path), *arguments)
    assert result.exit == 0, result.err
    assert pulled == [("hub", "a/b", tmp_path, "v1", None, False, None, False)]
    assert "hf:a/b: 1 B of 2 B" in result.err
    assert "only the size could be checked" in result.out
    assert lamplighter("models", "pull", "hf:a/b:x.gguf", "--to", str(tmp_path), "--engine", "llamacpp", "--force").exit == 0
    assert pulled[-1] == ("hub", "a/b", tmp_path, None, "x.gguf", True, None, True)
    assert lamplighter("models", "pull", "llama3.2:3b", "--to", str(tmp_path), "--engine", "ollama", "--json").exit == 0
    assert pulled[-1] == ("ollama", "llama3.2:3b", tmp_path / "ollama", None)


def test_a_bucket_is_read_through_the_provider(
    lamplighter: Run, pulled: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--mirror` is how a pool with an S3 cache fills its pods."""
    from lamplighter.providers.aws import weights

    monkeypatch.setattr(weights, "_client", lambda: "s3")
    assert lamplighter("models", "pull", "hf:a/b", "--to", str(tmp_path), "--mirror", "s3://bucket/models").exit == 0
    assert isinstance(pulled[-1][6], weights.Bucket)
    assert lamplighter("models", "pull", "hf:a/b", "--to", str(tmp_path), "--from-s3", "nonsense").exit == 5


def test_a_configured_model_is_pulled_by_its_name(lamplighter: Run, pulled: list[Any], tmp_path: Path) -> None:
    """Its source, engine and revision are in the file already."""
    file = tmp_path / "lamplighter.yaml"
    file.write_text(
        "models: {lamp: {engine: vllm, pool: gpu, source: 'hf:a/b', revision: v7}}\npools: {gpu: {kind: kubernetes}}\n"
    )
    assert lamplighter("models", "pull", "lamp", "--to", str(tmp_path), "--config", str(file)).exit == 0
    assert pulled[-1][1:4] == ("a/b", tmp_path, "v7")


@pytest.mark.parametrize(
    "wrong",
    [
        ("hf:a/b", "--mirror", "s3://bucket"),
        ("hf:a/b", "--engine", "vllm"),
        ("hf:a/b", "--to", "/tmp/x", "--engine", "magic"),
        ("hf:a/b", "--to", "/tmp/x", "--progress", "loud"),
        ("m", "--server", "http://127.0.0.1:9", "--keep-alive", "soon"),
    ],
)
def test_words_that_make_no_sense_together_are_refused(lamplighter: Run, wrong: tuple[str, ...]) -> None:
    """Before anything is fetched to the wrong place."""
    assert lamplighter("models", "pull", *wrong).exit == 2


def test_what_is_on_no_hub_cannot_go_into_a_folder(lamplighter: Run, tmp_path: Path) -> None:
    """The bundled model has a place of its own."""
    result = lamplighter("models", "pull", "bundled", "--to", str(tmp_path))
    assert result.exit != 0
    assert "hf:OWNER/REPO" in result.err


async def test_an_ollama_pulls_and_keeps_it_loaded(lamplighter: Run) -> None:
    """The Job that preloads a server: progress, then loaded for as long as asked."""
    import asyncio

    from lamplighter.testing.ollama import FakeOllama

    async with FakeOllama(library=["llama2:7b"]) as server:
        result = await asyncio.to_thread(
            lamplighter, "models", "pull", "llama2:7b", "--server", server.url, "--keep-alive", "never", "--progress", "lines"
        )
        assert result.exit == 0, result.err
        assert server.loads == ["llama2:7b"]
        assert server.orders[-1][2] == -1, "for ever"
