"""Hours of the week in which something holds, written as `Mon-Fri 08:00-18:00 Europe/Berlin`: what `keep_warm` is made of.

Pure: the time comes from the caller. Not responsible for what follows from an hour (the keeper wakes, the gateway tells).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, WithJsonSchema

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(r"\s*(\S+)\s+(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s+(\S+)\s*")
_HELP = "write days, hours and a time zone, such as Mon-Fri 08:00-18:00 Europe/Berlin"
_DAY = 24 * 60
_AHEAD = 8
"""Days looked ahead: a schedule repeats every week."""


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of time, Unix seconds, `end` not included."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Hours:
    """The same hours on some days of every week. `days`: 0 is Monday. Minutes since midnight of the wall clock; an `end` that is not after
    `start` is on the next day. Daylight saving is the time zone's: the hours are those of the clock on the wall.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> "Hours":
        """Raises ValueError with what is accepted."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} are no hours: {_HELP}")
        start, end = _minutes(match[2], match[3], text), _minutes(match[4], match[5], text)
        if start == _DAY:
            raise ValueError(f"{text!r}: a day begins at 00:00")
        if start == end:
            raise ValueError(f"{text!r} begins and ends at the same minute; the whole day is 00:00-24:00")
        try:
            zone = ZoneInfo(match[6])
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{text!r}: this machine knows no time zone {match[6]!r}; {_HELP}") from error
        return cls(_days(match[1], text), start, end, zone)

    def spans(self, now: float) -> list[Span]:
        """Those of the days around `now` (Unix seconds), from yesterday's on, in order."""
        today = datetime.fromtimestamp(now, self.zone).date()
        days = (today + timedelta(days=offset) for offset in range(-1, _AHEAD))
        return [self._span(day) for day in days if day.weekday() in self.days]

    def _span(self, day: date) -> Span:
        # Of an hour that the clock shows twice both count: begin with the first, end with the second.
        over = day + timedelta(days=1) if self.end <= self.start else day
        return Span(self._at(day, self.start, fold=0), self._at(over, self.end, fold=1))

    def _at(self, day: date, minutes: int, *, fold: int) -> float:
        extra, minutes = divmod(minutes, _DAY)
        wall = datetime.combine(day + timedelta(days=extra), time(minutes // 60, minutes % 60, fold=fold), self.zone)
        return wall.astimezone(UTC).timestamp()


def _minutes(hours: str, minutes: str, text: str) -> int:
    total = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or total > _DAY:
        raise ValueError(f"{text!r}: {hours}:{minutes} is no time of the day")
    return total


def _days(text: str, whole: str) -> frozenset[int]:
    if text.lower() == "daily":
        return frozenset(range(7))
    found = set[int]()
    for part in text.split(","):
        first, dash, last = part.lower().partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(f"{whole!r}: {part!r} is no day; write daily, Mon, Mon-Fri or Sat,Sun")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        found |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return frozenset(found)


@lru_cache(maxsize=512)
def hours(text: str) -> Hours:
    """`Hours.parse`, remembered: the same few texts are asked for several times a second."""
    return Hours.parse(text)


def span(schedule: Iterable[str], now: float, lead: float = 0.0) -> Span | None:
    """The stretch of `schedule` that holds at `now`, or begins within `lead` seconds; None when there is none.

    Its start is that of the schedule, not moved by `lead`. What overlaps or touches counts as one stretch.
    """
    spans = sorted((one for text in schedule for one in hours(text).spans(now)), key=lambda one: one.start)
    joined: list[Span] = []
    for one in spans:
        if joined and one.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, one.end))
        else:
            joined.append(one)
    return next((one for one in joined if one.start - lead <= now < one.end), None)


def following(schedule: Iterable[str], now: float) -> float | None:
    """When the schedule next begins to hold (Unix seconds, after `now`); None for an empty one."""
    starts = (one.start for text in schedule for one in hours(text).spans(now))
    return min((start for start in starts if start > now), default=None)


def _valid(text: str) -> str:
    hours(text)
    return text


HoursText = Annotated[
    str,
    AfterValidator(_valid),
    WithJsonSchema({"type": "string", "examples": ["Mon-Fri 08:00-18:00 Europe/Berlin", "daily 22:00-06:00 UTC"]}),
]
"""Hours as they are written in the configuration."""
