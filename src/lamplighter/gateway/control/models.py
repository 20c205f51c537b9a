"""Routes: what runs, the catalogue, models added at run time, and a person's orders to wake and to sleep.

Reading makes no demand. An order does: it is the only thing beside inference that may wake a model.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lamplighter.config import Config, ModelConfig, PoolConfig
from lamplighter.core.errors import ConfigError, RequestError
from lamplighter.core.rollouts import REVISION_MARK
from lamplighter.engines import memory
from lamplighter.engines.catalogue import CATALOGUE, Entry, suggest
from lamplighter.gateway.control.access import Admin, Anyone
from lamplighter.gateway.control.parts import Parts, parts_of
from lamplighter.store import demand, overlay

router = APIRouter()
_Parts = Annotated[Parts, Depends(parts_of)]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]

KEEP_LEAST = 60.0
KEEP_MOST = 86_400.0
"""Seconds for which one order keeps a model warm, at the most."""
_VIEW_SECONDS = 2.0


class NewModel(BaseModel):
    """A model to add: of the catalogue, or from a hub."""

    model_config = ConfigDict(extra="forbid")

    name: _Name | None = None
    catalogue: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    source: Annotated[str, StringConstraints(pattern=r"^(bundled|(catalogue|hf):\S+)$", max_length=512)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.catalogue is None) == (self.source is None):
            raise ValueError("give either catalogue or source")
        if self.source is not None and self.name is None:
            raise ValueError("a model with a source needs a name")
        return self


class Wake(BaseModel):
    """An order to wake. `keep`: seconds for which it stays warm at the least."""

    model_config = ConfigDict(extra="forbid")

    keep: float | None = Field(None, gt=0, le=KEEP_MOST, allow_inf_nan=False)


@router.get("/api/status")
async def status(_: Anyone, parts: _Parts) -> dict[str, Any]:
    """Everything at a glance."""
    services = parts.services
    return parts.statuses.whole(
        services.view.snapshot,
        now=services.clock.time(),
        started_at=services.started_at,
        installation=services.store.installation,
    )


@router.get("/api/catalogue")
async def catalogue(_: Anyone) -> dict[str, Any]:
    """Models that are known to be good, and what this machine has."""
    total, cores = memory.total(), os.cpu_count() or 1
    best = suggest(total, cores)
    return {
        "models": [_entry_json(entry) for entry in CATALOGUE.values()],
        "machine": {"memory_bytes": total, "cores": cores},
        "suggested": best.name if best else None,
    }


@router.post("/api/models", status_code=201)
async def add_model(new: NewModel, _: Admin, parts: _Parts) -> dict[str, Any]:
    """Add a model to the overlay; its weights are fetched by its first wake."""
    services = parts.services
    source = new.source or f"catalogue:{new.catalogue}"
    kind, _colon, entry = source.partition(":")
    if kind == "catalogue" and entry not in CATALOGUE:
        raise RequestError(
            f"There is no {entry!r} in the catalogue.", status=404, code="not_in_catalogue", param="catalogue",
            next_step="`GET /api/catalogue` lists it; any other model: a source such as hf:OWNER/REPO:FILE.gguf.",
        )  # fmt: skip
    name = new.name or entry
    definition = {"engine": "llamacpp", "pool": _process_pool(services.config), "source": source}
    if name in services.config.models:
        raise RequestError(
            f"The configuration file already has a model {name!r}.", status=409, code="model_exists", param="name",
            next_step="Choose another name.",
        )  # fmt: skip
    await overlay.add(services.store, services.config, name, definition)
    await _seen(parts, lambda models: name in models and models[name].source == source)
    return _model(parts, name)


@router.delete("/api/models/{name:path}", status_code=204)
async def remove_model(name: str, _: Admin, parts: _Parts) -> None:
    """Take a model out of the overlay; what runs of it drains and stops."""
    services = parts.services
    if name in services.config.models:
        raise RequestError(
            f"The model {name!r} is in the configuration file.", status=409, code="model_in_file", next_step="Remove it there."
        )
    if REVISION_MARK in name:
        raise RequestError(
            f"{name!r} is the target of a change.", status=409, code="switch_target",
            next_step=f"`lamplighter models switch {name.partition(REVISION_MARK)[0]} --rollback` takes it away.",
        )  # fmt: skip
    if not await overlay.remove(services.store, name):
        raise _unknown(name)
    await _seen(parts, lambda models: name not in models)


@router.post("/api/models/{name:path}/wake", status_code=202)
async def wake(name: str, _: Admin, parts: _Parts, order: Wake | None = None) -> dict[str, Any]:
    """Wake a model now, and keep it warm for a while."""
    services = parts.services
    pool = _pool(parts, name)
    if pool.sleep_after is not None:
        keep = order.keep if order is not None and order.keep is not None else None
        if keep is None:  # as long as after a request, but never so long that a failing wake is tried for ever
            keep = max(KEEP_LEAST, min(pool.sleep_after, pool.boot_deadline))
        await demand.order_wake(services.store, name, until=services.clock.time() + keep)
        services.view.nudge()
    return _model(parts, name)


@router.post("/api/models/{name:path}/sleep", status_code=202)
async def sleep(name: str, _: Admin, parts: _Parts) -> dict[str, Any]:
    """Let a model sleep: running answers finish, then it stops."""
    if not _pool(parts, name).elastic:
        raise RequestError(
            f"The model {name!r} runs on a server that is always on.",
            status=409,
            code="always_on",
            next_step="Stop that server itself.",
        )
    await demand.order_sleep(parts.services.store, name)
    parts.services.view.nudge()
    return _model(parts, name)


def _pool(parts: Parts, name: str) -> PoolConfig:
    config = parts.services.view.snapshot.models.get(name)
    if config is None:
        raise _unknown(name)
    return parts.services.config.pools[config.pool]


def _model(parts: Parts, name: str) -> dict[str, Any]:
    found = parts.statuses.model(parts.services.view.snapshot, name)
    if found is None:
        raise _unknown(name)
    return found


async def _seen(parts: Parts, holds: "Callable[[dict[str, ModelConfig]], bool]") -> None:
    """Wait, but not for long, until the view shows what was just written."""
    view, clock = parts.services.view, parts.services.clock
    view.nudge()
    deadline = clock.monotonic() + _VIEW_SECONDS
    snapshot = view.snapshot
    while not holds(dict(snapshot.models)) and (left := deadline - clock.monotonic()) > 0:
        snapshot = await view.changed(snapshot.version, left)


def _process_pool(config: Config) -> str:
    for name, pool in config.pools.items():
        if pool.kind == "process":
            return name
    raise ConfigError(
        "there is no pool of kind process, in which an added model could run",
        where="pools",
        next_step="Add one to the configuration file: `here: {kind: process}`.",
    )


def _unknown(name: str) -> RequestError:
    return RequestError(
        f"There is no model {name!r}.", status=404, code="model_not_found", next_step="`lamplighter models list` shows them all."
    )


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "parameters": entry.parameters,
        "file_bytes": entry.file_bytes,
        "memory_bytes": entry.memory_bytes,
        "licence": entry.licence,
        "source": entry.source,
        "context": entry.context,
        "good_for": entry.good_for,
        "languages": entry.languages,
        "notes": entry.notes,
    }
