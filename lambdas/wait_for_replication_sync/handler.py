"""WaitForReplicationSync: is everything ready for the fence? Looks once; the state machine waits."""

from datetime import timedelta

from aws_lambda_powertools.metrics import MetricUnit

from lambdas.rotation import making
from lambdas.rotation.errors import SyncIncomplete, UnknownDatabase
from lambdas.rotation.polling import look_again_seconds
from lambdas.rotation.ports import Ports
from lambdas.rotation.readiness import STEADY_OBSERVATIONS, connectivity
from lambdas.rotation.state import Rotation, Sync
from lambdas.rotation.step import logger, measure, step
from lambdas.wait_for_replication_sync.readiness import backups, replication, settings

PATIENCE = timedelta(hours=24)
OFTEN_SECONDS, SELDOM_SECONDS = 30, 300


def wait_for_replication_sync(rotation: Rotation, ports: Ports) -> Rotation:
    """Observe the target once, ask for what can be repaired, and say what is still being waited for.

    Makes the control database on the source; otherwise creates nothing, and fences nothing.

    Raises:
        WrongKey, SettingsNotCarried: terminal; nothing is at stake yet.
        SyncIncomplete: terminal; the target failed, or is not ready after 24 hours.
    """
    _, source_database = rotation.planned()
    now = ports.clock.now()
    source = ports.rds.describe_instance_by_resource_id(source_database.resource_id)
    if source is None:
        raise UnknownDatabase(f"{source_database.identifier} is gone")
    target = ports.rds.describe_instance(rotation.target_identifier or "")
    waiting_for = making.waiting_for(rotation, target, SyncIncomplete)
    if target is not None and not waiting_for and target.replica_of is None:
        raise SyncIncomplete(f"{target.database.identifier} is no longer a replica: somebody has promoted it")
    sync = Sync(
        started_at=rotation.started_at_or(rotation.sync, now),
        observed_at=now,
        superuser_databases=rotation.sync.superuser_databases if rotation.sync else (),
    )
    if target is not None and target.database.address:
        rotation = rotation.having(target=target.database)
    if target is not None and not waiting_for:
        waiting_for = [*settings(source, target, ports), *backups(target, ports, now), *connectivity(rotation, now)]
        behind, sync = replication(rotation, sync, target, ports)
        steady = sync.steady_observations + 1 if not behind else 0
        sync = sync.having(steady_observations=min(steady, STEADY_OBSERVATIONS))
        if not behind and steady < STEADY_OBSERVATIONS:
            behind = [f"the lag to stay small ({steady} of {STEADY_OBSERVATIONS} observations)"]
        waiting_for += behind
        measure(rotation, "ReplicationLagBytes", MetricUnit.Bytes, sync.lag_bytes or 0)
    if waiting_for and now - sync.started_at >= PATIENCE:
        raise SyncIncomplete(f"{rotation.target_identifier}: after 24 hours still waiting for {'; '.join(waiting_for)}")
    logger.info("target observed", target=rotation.target_identifier, waiting_for=waiting_for, lag_bytes=sync.lag_bytes)
    steadying = 0 < sync.steady_observations < STEADY_OBSERVATIONS
    return rotation.having(
        sync=sync.having(
            waiting_for=tuple(waiting_for),
            ready=not waiting_for,
            look_again_seconds=OFTEN_SECONDS
            if steadying
            else look_again_seconds(sync.started_at, now, often=OFTEN_SECONDS, seldom=SELDOM_SECONDS),
        )
    )


handler = step(wait_for_replication_sync)
