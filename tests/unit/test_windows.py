"""RDS's windows are of a day or of a week, in UTC, and many go over midnight: none may be seen too late."""

from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from lambdas.preflight.checks.instance import MAINTENANCE_IS_NEAR
from lambdas.preflight.checks.instance import _is_near as maintenance_is_near
from lambdas.rotation.readiness import BACKUP_WINDOW_MARGIN
from lambdas.rotation.readiness import _is_near as backup_is_near

DAY, WEEK = 24 * 60, 7 * 24 * 60
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MONDAY = datetime(2027, 1, 4, tzinfo=UTC)

lengths = st.integers(30, DAY - 1)
"""Minutes; RDS takes no window that is shorter."""


def will_be_open(opens: int, length: int, now: int, margin: timedelta, period: int) -> bool:
    """By looking at every minute from now on."""
    minutes = range(now, now + int(margin.total_seconds()) // 60 + 1)
    return any((minute - opens) % period < length for minute in minutes)


@given(opens=st.integers(0, DAY - 1), length=lengths, now=st.integers(0, WEEK - 1), seconds=st.integers(0, 59))
@example(opens=DAY - 30, length=30, now=DAY - 75, seconds=0)  # until 00:00, and not yet near in a moment less
@example(opens=DAY - 30, length=60, now=DAY + 29, seconds=59)  # the last second of one that began yesterday
@example(opens=10, length=30, now=DAY - 35, seconds=0)  # tomorrow's
def test_a_backup_window(opens: int, length: int, now: int, seconds: int) -> None:
    closes = (opens + length) % DAY
    window = f"{opens // 60:02}:{opens % 60:02}-{closes // 60:02}:{closes % 60:02}"
    moment = MONDAY + timedelta(minutes=now, seconds=seconds)

    assert backup_is_near(window, moment) is will_be_open(opens, length, now, BACKUP_WINDOW_MARGIN, DAY)


@given(opens=st.integers(0, WEEK - 1), length=lengths, now=st.integers(0, WEEK - 1), weeks=st.integers(0, 60))
@example(opens=WEEK - 30, length=60, now=29, weeks=0)  # from Sunday to Monday
@example(opens=0, length=30, now=WEEK - 360, weeks=1)  # on Monday, seen on Sunday
def test_a_maintenance_window(opens: int, length: int, now: int, weeks: int) -> None:
    window = "-".join(f"{DAYS[at // DAY]}:{at % DAY // 60:02}:{at % 60:02}" for at in (opens, (opens + length) % WEEK))
    moment = MONDAY + timedelta(weeks=weeks, minutes=now)

    assert maintenance_is_near(window, moment) is will_be_open(opens, length, now, MAINTENANCE_IS_NEAR, WEEK)
