"""What has to be true before the fence, whichever way the target is made. Each returns what is still waited for."""

from datetime import datetime, timedelta

from aws_lambda_powertools.metrics import MetricUnit

from lambdas.rotation.errors import SyncIncomplete
from lambdas.rotation.polling import look_again_seconds
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Rotation, Sync
from lambdas.rotation.step import logger, measure

PATIENCE = timedelta(hours=24)
OFTEN_SECONDS, SELDOM_SECONDS = 30, 300
SMALL_LAG_BYTES = 16 * 1024 * 1024
SMALL_LAG_SECONDS = 10.0
STEADY_OBSERVATIONS = 3
BACKUP_WINDOW_MARGIN = timedelta(minutes=45)
"""RDS neither promotes an instance that is backing up nor takes a snapshot of it, so no backup may begin before that
is under way."""


def begun(rotation: Rotation, now: datetime) -> Sync:
    """This look's observation, before anything was observed."""
    return Sync(
        started_at=rotation.started_at_or(rotation.sync, now),
        observed_at=now,
        superuser_databases=rotation.sync.superuser_databases if rotation.sync else (),
    )


def ended(rotation: Rotation, sync: Sync, waiting_for: list[str]) -> Rotation:
    """This look's observation, written down. Raises: SyncIncomplete (terminal) when it is not ready after 24 hours."""
    target = rotation.target_identifier
    if sync.lag_bytes is not None:
        # By source: among those of others, which do not lag, one that lasts would not be seen.
        source = rotation.planned()[1].identifier
        measure(rotation, "ReplicationLagBytes", MetricUnit.Bytes, sync.lag_bytes, source=source)
    sync = concluded(str(target), sync, waiting_for)
    logger.info("target observed", target=target, waiting_for=waiting_for, lag_bytes=sync.lag_bytes)
    steadying = 0 < sync.steady_observations < STEADY_OBSERVATIONS
    return rotation.having(sync=sync.having(look_again_seconds=OFTEN_SECONDS) if steadying else sync)


def concluded(identifier: str, sync: Sync, waiting_for: list[str]) -> Sync:
    """The observation with what it has found. Raises: SyncIncomplete, as above."""
    now = sync.observed_at
    if waiting_for and now - sync.started_at >= PATIENCE:
        raise SyncIncomplete(f"{identifier}: after 24 hours still waiting for {'; '.join(waiting_for)}")
    again = look_again_seconds(sync.started_at, now, often=OFTEN_SECONDS, seldom=SELDOM_SECONDS)
    return sync.having(waiting_for=tuple(waiting_for), ready=not waiting_for, look_again_seconds=again)


def backup_window(instance: Instance, now: datetime) -> list[str]:
    if instance.database.is_cluster and not instance.database.is_multi_az_cluster:
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
