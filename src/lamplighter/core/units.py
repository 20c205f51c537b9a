"""Durations, sizes and money as people write them (`10m`, `1.5 GB`, `60 USD/month`) and as types that cannot be mixed up."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Self

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)", re.IGNORECASE)
_MONEY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Z]{3})")
PERIODS = ("hour", "day", "month")
TOKENS = {"token": 1, "Ktok": 10**3, "Mtok": 10**6}
"""How many tokens a price's unit means."""


class Duration(float):
    """Seconds. Written `250ms`, `55s`, `10m`, `1h30m`, `2d`; `never` is infinite."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError with what is accepted."""
        text = text.strip()
        if text == "never":
            return cls("inf")
        position, total = 0, 0.0
        while match := _PART.match(text, position):
            total += float(match[1]) * _SECONDS[match[2]]
            position = match.end()
        if not text or position != len(text):
            raise ValueError(f"{text!r} is not a duration: write a number with ms, s, m, h or d, such as 55s, 10m or 1h30m")
        return cls(total)

    def __str__(self) -> str:
        if self == float("inf"):
            return "never"
        if 0 < self < 1 or self % 1:
            return f"{float(self) * 1000:.3f}".rstrip("0").rstrip(".") + "ms"
        rest, parts = int(self), []
        for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
            count, rest = divmod(rest, size)
            if count:
                parts.append(f"{count}{unit}")
        return "".join(parts) or "0s"


class Size(int):
    """Bytes. Written `512 B`, `10MB` (decimal), `2 GiB` (binary)."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError with what is accepted."""
        match = _SIZE.fullmatch(text.strip())
        if not match:
            raise ValueError(f"{text!r} is not a size: write a number with B, KB, MB, GB, KiB, MiB or GiB, such as 10MB")
        return cls(float(match[1]) * _BYTES[match[2].upper()])

    def __str__(self) -> str:
        for unit in ("TB", "GB", "MB", "KB"):
            if self >= _BYTES[unit]:
                return f"{int(self) / _BYTES[unit]:.3g} {unit}"
        return f"{int(self)} B"


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount in one currency (ISO 4217). Written `0.25 USD`. Amounts of two currencies never add."""

    amount: Decimal
    currency: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError with what is accepted."""
        match = _MONEY.fullmatch(text.strip())
        if not match:
            raise ValueError(f"{text!r} is not money: write an amount and a currency, such as 0.25 USD")
        try:
            return cls(Decimal(match[1]), match[2])
        except InvalidOperation as error:  # pragma: no cover - the pattern admits only digits
            raise ValueError(f"{text!r} is not an amount") from error

    def __add__(self, other: "Money") -> "Money":
        if self.currency != other.currency:
            raise ValueError(f"cannot add {other.currency} to {self.currency}")
        return Money(self.amount + other.amount, self.currency)

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


@dataclass(frozen=True, slots=True)
class Budget:
    """Money per period. Written `60 USD/month`; the period is hour, day or month."""

    limit: Money
    period: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError with what is accepted."""
        money, slash, period = text.partition("/")
        if not slash or period.strip() not in PERIODS:
            raise ValueError(f"{text!r} is not a budget: write money per {', '.join(PERIODS)}, such as 60 USD/month")
        return cls(Money.parse(money), period.strip())

    def __str__(self) -> str:
        return f"{self.limit}/{self.period}"


@dataclass(frozen=True, slots=True)
class Price:
    """Money per unit. Written `0.15 USD/Mtok` (per million tokens; also `Ktok`, `token`) or `0.526 USD/hour`."""

    money: Money
    unit: str

    @classmethod
    def parse(cls, text: str, units: Sequence[str]) -> Self:
        """`units`: those that make sense here. Raises ValueError with what is accepted."""
        money, slash, unit = text.partition("/")
        if not slash or unit.strip() not in units:
            raise ValueError(f"{text!r} is not a price: write money per {' or '.join(units)}, such as 0.25 USD/{units[-1]}")
        return cls(Money.parse(money), unit.strip())

    def __str__(self) -> str:
        return f"{self.money}/{self.unit}"
