"""Pretended engines in pretended pods: they listen on the pod's own address of loopback (127.88.x.y), at the container's port.

On Linux all of 127.0.0.0/8 is this machine; elsewhere the addresses must be added to the loopback interface first.
"""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.engine import Counters, FakeEngine
from lamplighter.testing.kubernetes.outcomes import MODEL_NAME
from lamplighter.testing.ollama import FakeOllama
from lamplighter.testing.vllm import FakeVllm

_KEYS = ("VLLM_API_KEY", "LLAMA_API_KEY", "LLAMA_ARG_API_KEY", "OLLAMA_API_KEY", "ENGINE_KEY", "API_KEY")
_NAMES = ("--served-model-name", "--alias", "-a")
_TRIES = 200


class PodEngine(Protocol):
    """What all pretended engines have in common."""

    async def start(self) -> None:
        """Listen."""

    async def stop(self) -> None:
        """End; connections are cut."""

    def crash(self) -> None:
        """Die."""


def free_address(port: int) -> str:
    """An address of 127.88.0.0/16 on which nobody listens at `port`. Raises OSError when there is none."""
    for _ in range(_TRIES):
        address = _random("127.88")
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return address
    raise OSError(f"no address of 127.88.0.0/16 is free at port {port}; does this machine have them on its loopback interface?")


def made_up_address() -> str:
    """An address for a pod in which nothing listens: API servers take no address of loopback for a Service's endpoint."""
    return _random("10.88")


def _random(network: str) -> str:
    return f"{network}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"


def port_of(pod: Manifest) -> tuple[str, int] | None:
    """The container that serves, and its port: the one named `engine`, else the first."""
    ports = [(one["name"], port) for one in pod["spec"]["containers"] for port in one.get("ports") or []]
    chosen = next((one for one in ports if one[1].get("name") == "engine"), ports[0] if ports else None)
    return None if chosen is None else (chosen[0], int(chosen[1]["containerPort"]))


def serves_model(pod: Manifest) -> bool:
    """Whether an engine runs in it: other pods (a chart's own) run nothing here and are ready by themselves."""
    names = [port.get("name") for one in pod["spec"]["containers"] for port in one.get("ports") or []]
    return "engine" in names or MODEL_NAME in (pod["metadata"].get("annotations") or {})


def make_engine(
    pod: Manifest, container: Manifest, environment: Mapping[str, str], host: str, port: int, behaviour: Mapping[str, Any]
) -> PodEngine:
    """The pretended engine that the image's name calls for, with the model and key that the container was given."""
    words = [str(word) for word in (*(container.get("command") or ()), *(container.get("args") or ()))]
    model = next((words[at + 1] for at, word in enumerate(words[:-1]) if word in _NAMES), None)
    if model is None:
        model = next((word.partition("=")[2] for word in words if word.partition("=")[0] in _NAMES and "=" in word), None)
    named = (pod["metadata"].get("annotations") or {}).get(MODEL_NAME, "fake")
    key = next((environment[name] for name in _KEYS if name in environment), None)
    if key is None and "--api-key" in words:
        key = words[words.index("--api-key") + 1]
    image = container["image"]
    if "ollama" in image:
        wanted = str(behaviour.get("model") or environment.get("LAMPLIGHTER_MODEL") or named)
        return FakeOllama(
            host=host, port=port, models=[wanted], library=[wanted], **{k: v for k, v in behaviour.items() if k != "model"}
        )
    options = {"model": model or named, "key": key, **behaviour}
    if "vllm" in image:
        return FakeVllm(host=host, port=port, **options)
    return FakeEngine(host=host, port=port, **options)


async def answered(host: str, port: int, path: str) -> str:
    """The status of an HTTP GET, or nothing when nobody answers."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            return (await reader.readline()).decode("latin-1").split(" ")[1]
        finally:
            writer.close()
    return ""


def counters_of(engine: PodEngine) -> Counters:
    """What happened in one."""
    found = engine.engine.counters if isinstance(engine, FakeOllama) else getattr(engine, "counters", None)
    assert isinstance(found, Counters)
    return found


__all__ = ["PodEngine", "answered", "counters_of", "free_address", "made_up_address", "make_engine", "port_of", "serves_model"]
