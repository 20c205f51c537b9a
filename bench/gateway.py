"""The gateway as `python -m bench` measures it: a process of its own with everything on, and replicas put into its store by hand.

Everything: keys, bounds, routing over all endpoints, demand, metering, metrics, JSON access lines, a store on disk. There is no keeper: it
is not on a request's way.
"""

import argparse
import socket
import sys
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


async def serve(listener: socket.socket, data: Path, upstreams: list[str]) -> None:
    """Serve until terminated."""
    logging.configure(format="json")
    clock = SystemClock()
    store = await Store.open(data / "store.db", clock)
    await principals.ensure_first_key(store, preset=KEY)
    config = Config.model_validate(
        {
            "models": {MODEL: {"engine": "openai", "pool": "mock"}},
            "pools": {"mock": {"kind": "static", "url": upstreams[0]}},
            "gateway": {"max_upstream_connections": 4096},
            "log": {"format": "json"},
        }
    )
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
    server = uvicorn.Server(configure(gateway.asgi, timeout_graceful_shutdown=1))
    print(listener.getsockname()[1], flush=True)
    await server.serve(sockets=[listener])
    await store.close()


def main() -> int:
    """`python -m bench.gateway --data DIR URL...`: prints its port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("upstreams", nargs="+")
    arguments = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    uvloop.run(serve(listener, arguments.data, arguments.upstreams))
    return 0


if __name__ == "__main__":
    sys.exit(main())
