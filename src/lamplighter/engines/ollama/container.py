"""Ollama as a container on a cloud node. Pure.

Ollama knows no keys: on the node it listens on the mesh's address alone, and the mesh's firewall lets only home reach it. The node is empty, so
the model is always pulled there, whatever `pull` says about servers of one's own.
"""

from lamplighter.config import ModelConfig
from lamplighter.engines.base import Container

IMAGE = "ollama/ollama:0.33.3"
PORT = 11434
_BRING = 'ollama pull "$0" && { ollama run "$0" "" || ollama show "$0" | grep -qi embedding; }'
"""Pull, and load (an empty prompt only loads); a model that only embeds cannot be loaded so, and needs no such thing."""


def container(name: str, config: ModelConfig) -> Container:
    """What to run. Ollama itself finds the GPUs."""
    return Container(
        image=config.image or IMAGE,
        environment={
            "OLLAMA_MODELS": "/models/ollama",
            "OLLAMA_KEEP_ALIVE": "-1",  # the node sleeps as a whole
            "OLLAMA_MAX_LOADED_MODELS": "1",
            **config.environment,
            "OLLAMA_HOST": f"0.0.0.0:{PORT}",
        },
        port=PORT,
        health="/api/version",
        prepare=("sh", "-c", _BRING, config.source or name),
    )
