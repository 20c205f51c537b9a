"""What the parts of one gateway share. Made once by `app.Gateway`; holds no logic."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lamplighter.config import Config
from lamplighter.core.clock import Clock
from lamplighter.engines.base import Engine
from lamplighter.gateway.accounts import Accounts
from lamplighter.gateway.admission.gate import Gate
from lamplighter.gateway.auth import Keyring
from lamplighter.gateway.breaker import Report
from lamplighter.gateway.relay import Relay
from lamplighter.gateway.view import View
from lamplighter.observability.metrics import Metrics
from lamplighter.store.store import Store


@dataclass(frozen=True)
class Services:
    """One gateway's parts. `started_at`: Unix seconds. `gateway_id`: the name under which its demand and acknowledgements are stored."""

    config: Config
    store: Store
    clock: Clock
    engines: Mapping[str, Engine]
    view: View
    keyring: Keyring
    relay: Relay
    metrics: Metrics
    accounts: Accounts
    admission: Gate
    gateway_id: str
    started_at: float
    circuits: Callable[[], Mapping[str, Report]] = dict
    """The state of this gateway's circuit to each endpoint, by replica."""
