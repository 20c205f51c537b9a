"""Ollama in a container: on a cloud node, or in a pod. Pure.

Ollama knows no keys: on a node it listens on the mesh's address alone, and the mesh's firewall lets only home reach it; in a cluster it is a
NetworkPolicy that keeps others away. What is not in the folder of weights is pulled, whatever `pull` says about servers of one's own; what is
there is taken as it is, so a pod with a filled cache needs no network, and a tag that moved changes nothing by itself (`lamplighter models pull`).

It has no path that says that the model is loaded: `prepare` loads it, and only then counts the start as done. After SIGTERM it cuts off what it
answers; the keeper drains before, and the gateway goes on with a cut stream elsewhere.
"""

from lamplighter.config import ModelConfig
from lamplighter.engines.base import Container

IMAGE = "ollama/ollama:0.33.3"
PORT = 11434
_BRING = '{ ollama show "$0" >/dev/null 2>&1 || ollama pull "$0"; } && { ollama run "$0" "" || ollama show "$0" | grep -qi embedding; }'
"""Pull what is not there, and load (an empty prompt only loads); a model that only embeds cannot be loaded so, and needs no such thing."""


def container(name: str, config: ModelConfig) -> Container:
    """What to run. Ollama itself finds the GPUs."""
    return Container(
        image=config.image or IMAGE,
        environment={
            "OLLAMA_MODELS": "/models/ollama",
            "OLLAMA_KEEP_ALIVE": "-1",  # the node sleeps as a whole
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NOPRUNE": "1",  # where several share the folder, what one is still pulling looks like rubbish to another
            **config.environment,
            "OLLAMA_HOST": f"0.0.0.0:{PORT}",
        },
        port=PORT,
        health="/api/version",
        prepare=("sh", "-c", _BRING, config.source or name),
    )
