"""Which settings fit which engine: a setting that does nothing must not be accepted in silence."""

import pytest

from lamplighter.config import parse
from lamplighter.core.errors import ConfigError

DESK = "desk: {kind: command, url: 'http://desk', wake: w, sleep: s}}"
POOLS = (
    "pools: {here: {kind: process}, nas: {kind: static, url: 'http://nas'}, ram: {kind: static, url: 'http://nas', sleep_after: 5m}, "
    + DESK
)


def model(settings: str) -> str:
    return f"models: {{m: {{{settings}}}}}\n{POOLS}"


@pytest.mark.parametrize(
    "settings",
    [
        "engine: vllm, pool: here, source: 'hf:o/m', program: /opt/vllm, arguments: [--dtype, half], environment: {CUDA_VISIBLE_DEVICES: '0'}",
        "engine: vllm, pool: nas, source: their-name, capabilities: [embeddings]",
        "engine: ollama, pool: here, source: 'llama3.2:3b', pull: true, environment: {OLLAMA_CONTEXT_LENGTH: '8192'}",
        "engine: ollama, pool: nas",
        "engine: vllm, pool: desk",
        "engine: ollama, pool: desk, pull: true, keep_warm: ['daily 08:00-18:00 UTC']",
        "engine: ollama, pool: ram, pull: true, keep_warm: ['daily 08:00-18:00 UTC']",
    ],
)
def test_what_fits_is_accepted(settings: str) -> None:
    """People could not use the engine at all."""
    assert parse(model(settings)).models["m"].engine in ("vllm", "ollama")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("engine: vllm, pool: here", "models.m.source: write hf:OWNER/REPO or file:PATH"),
        ("engine: vllm, pool: here, source: 'o/m'", "models.m.source"),
        ("engine: vllm, pool: nas, source: 'hf:o/m'", "the name by which the server itself knows"),
        ("engine: vllm, pool: nas, program: /opt/vllm", "models.m.program"),
        ("engine: vllm, pool: ram", "pools.ram.sleep_after"),
        ("engine: vllm, pool: here, source: 'hf:o/m', arguments: ['--port=1']", "--port is set by Lamplighter"),
        ("engine: vllm, pool: here, source: 'hf:o/m', context: 8192", "--max-model-len"),
        ("engine: vllm, pool: here, source: 'hf:o/m', pull: true", "models.m.pull: only for engine ollama"),
        ("engine: ollama, pool: here, arguments: [x]", "models.m.arguments: only for engine vllm"),
        ("engine: ollama, pool: nas, pull: true", "sleep_after"),
        ("engine: ollama, pool: nas, keep_warm: ['daily 08:00-18:00 UTC']", "always on"),
        ("engine: llamacpp, pool: desk, source: bundled", "runs in a pool of kind 'process'"),
        ("engine: ollama, pool: desk, program: /opt/ollama", "models.m.program"),
        ("engine: vllm, pool: desk, arguments: [x]", "somebody else's to start"),
        ("engine: llamacpp, pool: here, source: bundled, program: x", "models.m.program: only for engine vllm or ollama"),
        ("engine: ollama, pool: here, capabilities: []", "models.m.capabilities"),
        ("engine: ollama, pool: here, keep_warm: [whenever]", "Mon-Fri 08:00-18:00"),
    ],
)
def test_what_does_not_fit_is_named(settings: str, says: str) -> None:
    """A person would look for hours why a setting does nothing."""
    with pytest.raises(ConfigError) as caught:
        parse(model(settings))
    assert says in caught.value.message
