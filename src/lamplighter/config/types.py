"""How the typed units of `core.units` appear in the configuration: parsed from text, shown as text in the JSON Schema."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from lamplighter.core.units import Duration, Size


def _duration(*, never: bool, zero: bool) -> Callable[[Any], Duration]:
    def validate(value: Any) -> Duration:
        if isinstance(value, str):
            value = Duration.parse(value)
        if not isinstance(value, Duration):
            raise ValueError("write a duration with its unit, such as 55s, 10m or 1h30m")  # noqa: TRY004 - pydantic reports ValueErrors
        if value == float("inf") and not never:
            raise ValueError("`never` is not possible here")
        if value <= 0 and not zero:
            raise ValueError("must be longer than 0s")
        return value

    return validate


def _size(value: Any) -> Size:
    if isinstance(value, str):
        value = Size.parse(value)
    if not isinstance(value, Size):
        raise ValueError("write a size with its unit, such as 10MB or 2GiB")  # noqa: TRY004 - pydantic reports ValueErrors
    if value == 0:
        raise ValueError("must be larger than 0 B")
    return value


_PARTS = r"(\d+(\.\d+)?\s*(ms|s|m|h|d)\s*)+"
_DURATION_SCHEMA = {"type": "string", "pattern": f"^{_PARTS}$", "examples": ["55s", "10m", "1h30m"]}
_NEVER_SCHEMA = {"type": "string", "pattern": f"^(never|{_PARTS})$", "examples": ["10m", "1h30m", "never"]}
_SIZE_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([KMGTkmgt]i?[Bb]|[Bb])$", "examples": ["10MB", "2GiB"]}
_text = PlainSerializer(str, return_type=str)
_EXACT = (("GiB", 2**30), ("MiB", 2**20), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))


def _exact(value: Size) -> str:
    """The shortest text that means exactly `value`: what is shown can be pasted back."""
    return next((f"{value // size}{unit}" for unit, size in _EXACT if value % size == 0), f"{int(value)}B")


_exact_text = PlainSerializer(_exact, return_type=str)

Span = Annotated[Duration, PlainValidator(_duration(never=False, zero=False)), _text, WithJsonSchema(_DURATION_SCHEMA)]
"""A finite time longer than zero."""
SpanOrNever = Annotated[Duration, PlainValidator(_duration(never=True, zero=False)), _text, WithJsonSchema(_NEVER_SCHEMA)]
"""A time longer than zero, or `never`."""
Delay = Annotated[Duration, PlainValidator(_duration(never=False, zero=True)), _text, WithJsonSchema(_DURATION_SCHEMA)]
"""A finite time, zero allowed."""
Bytes = Annotated[Size, PlainValidator(_size), _exact_text, WithJsonSchema(_SIZE_SCHEMA)]
"""A size larger than zero."""
