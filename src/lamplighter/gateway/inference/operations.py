"""The table of what clients can ask of a model: path, how the request is read, in which dialect the answer goes back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lamplighter.gateway.inference.dialects.base import Dialect
from lamplighter.gateway.inference.dialects.openai import OPENAI
from lamplighter.gateway.inference.request import UPSTREAM_PATHS, InferenceRequest, parse


@dataclass(frozen=True, slots=True)
class Operation:
    """One POST route. `name`: its label in metrics, logs and accounts. `parse` raises RequestError 400 that names the field."""

    path: str
    name: str
    dialect: Dialect
    parse: Callable[[bytes], InferenceRequest]


OPERATIONS: dict[str, Operation] = {
    path: Operation(path, route, OPENAI, partial(parse, route)) for route, path in UPSTREAM_PATHS.items()
}
"""By path."""
