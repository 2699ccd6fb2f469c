"""What has to be true before the fence, whichever way the target is made. Each returns what is still waited for."""

from datetime import datetime, timedelta

from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Rotation

SMALL_LAG_BYTES = 16 * 1024 * 1024
STEADY_OBSERVATIONS = 3
BACKUP_WINDOW_MARGIN = timedelta(minutes=45)
"""RDS neither promotes an instance that is backing up nor takes a snapshot of it, so no backup may begin before that
is under way."""


def backup_window(instance: Instance, now: datetime) -> list[str]:
    if instance.database.is_cluster:
        return []  # Aurora's backups are continuous, and keep nobody from anything
    window = instance.raw.get("PreferredBackupWindow")
    if window and _is_near(window, now):
        return [f"the backup window of {instance.database.identifier} ({window} UTC) to pass"]
    return []


def _is_near(window: str, now: datetime) -> bool:
    """Whether ``hh:mm-hh:mm`` (UTC) is open at ``now``, or opens soon.

    >>> from datetime import UTC
    >>> late, early = datetime(2027, 1, 1, 23, 50, tzinfo=UTC), datetime(2027, 1, 1, 3, 31, tzinfo=UTC)
    >>> _is_near("23:30-00:00", late), _is_near("00:10-00:40", late), _is_near("03:00-03:30", early)
    (True, True, False)
    """
    start, end = (timedelta(hours=int(part[:2]), minutes=int(part[3:])) for part in window.split("-"))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (-1, 0, 1):
        opens = midnight + timedelta(days=day) + start
        closes = midnight + timedelta(days=day + int(end <= start)) + end
        if opens - BACKUP_WINDOW_MARGIN <= now < closes:
            return True
    return False


def connectivity(rotation: Rotation, now: datetime) -> list[str]:
    """Resolvers may keep the old answer for as long as its TTL said."""
    seen = rotation.connectivity
    if seen is None or seen.record is None or seen.ttl_lowered_at is None:
        return []
    passed_at = seen.ttl_lowered_at + timedelta(seconds=seen.record.ttl_seconds)
    return [] if now >= passed_at else [f"the old TTL of {seen.record.name} to pass (at {passed_at:%H:%M:%S} UTC)"]
