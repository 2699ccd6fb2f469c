"""The daily window of backups and the weekly one of maintenance (UTC).

moto's own check of the two reads a calendar date: it refuses ``sun:23:15-mon:00:15`` and lets some windows overlap
across midnight.
"""

from __future__ import annotations

import datetime as dt
import re

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60
WEEK = 7 * DAY
SHORTEST = 30
MAINTENANCE = re.compile(r"({0}):({1})-({0}):({1})".format("|".join(DAYS), r"(?:[01]\d|2[0-3]):[0-5]\d"))


def in_weekly_window(window: str, now: dt.datetime) -> bool:
    """Whether a window such as ``sun:23:45-mon:00:15`` is open."""
    opens, minutes = _weekly(window)
    return (now.weekday() * DAY + now.hour * 60 + now.minute - opens) % WEEK < minutes


def refusal(maintenance: str, backup: str | None) -> str | None:
    """What RDS has against these two together; None: nothing.

    The rules are those of ModifyDBInstance's reference; their words are moto's.
    """
    if not MAINTENANCE.fullmatch(maintenance.lower()):
        return (
            f"Invalid maintenance window format: {maintenance}. Should be specified as a range "
            "ddd:hh24:mi-ddd:hh24:mi (24H Clock UTC). Example: Sun:23:45-Mon:00:15"
        )
    opens, minutes = _weekly(maintenance)
    if minutes < SHORTEST:
        return "The maintenance window must be at least 30 minutes."
    if minutes > DAY:
        return "Maintenance window must be less than 24 hours."
    if backup:
        begins, ends = (_minute_of_day(moment) for moment in backup.split("-"))
        if (begins - opens) % DAY < minutes or (opens - begins) % DAY < (ends - begins) % DAY:
            return "The backup window and maintenance window must not overlap."
    return None


def _weekly(window: str) -> tuple[int, int]:
    """The minute of the week in which a window opens, and how many minutes it is open."""
    opens, closes = (DAYS.index(moment[:3]) * DAY + _minute_of_day(moment[4:]) for moment in window.lower().split("-"))
    return opens, (closes - opens) % WEEK


def _minute_of_day(moment: str) -> int:
    return int(moment[:2]) * 60 + int(moment[3:])
