"""What the control API's routes share, and how a route gets at it."""

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from lamplighter.gateway.chat.generations import Generations
from lamplighter.gateway.chat.hub import Hub
from lamplighter.gateway.control.status import Statuses
from lamplighter.gateway.control.throttle import Throttle
from lamplighter.gateway.services import Services


@dataclass(frozen=True)
class Parts:
    """One gateway's control API."""

    services: Services
    generations: Generations
    hub: Hub
    statuses: Statuses
    throttle: Throttle


def parts_of(connection: HTTPConnection) -> Parts:
    """The parts of the application that serves this connection."""
    parts = connection.app.state.parts
    assert isinstance(parts, Parts)  # noqa: S101 - set by `app.Control`, nowhere else
    return parts
