"""Marks: tags that permissions hang on, set by one step for another one, or for itself."""

from datetime import datetime, timedelta
from math import ceil

SETTLES_IN = timedelta(minutes=10)
"""By then a mark counts: RDS caches tags for permissions, so that "several minutes can pass" (RDS User Guide: tagging).
`Describe…` shows it long before, because it asks elsewhere."""


def seconds_to_settle(marked_at: datetime | None, now: datetime) -> int:
    """Zero once a refusal would be meant. ``marked_at``: None where nothing had to be marked."""
    if marked_at is None:
        return 0
    return max(0, ceil((marked_at + SETTLES_IN - now).total_seconds()))
