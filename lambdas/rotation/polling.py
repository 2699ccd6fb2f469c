"""How soon a step that waits for RDS wants to be visited again."""

from datetime import datetime, timedelta

OFTEN_FOR = timedelta(hours=1)


def look_again_seconds(since: datetime, now: datetime, *, often: int, seldom: int) -> int:
    """``often`` for an hour, then ``seldom``: days of looking often would fill its history (25,000 events)."""
    return often if now - since < OFTEN_FOR else seldom
