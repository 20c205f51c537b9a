"""One request of a health check, or an order to an engine: direct like the gateway's own requests (no proxy), seldom raising.

The clients are kept per event loop: the keeper probes every few seconds, and a TLS context alone costs 20 ms.
"""

import asyncio
import json
import ssl
import weakref
from collections.abc import AsyncIterator, Mapping
from typing import Any

import certifi
import httpx

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Health, Probe

_clients: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, httpx.AsyncClient]]" = (
    weakref.WeakKeyDictionary()
)
_LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=0)
"""No connection is kept: a health check that rides an old connection does not prove that new ones are accepted."""

_NEVER_LONGER = 60.0
"""Seconds; every caller has a limit of its own."""


async def get(endpoint: Endpoint, path: str, *, timeout: float) -> httpx.Response | Probe:
    """The answer, or a DOWN probe that says why there is none. `timeout`: seconds for the whole of it."""
    return await _ask(endpoint, "GET", path, timeout=timeout)


async def _ask(
    endpoint: Endpoint, method: str, path: str, *, timeout: float, json: dict[str, Any] | None = None
) -> httpx.Response | Probe:
    headers = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        async with asyncio.timeout(timeout):
            return await _client(endpoint.ca).request(
                method, f"{endpoint.url}{path}", headers=headers, json=json, timeout=timeout
            )
    except (TimeoutError, httpx.TimeoutException):
        return Probe(Health.DOWN, f"no answer within {timeout:g} s")
    except httpx.ConnectError as error:
        trusted = "CERTIFICATE" not in str(error)
        return Probe(Health.DOWN, "nothing answers there" if trusted else "its certificate is not trusted")
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        OSError,
        ValueError,
        ExceptionGroup,
    ) as error:  # an impossible port comes in a group
        return Probe(Health.DOWN, f"no sensible answer ({type(error).__name__})")


def _client(ca: str | None) -> httpx.AsyncClient:
    """The client of this loop that also trusts the authorities in the file `ca`. Raises OSError when it cannot be used."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    client = clients.get(ca)
    if client is None:
        trust = ssl.create_default_context()
        trust.load_verify_locations(certifi.where())
        if ca is not None:
            trust.load_verify_locations(ca)
        client = clients[ca] = httpx.AsyncClient(verify=trust, limits=_LIMITS, timeout=_NEVER_LONGER, trust_env=False)
    return client


async def post(endpoint: Endpoint, path: str, body: Mapping[str, Any], *, timeout: float) -> httpx.Response | Probe:
    """The answer to a JSON body, or a DOWN probe. For orders to an engine, never for a health check. `timeout`: seconds for the whole of it."""
    return await _ask(endpoint, "POST", path, timeout=timeout, json=dict(body))


async def lines(endpoint: Endpoint, path: str, body: Mapping[str, Any], *, silence: float) -> AsyncIterator[Mapping[str, Any]]:
    """The JSON objects of a streamed answer, one a line, as they come. `silence`: seconds without a byte after which it failed.

    Raises ProviderError for what the network does and for an answer that is no success.
    """
    headers = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    limit = httpx.Timeout(silence, connect=min(silence, 10.0))
    try:
        async with _client(endpoint.ca).stream(
            "POST", f"{endpoint.url}{path}", json=dict(body), headers=headers, timeout=limit
        ) as answer:
            if answer.is_error:
                raise ProviderError(said(await answer.aread(), answer.status_code))
            async for line in answer.aiter_lines():
                if line.strip():
                    value = json.loads(line)
                    if isinstance(value, dict):
                        yield value
    except (httpx.HTTPError, ValueError, OSError) as error:
        raise ProviderError(f"{endpoint.url} broke off ({type(error).__name__}).", reason=WakeFailure.UNREACHABLE) from error


def said(body: bytes, status: int) -> str:
    """What an error answer says, in whatever shape; at most 300 characters."""
    try:
        value = json.loads(body)
        error = value.get("error", value.get("message")) if isinstance(value, dict) else None
        text = error.get("message") if isinstance(error, dict) else error
    except ValueError:
        text = body.decode("utf-8", "replace").strip()
    return str(text or f"it answered {status}")[:300]
