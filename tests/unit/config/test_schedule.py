"""Hours of the week as a clock on the wall shows them, daylight saving included."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from lamplighter.config.schedule import Hours, following, span

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("schedule", "moment", "holds"),
    [
        ("Mon-Fri 08:00-18:00 Europe/Berlin", "2026-11-20T08:00:00", True),
        ("Mon-Fri 08:00-18:00 Europe/Berlin", "2026-11-20T07:59:59", False),
        ("Mon-Fri 08:00-18:00 Europe/Berlin", "2026-11-20T18:00:00", False),
        ("Mon-Fri 08:00-18:00 Europe/Berlin", "2026-11-21T12:00:00", False),
        ("Fri-Mon 08:00-18:00 Europe/Berlin", "2026-11-22T12:00:00", True),
        ("Sat,Sun 08:00-18:00 Europe/Berlin", "2026-11-22T12:00:00", True),
        ("daily 22:00-06:00 Europe/Berlin", "2026-11-22T05:59:00", True),
        ("Fri 22:00-06:00 Europe/Berlin", "2026-11-21T05:00:00", True),
        ("Fri 22:00-06:00 Europe/Berlin", "2026-11-20T05:00:00", False),
        ("daily 00:00-24:00 Europe/Berlin", "2026-11-22T23:59:59", True),
        ("Mon-Fri 08:00-18:00 America/New_York", "2026-11-20T15:00:00", True),
        ("Mon-Fri 08:00-18:00 America/New_York", "2026-11-20T10:00:00", False),
    ],
)
def test_hours_hold_when_the_wall_clock_says_so(schedule: str, moment: str, holds: bool) -> None:
    """A machine would run at night, or sleep at noon."""
    assert (span([schedule], at(moment)) is not None) is holds


def test_daylight_saving_moves_the_hours_with_the_clock() -> None:
    """Twice a year everybody would wait an hour for the machine."""
    schedule = ["daily 08:00-18:00 Europe/Berlin"]
    for day in ("2026-03-28", "2026-03-29", "2026-03-30", "2026-10-24", "2026-10-25", "2026-10-26"):
        found = span(schedule, at(f"{day}T12:00:00"))
        assert found is not None
        assert (found.start, found.end) == (at(f"{day}T08:00:00"), at(f"{day}T18:00:00"))


def test_the_night_of_the_change_has_its_own_length() -> None:
    """The hour that is twice would be left out, or the one that is missing be waited for."""
    longer = span(["daily 01:00-02:30 Europe/Berlin"], at("2026-10-25T01:30:00"))
    shorter = span(["daily 01:00-04:00 Europe/Berlin"], at("2026-03-29T01:30:00"))
    assert longer is not None
    assert shorter is not None
    assert longer.end - longer.start == 2.5 * 3600
    assert shorter.end - shorter.start == 2 * 3600


def test_a_lead_begins_earlier_and_stretches_are_joined() -> None:
    """The wake would begin when the first person is already there; or the machine sleep for a second at noon."""
    schedule = ["Mon 08:00-12:00 Europe/Berlin", "Mon 12:00-18:00 Europe/Berlin"]
    assert span(schedule, at("2026-11-23T07:58:00")) is None
    early = span(schedule, at("2026-11-23T07:58:00"), lead=180)
    assert early is not None
    assert (early.start, early.end) == (at("2026-11-23T08:00:00"), at("2026-11-23T18:00:00"))
    assert following(schedule, at("2026-11-23T08:30:00")) == at("2026-11-23T12:00:00")
    assert following([], 0.0) is None


@pytest.mark.parametrize(
    "text",
    ["", "08:00-18:00 Europe/Berlin", "Mon 08:00-18:00", "Mon 8-18 UTC", "Mo 08:00-18:00 UTC", "Mon 08:00-08:00 UTC", "Mon 25:00-26:00 UTC",
     "Mon 08:60-09:00 UTC", "Mon 24:00-01:00 UTC", "Mon 08:00-18:00 Mars/Olympus", "Mon- 08:00-18:00 UTC", "Mon 08:00-18:00 ../etc/passwd"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_an_example(text: str) -> None:
    """A typing error would keep a machine asleep, or awake, for a week before anybody notices."""
    with pytest.raises(ValueError, match=r"."):
        Hours.parse(text)
