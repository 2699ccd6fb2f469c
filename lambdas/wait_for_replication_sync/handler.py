"""WaitForReplicationSync: is everything ready for the fence? Looks once; the state machine waits."""

from lambdas.rotation import making, readiness
from lambdas.rotation.errors import SyncIncomplete, UnknownDatabase
from lambdas.rotation.ports import Ports
from lambdas.rotation.readiness import STEADY_OBSERVATIONS, connectivity
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import step
from lambdas.wait_for_replication_sync.readiness import backups, replication, settings


def wait_for_replication_sync(rotation: Rotation, ports: Ports) -> Rotation:
    """Observe the target once, ask for what can be repaired, and say what is still being waited for.

    Makes the control database on the source; otherwise creates nothing, and fences nothing.

    Raises:
        WrongKey, SettingsNotCarried: terminal; nothing is at stake yet.
        NameTaken: terminal; see `claim_source`.
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
    sync = readiness.begun(rotation, now)
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
    return readiness.ended(rotation, sync, waiting_for)


handler = step(wait_for_replication_sync)
