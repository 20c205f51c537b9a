"""Cron expressions as Auto Scaling takes them: five fields, a time zone, the next time. Not responsible for what happens then."""

import calendar
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS = {name.lower(): str(number) for number, name in enumerate(calendar.month_abbr) if name}
_DAYS = {name: str(number) for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_SUNDAY = 7
_FOREVER = timedelta(days=366 * 5)


@dataclass(frozen=True, slots=True)
class Cron:
    """One expression. `whole`: whether day of month and day of week say nothing."""

    fields: tuple[frozenset[int], ...]
    any_day: bool
    any_weekday: bool

    @classmethod
    def parse(cls, text: str) -> "Cron":
        """Raises ValueError for what is none."""
        parts = text.lower().split()
        if len(parts) != len(_BOUNDS):
            message = f"{text!r} has {len(parts)} fields, not five"
            raise ValueError(message)
        names: tuple[dict[str, str], ...] = ({}, {}, {}, _MONTHS, _DAYS)
        fields = tuple(_field(part, *bounds, known) for part, bounds, known in zip(parts, _BOUNDS, names, strict=True))
        return cls(fields, parts[2] == "*", parts[4] == "*")

    def after(self, moment: datetime, zone: str | None = None) -> datetime | None:
        """The first time after `moment`; None where there is none within five years."""
        local = moment.astimezone(ZoneInfo(zone or "UTC")).replace(second=0, microsecond=0) + timedelta(minutes=1)
        end = local + _FOREVER
        while local < end:
            if local.month not in self.fields[3] or not self._day(local):
                local = (local + timedelta(days=1)).replace(hour=0, minute=0)
            elif local.hour not in self.fields[1]:
                local = (local + timedelta(hours=1)).replace(minute=0)
            elif local.minute not in self.fields[0]:
                local += timedelta(minutes=1)
            else:
                return local
        return None

    def _day(self, local: datetime) -> bool:
        weekday = local.isoweekday() % _SUNDAY
        in_month, in_week = local.day in self.fields[2], weekday in self.fields[4] or (weekday == 0 and _SUNDAY in self.fields[4])
        # As cron has it: where both are restricted, either is enough.
        return (in_month or in_week) if not self.any_day and not self.any_weekday else (in_month and in_week)


def _field(text: str, low: int, high: int, names: dict[str, str]) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            start, end = low, high
        else:
            start = int(names.get(first, first))
            end = int(names.get(last, last)) if last else (high if step else start)
        if not low <= start <= end <= high:
            message = f"{part!r} is outside of {low}-{high}"
            raise ValueError(message)
        values.update(range(start, end + 1, int(step or 1)))
    return frozenset(values)
