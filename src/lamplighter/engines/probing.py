"""One GET of a health check: short, direct like the gateway's own requests (no proxy), never raising for what the network does.

The clients are kept per event loop: the keeper probes every few seconds, and a TLS context alone costs 20 ms.
"""

import asyncio
import ssl
import weakref

import certifi
import httpx

from lamplighter.core.endpoint import Endpoint
from lamplighter.engines.base import Health, Probe

_clients: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient]" = weakref.WeakKeyDictionary()
_LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=0)
"""No connection is kept: a health check that rides an old connection does not prove that new ones are accepted."""

_NEVER_LONGER = 60.0
"""Seconds; the caller's own limit is always shorter."""


async def get(endpoint: Endpoint, path: str, *, timeout: float) -> httpx.Response | Probe:
    """The answer, or a DOWN probe that says why there is none. `timeout`: seconds for the whole of it."""
    headers = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        async with asyncio.timeout(timeout):
            return await _client().get(f"{endpoint.url}{path}", headers=headers)
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


def _client() -> httpx.AsyncClient:
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None:
        trust = ssl.create_default_context()
        trust.load_verify_locations(certifi.where())
        client = _clients[loop] = httpx.AsyncClient(verify=trust, limits=_LIMITS, timeout=_NEVER_LONGER, trust_env=False)
    return client
