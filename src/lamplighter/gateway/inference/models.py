"""`GET /v1/models` and `/v1/models/{id}`, served from the view: asking them never wakes a model."""

from typing import Any

from lamplighter.core.errors import RequestError
from lamplighter.core.rollouts import REVISION_MARK
from lamplighter.core.states import ReplicaState, pool_state
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.inference.dispatch import unknown_model
from lamplighter.gateway.routing import Lanes
from lamplighter.gateway.view import Snapshot

PREFIX = "/v1/models/"


def listing(lanes: Lanes, snapshot: Snapshot, created: int, identity: Identity) -> dict[str, Any]:
    """All models that `identity` may use, in OpenAI's shape with what else we know of them. `created`: Unix seconds."""
    names = (
        name for name in lanes.names() if REVISION_MARK not in name
    )  # a target of a change is no name that clients should know
    data = [_model(name, snapshot, created) for name in names if identity.may_use(name)]
    data += [_alias(alias, name, snapshot, created) for alias, name in lanes.aliases().items() if identity.may_use(name)]
    return {"object": "list", "data": data}


def one(path: str, lanes: Lanes, snapshot: Snapshot, created: int, identity: Identity) -> dict[str, Any]:
    """The model at the decoded `path` (`/v1/models/{id}`, the id may hold slashes). Raises RequestError 404."""
    name = path[len(PREFIX) :]
    lane = lanes.find(name)
    if lane is None or not identity.may_use(lane.name):
        raise unknown_model(name, [name for name in lanes.names() if identity.may_use(name)])
    if lanes.aliases().get(name) == lane.name:
        return _alias(name, lane.name, snapshot, created)
    return _model(lane.name, snapshot, created)


def check_method(method: str, *allowed: str) -> None:
    """Raises RequestError 405 when `method` is none of `allowed`."""
    if method not in allowed:
        raise RequestError(
            f"{method[:16]} is not possible here; use {' or '.join(allowed)}.",
            status=405,
            code="method_not_allowed",
            headers=(("allow", ", ".join(allowed)),),
        )


def _alias(alias: str, name: str, snapshot: Snapshot, created: int) -> dict[str, Any]:
    """A further name of the model `name`."""
    return {**_model(name, snapshot, created), "id": alias, "alias_of": name}


def _model(name: str, snapshot: Snapshot, created: int) -> dict[str, Any]:
    serving = snapshot.changes.stable(name)
    serving = serving if serving in snapshot.models else name
    replicas = [replica for replica in snapshot.replicas if serving in replica.models]
    wake = snapshot.wake_of(serving)
    state = pool_state((replica.state for replica in replicas), failed=wake is not None and wake.outcome == "failed")
    config = snapshot.models.get(serving)
    context = next((replica.context for replica in replicas if replica.state is ReplicaState.READY and replica.context), None)
    if context is None and config is not None and config.engine == "llamacpp":
        context = config.context
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "lamplighter",
        "state": state.value,
        "max_model_len": context,
    }
