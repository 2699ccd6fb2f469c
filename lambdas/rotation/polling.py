"""How soon a step that waits for RDS wants to be visited again."""

from datetime import datetime, timedelta

OFTEN_FOR = timedelta(hours=1)


def look_again_seconds(since: datetime, now: datetime, *, often: int, seldom: int) -> int:
    """``often`` for an hour, then ``seldom``: days of looking often would fill its history (25,000 events)."""
    return often if now - since < OFTEN_FOR else seldom


def backing_off_seconds(since: datetime, now: datetime, *, often: int, seldom: int) -> int:
    """As long as it has waited already. Where mostly nothing is waited for, and nobody is kept waiting.

    >>> from datetime import UTC
    >>> began = datetime(2027, 1, 1, tzinfo=UTC)
    >>> [backing_off_seconds(began, began + timedelta(minutes=n), often=60, seldom=900) for n in (0, 1, 2, 4, 60)]
    [60, 60, 120, 240, 900]
    """
    return min(max(int((now - since).total_seconds()), often), seldom)
