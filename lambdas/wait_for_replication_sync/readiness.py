"""What has to be true before the fence, part by part. Each returns what is still being waited for."""

from datetime import datetime

from lambdas.rotation.claim import claim_source
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.readiness import SMALL_LAG_BYTES, SMALL_LAG_SECONDS, backup_window
from lambdas.rotation.settings import request_repair
from lambdas.rotation.state import Rotation, Sync


def settings(source: Instance, target: Instance, ports: Ports) -> list[str]:
    """Raises: SettingsNotCarried (terminal) for a difference that cannot be repaired."""
    differing = request_repair(source, target, ports)
    return [f"the settings {', '.join(differing)}"] if differing else []


def backups(target: Instance, ports: Ports, now: datetime) -> list[str]:
    if target.backup_retention_days == 0:
        return ["backups of the target to be enabled"]
    if ports.rds.last_backup_at(target.database.resource_id) is None:
        return ["the target's first backup"]
    return backup_window(target, now)


def replication(rotation: Rotation, sync: Sync, target: Instance, ports: Ports) -> tuple[list[str], Sync]:
    """What keeps the target from being close behind, and the measurement. Logs in to both sides.

    Lag is what the target says about itself, so it alone would not show a stream that stopped. The source's position
    as of the previous observation must have been replayed by now.
    """
    plan, source_database = rotation.planned()
    previous = rotation.sync
    source, replica = ports.engine(source_database, plan), ports.engine(target.database, plan)
    token = f"{rotation.rotation_id}-sync"
    claim_source(rotation, source, ports)
    lag = replica.lag()
    streams = target.replication_normal and lag.streaming
    sync = sync.having(
        # Of what it has received: without a stream that is no lag of what was committed.
        lag_bytes=lag.bytes if streams else None,
        lag_seconds=lag.seconds if streams else None,
        steady_observations=previous.steady_observations if previous else 0,
        position=source.mark(token),
        superuser_databases=tuple(
            sorted({*sync.superuser_databases, *source.databases_with_superuser_sessions()}),
        ),
    )
    if not streams:
        return ["replication to stream"], sync
    if not replica.shows_marker(token):
        return ["the control database to appear on the target"], sync
    if previous is not None and previous.position is not None and not replica.has_replayed(previous.position):
        return [f"the target to replay {previous.position}"], sync
    if (lag.bytes or 0) > SMALL_LAG_BYTES or (lag.seconds or 0) > SMALL_LAG_SECONDS:
        return [f"the lag ({lag.bytes} bytes, {lag.seconds} s) to become small"], sync
    return [], sync
