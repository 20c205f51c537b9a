"""Models added at run time: an overlay over the configuration file. The file wins; pools, URLs and engine arguments come from it alone.

Also other revisions of models, which rollouts try (`store.rollouts` adds and removes those): everything but the revision is the model's own.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import delete, select

from lamplighter.config import Config, ModelConfig
from lamplighter.config.model import Name
from lamplighter.core.errors import ConfigError
from lamplighter.store.bus import Topic
from lamplighter.store.sql import upsert
from lamplighter.store.store import Store
from lamplighter.store.tables import models

_NAME = TypeAdapter(Name)
_SETTABLE = frozenset({"engine", "pool", "source", "context", "while_waking"})
"""What may be said of a model through the API; everything else keeps its default."""


async def effective(store: Store, config: Config) -> dict[str, ModelConfig]:
    """All models: the file's, then those of the overlay whose names the file does not use and whose pools still exist."""
    found = dict(config.models)
    async with store.read() as connection:
        rows = list(await connection.execute(select(models).order_by(models.c.created_at)))
    for row in sorted(rows, key=lambda row: "revision_of" in row.definition):  # a revision may be of a model that was added
        if row.name in found:
            continue
        try:
            made = of_revision(config, found, row.name, row.definition) or _checked(config, row.name, row.definition)
        except ConfigError:  # the file changed under it: the model rests until its pool is back
            continue
        found[row.name] = made
    return found


def of_revision(
    config: Config, models: Mapping[str, ModelConfig], name: str, definition: Mapping[str, Any]
) -> ModelConfig | None:
    """The target `name` as a definition `{revision_of, revision}` makes it: a copy of the model in `models`, at another revision.

    None for a definition of another kind. Raises ConfigError when there is no such model, or it has no revisions.
    """
    of = definition.get("revision_of")
    if of is None:
        return None
    model = models.get(str(of))
    if model is None:
        raise ConfigError(f"there is no model {of!r} any more", where=f"models.{of}")
    # Without its further names: they go on meaning the model itself.
    copy = model.model_copy(update={"aliases": [], "revision": str(definition.get("revision"))})
    _fits(config, name, copy)
    return copy


async def add(store: Store, config: Config, name: str, definition: dict[str, Any]) -> ModelConfig:
    """Add a model, or replace one of the overlay. Raises ConfigError when the file has the name, or the definition does not fit."""
    if name in config.models:
        raise ConfigError(
            f"the configuration file already has a model {name!r}", where=f"models.{name}", next_step="Choose another name."
        )
    model = _checked(config, name, definition)
    async with store.write() as connection:
        await upsert(connection, models, {"name": name}, {"definition": definition, "created_at": store.clock.time()})
    store.bus.publish(Topic.MODELS, name)
    return model


async def remove(store: Store, name: str) -> bool:
    """Take a model out of the overlay; False when it was not in it."""
    async with store.write() as connection:
        gone = (await connection.execute(delete(models).where(models.c.name == name))).rowcount == 1
    if gone:
        store.bus.publish(Topic.MODELS, name)
    return gone


def _checked(config: Config, name: str, definition: dict[str, Any]) -> ModelConfig:
    if extra := definition.keys() - _SETTABLE:
        raise ConfigError(f"{', '.join(sorted(extra))} can only be set in the configuration file", where=f"models.{name}")
    try:
        _NAME.validate_python(name)
        model = ModelConfig.model_validate(definition)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in ("models", name, *problem["loc"]))
        raise ConfigError(f"the model {name!r} does not fit: {problem['msg']}", where=where) from error
    _fits(config, name, model)
    return model


def _fits(config: Config, name: str, model: ModelConfig) -> None:
    try:
        config.check_model(name, model)
    except ValueError as error:  # begins with the setting's path
        where, _, message = str(error).partition(": ")
        raise ConfigError(f"the model {name!r} does not fit: {message}", where=where) from error
