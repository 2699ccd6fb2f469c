"""The windows that RDS accepts, on every day of the week."""

from __future__ import annotations

import datetime as dt

import pytest

from sandbox.rds.windows import DAYS, in_weekly_window, refusal

OVERLAP = "The backup window and maintenance window must not overlap."


@pytest.mark.parametrize("day", range(7))
def test_a_window_may_cross_midnight(day: int) -> None:
    """The one from Sunday to Monday crosses the end of the week, too."""
    window = f"{DAYS[day]}:23:45-{DAYS[(day + 1) % 7]}:00:15"
    monday = dt.datetime(2027, 1, 4, tzinfo=dt.UTC)
    begins = monday + dt.timedelta(days=day, hours=23, minutes=45)

    assert refusal(window, "03:00-03:30") is None
    assert in_weekly_window(window, begins)
    assert in_weekly_window(window, begins + dt.timedelta(minutes=29))
    assert not in_weekly_window(window, begins + dt.timedelta(minutes=30))
    assert not in_weekly_window(window, begins - dt.timedelta(minutes=1))


@pytest.mark.parametrize(
    ("maintenance", "backup", "words"),
    [
        ("sun:04:00-sun:04:30", "04:30-05:00", None),
        ("sun:04:00-sun:04:30", "03:30-04:00", None),
        ("sun:04:00-sun:04:30", "04:29-05:00", OVERLAP),
        ("sun:04:00-sun:04:30", "03:30-04:01", OVERLAP),
        ("sun:04:00-sun:04:30", "03:00-05:00", OVERLAP),
        ("sun:03:00-sun:05:00", "04:00-04:30", OVERLAP),
        # The backup's window is every day's: it may cross midnight, and so may the other one.
        ("sun:00:00-sun:00:30", "23:45-00:15", OVERLAP),
        ("sun:23:45-mon:00:15", "00:00-00:30", OVERLAP),
        ("sun:23:45-mon:00:15", "23:00-23:30", None),
        ("Sun:23:45-Mon:00:15", None, None),
        ("sun:04:00-sun:04:29", None, "The maintenance window must be at least 30 minutes."),
        ("sun:04:00-sun:04:00", None, "The maintenance window must be at least 30 minutes."),
        ("sun:04:00-mon:04:01", None, "Maintenance window must be less than 24 hours."),
        ("sun:25:00-sun:26:00", None, "Invalid maintenance window format"),
        ("sunday", None, "Invalid maintenance window format"),
    ],
)
def test_what_rds_has_against_two_windows(maintenance: str, backup: str | None, words: str | None) -> None:
    refused = refusal(maintenance, backup)
    assert refused is None if words is None else (refused or "").startswith(words)
