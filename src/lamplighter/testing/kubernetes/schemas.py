"""Which fields the built-in kinds have, read from the models of the client library, so that a misspelt field is found without a real API server."""

import importlib
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from lamplighter.testing.kubernetes.kinds import Kind

_MODULES = {"": "core_v1"}


@cache
def _model(kind: Kind) -> Any:
    name = _MODULES.get(kind.group) or f"{kind.group.split('.')[0]}_{kind.version}"
    try:
        module = importlib.import_module(f"lightkube.models.{name}")
    except ModuleNotFoundError:
        return None
    return getattr(module, kind.kind, None)


@cache
def _fields(model: Any) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(model)}


def unknown_fields(kind: Kind, found: Mapping[str, Any]) -> list[str]:
    """The paths of an object's fields that its kind does not have."""
    model = _model(kind)
    return [] if model is None else list(_unknown(model, found, ""))


def _unknown(told: Any, found: Any, path: str) -> "typing.Iterator[str]":
    origin = typing.get_origin(told)
    if origin in (typing.Union, types.UnionType):
        choices = [one for one in typing.get_args(told) if one is not type(None)]
        if len(choices) == 1:
            yield from _unknown(choices[0], found, path)
    elif origin is list and isinstance(found, list):
        for index, item in enumerate(found):
            yield from _unknown(typing.get_args(told)[0], item, f"{path}[{index}]")
    elif origin is dict and isinstance(found, dict):
        for key, value in found.items():
            yield from _unknown(typing.get_args(told)[1], value, f"{path}.{key}")
    elif isinstance(told, type) and issubclass(told, msgspec.Struct) and isinstance(found, dict):
        fields = _fields(told)
        for key, value in found.items():
            if key not in fields:
                yield f"{path}.{key}"
            else:
                yield from _unknown(fields[key], value, f"{path}.{key}")


__all__ = ["unknown_fields"]
