"""The gateway as `python -m bench` measures it: a process of its own with everything on, and replicas put into its store by hand.

Everything: a key with limits of every kind and a budget that is reserved and settled, bounds, routing over all endpoints with affinity and
circuits, demand, metering, accounts of every request, metrics, JSON access lines, a store on disk. There is no keeper: it is not on a
request's way. The store was made by a process before (`--prepare`), as at every start but the first.
"""

import argparse
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
import uvloop

from lamplighter.config import Config
from lamplighter.core.clock import SystemClock
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.states import ReplicaState
from lamplighter.engines.base import Engine
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.gateway.app import Gateway
from lamplighter.gateway.server import configure, settle
from lamplighter.observability import logging
from lamplighter.store import leases, principals, replicas
from lamplighter.store.store import Store

KEY = "lk-bench-0123456789abcdefghij"
MODEL = "mock"


def configuration(upstreams: list[str]) -> Config:
    """Everything on; limits that are counted for each request and never reached."""
    return Config.model_validate(
        {
            "models": {
                MODEL: {
                    "engine": "openai",
                    "pool": "mock",
                    "price": {"prompt": "0.15 USD/Mtok", "completion": "0.60 USD/Mtok"},
                    "limits": {"requests_per_minute": 10**9, "budget_per_day": "1000000 USD"},
                }
            },
            "pools": {"mock": {"kind": "static", "url": upstreams[0]}},
            "gateway": {"max_upstream_connections": 4096, "max_held": 4096},
            "limits": {
                "default": {
                    "requests_per_minute": 10**9,
                    "tokens_per_minute": 10**12,
                    "parallel": 100_000,
                    "tokens_per_day": 10**12,
                    "budget_per_month": "1000000 USD",
                }
            },
            "log": {"format": "json"},
        }
    )


async def prepare(data: Path) -> None:
    """Make the store and its key."""
    store = await Store.open(data / "store.db", SystemClock())
    await principals.ensure_first_key(store, preset=KEY)
    await store.close()


@asynccontextmanager
async def opened(data: Path, upstreams: list[str]) -> AsyncIterator[Gateway]:
    """A started gateway over a prepared store, with a ready replica at each of `upstreams`."""
    logging.configure(format="json")
    clock = SystemClock()
    store = await Store.open(data / "store.db", clock)
    config = configuration(upstreams)
    engines: dict[str, Engine] = {"openai": OpenAICompatible()}
    gateway = Gateway(config, store, clock, engines)
    await gateway.start()
    term = await leases.acquire(store, leases.KEEPER, "bench", ttl=1e9)
    if term is None:
        raise RuntimeError("somebody else leads a store that was made a moment ago")
    for url in upstreams:
        replica = await replicas.launch(store, pool="mock", models=[MODEL], term=term)
        await replicas.describe(store, replica.id, term=term, endpoint=Endpoint(url))
        for state in (ReplicaState.STARTING, ReplicaState.READY):
            await replicas.advance(store, replica.id, state, term=term)
    await gateway.services.view.refresh()
    settle()
    yield gateway
    await gateway.stop()
    await store.close()


async def serve(listener: socket.socket, data: Path, upstreams: list[str]) -> None:
    """Serve until terminated."""
    async with opened(data, upstreams) as gateway:
        server = uvicorn.Server(configure(gateway.asgi, timeout_graceful_shutdown=1))
        print(listener.getsockname()[1], flush=True)
        await server.serve(sockets=[listener])


def main() -> int:
    """`python -m bench.gateway --data DIR --prepare`, then `python -m bench.gateway --data DIR URL...`: prints its port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prepare", action="store_true", help="only make the store")
    parser.add_argument("upstreams", nargs="*")
    arguments = parser.parse_args()
    if arguments.prepare:
        uvloop.run(prepare(arguments.data))
        return 0
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    uvloop.run(serve(listener, arguments.data, arguments.upstreams))
    return 0


if __name__ == "__main__":
    sys.exit(main())
