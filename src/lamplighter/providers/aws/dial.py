"""Talks to the agent of a node over the mesh: its status, its lease, new files for its Nebula, its end.

Only outgoing TCP to an overlay address is needed. What a node says is checked and cut before it is believed: it may be anybody who got into it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import httpx

from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure

PORT = 7443
TIMEOUT = 3.0
_BODY = 256 * 1024
_TEXT = 400
_STAGES = 16


class DialError(ProviderError):
    """The agent did not answer, or not sensibly."""


@dataclass(frozen=True, slots=True)
class NodeStage:
    """One stage as the node tells it. Unix seconds of the node's clock."""

    name: str
    started_at: float
    ended_at: float | None = None
    progress: float | None = None
    detail: str | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class NodeNotice:
    """AWS will take the node. `certain`: an interruption, not a mere recommendation. `at`: Unix seconds."""

    certain: bool
    at: float | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """It will never serve."""

    reason: WakeFailure
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What an agent says of its node. `engine`: waiting, pulling, starting, ready or exited."""

    instance: str
    stages: tuple[NodeStage, ...] = ()
    engine: str = "waiting"
    engine_detail: str | None = None
    notice: NodeNotice | None = None
    failure: NodeFailure | None = None
    fingerprint: str | None = None
    public_key: str = ""


class Dialer:
    """Asks agents. One for each provider."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def status(self, address: IPv4Address, token: str, *, timeout: float = TIMEOUT) -> NodeStatus:
        """Raises DialError."""
        return read_status(await self._ask("GET", address, "/status", token, timeout=timeout))

    async def kubeconfig(self, address: IPv4Address, token: str, *, timeout: float = TIMEOUT) -> str:
        """Of the cluster that the node has become. Raises DialError."""
        return (await self._fetch("GET", address, "/kubeconfig", token, timeout=timeout)).decode(errors="replace")

    async def lease(self, address: IPv4Address, token: str, seconds: float) -> None:
        """Let the node live for `seconds` from now. Raises DialError."""
        await self._ask("POST", address, "/lease", token, {"seconds": seconds})

    async def nebula(self, address: IPv4Address, token: str, files: Mapping[str, str]) -> None:
        """Give its Nebula new files, by their names under /etc/nebula. Raises DialError."""
        await self._ask("POST", address, "/nebula", token, {"files": dict(files)})

    async def end(self, address: IPv4Address, token: str, reason: str, *, timeout: float = TIMEOUT) -> None:
        """Ask the node to save its logs and end itself. Raises DialError."""
        await self._ask("POST", address, "/end", token, {"reason": reason}, timeout=timeout)

    async def _ask(
        self, method: str, address: IPv4Address, path: str, token: str, body: Any = None, *, timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        content = await self._fetch(method, address, path, token, body, timeout=timeout)
        try:
            value = json.loads(content or b"{}")
        except ValueError as error:
            raise DialError(f"The agent at {address} does not answer: {error}.", reason=WakeFailure.UNREACHABLE) from error
        if not isinstance(value, dict):
            raise DialError(f"The agent at {address} answered something strange.")
        return value

    async def _fetch(
        self, method: str, address: IPv4Address, path: str, token: str, body: Any = None, *, timeout: float = TIMEOUT
    ) -> bytes:
        if self._client is None:
            # No proxy of the environment: an overlay address is not for it.
            self._client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=64))
        url = f"http://{address}:{PORT}{path}"
        try:
            headers = {"Authorization": f"Bearer {token}"}
            async with self._client.stream(method, url, headers=headers, json=body, timeout=timeout) as answer:
                content = bytearray()
                async for part in answer.aiter_bytes():
                    content += part
                    if len(content) > _BODY:
                        raise DialError(f"The agent at {address} answered with too much.")
            if not answer.is_success:
                raise DialError(f"The agent at {address} answered {answer.status_code} to {path}.")
        except httpx.HTTPError as error:
            text = str(error) or type(error).__name__
            raise DialError(f"The agent at {address} does not answer: {text}.", reason=WakeFailure.UNREACHABLE) from error
        return bytes(content)


def read_status(raw: Mapping[str, Any]) -> NodeStatus:
    """From an agent's JSON; what makes no sense in it is left out."""
    engine, certificate = _dict(raw.get("engine")), _dict(raw.get("certificate"))
    stages = raw.get("stages")
    found = [read_stage(one) for one in (stages if isinstance(stages, list) else [])[:_STAGES]]
    return NodeStatus(
        instance=clean(raw.get("instance")) or "",
        stages=tuple(stage for stage in found if stage is not None),
        engine=clean(engine.get("state")) or "waiting",
        engine_detail=clean(engine.get("detail")),
        notice=_notice(_dict(raw.get("notice"))),
        failure=read_failure(_dict(raw.get("failure"))),
        fingerprint=clean(certificate.get("fingerprint")),
        public_key=str(raw.get("public_key") or "")[:1024],
    )


def read_stage(raw: object) -> NodeStage | None:
    """One stage; None when it is none."""
    one = _dict(raw)
    name, started = clean(one.get("name")), number(one.get("started_at"))
    if name is None or started is None:
        return None
    return NodeStage(name, started, number(one.get("ended_at")), share(one.get("progress")), clean(one.get("detail")))


def read_failure(raw: Mapping[str, Any]) -> NodeFailure | None:
    """None when there is none. A reason that we do not know still is a failure."""
    if not raw:
        return None
    reason = raw.get("reason")
    known = WakeFailure(reason) if reason in set(WakeFailure) else WakeFailure.ENGINE_CRASHED
    return NodeFailure(known, clean(raw.get("detail")))


def _notice(raw: Mapping[str, Any]) -> NodeNotice | None:
    if not raw:
        return None
    certain = raw.get("kind") == "interruption"
    return NodeNotice(certain, number(raw.get("at")) if certain else None, clean(raw.get("detail")))


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def clean(value: object) -> str | None:
    """A text of a node, short and printable."""
    if not isinstance(value, str) or not value:
        return None
    return "".join(c if c.isprintable() else " " for c in value[:_TEXT]).strip() or None


def number(value: object) -> float | None:
    """A finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None  # type: ignore[arg-type] # `good` says what it is


def share(value: object) -> float | None:
    """A number from 0 to 1."""
    found = number(value)
    return None if found is None else min(1.0, max(0.0, found))
