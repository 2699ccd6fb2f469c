"""ReplicateBackups: the target's automated backups in other Regions, where the source's are, under new keys."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from lambdas.rotation import new_key
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    BackupsNotReplicated,
    DefaultKeyPolicy,
    NameTaken,
)
from lambdas.rotation.ports import KeyFacts, Kms, Ports
from lambdas.rotation.state import BackupReplication, Database, Key, ReplicatedBackup, Rotation
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(minutes=30)


def replicate_backups(rotation: Rotation, ports: Ports) -> Rotation:
    """Look once: in each Region make a key, ask RDS to begin, and see that it has. What is not so yet is ``pending``.

    Idempotent: a key is written down, or found by the token in its description; and RDS is asked only where it lists
    nothing of the target. Does not wait for the first copy. What there is of the source's stays, under its key. A
    Region that the source's are no longer replicated to is left out: its owner has given it up.

    Raises:
        JournalMoved: retryable; another attempt is making a key.
        AccessRefused: terminal; once every other Region was served.
        BackupsNotReplicated: terminal; RDS or KMS has refused it for 30 minutes, or somebody else has begun it under
            another key. Applications write to the target all the same. A new start has 30 minutes anew.
    """
    now = ports.clock.now()
    progress = _counted(rotation, now)
    if progress.complete:
        return rotation
    target = ports.rds.describe_instance_by_resource_id(rotation.synced_target().resource_id)
    if target is None:
        raise BackupsNotReplicated(f"{rotation.synced_target().identifier} no longer exists")
    pending: list[str] = []
    denied: list[AccessRefused] = []
    plan, _ = rotation.planned()
    known = {backup.region: backup for backup in plan.replicated_backups}
    for region, arn in _where(rotation, ports).items():
        try:
            # Begun since the start, it is read only now.
            backup = known.get(region) or ports.replicated_backups.at(arn)
            if backup is None:
                continue
            for made in _making_key(backup, rotation, progress, ports):
                progress = made
                ports.ledger.record(rotation.having(backup_replication=progress))
            reason = _waiting_for(target.database, backup, progress, ports)
        except AccessRefused as refused:
            reason = str(refused)
            denied.append(refused)
        except (AwsRefused, AwsUnavailable, DefaultKeyPolicy, NameTaken) as refused:
            reason = str(refused)
        if reason is not None:
            pending.append(f"{region}: {reason}")
    if denied:
        raise denied[0]
    if pending and now - progress.started_at > PATIENCE:
        raise BackupsNotReplicated("; ".join(pending))
    logger.info("backups not replicated yet" if pending else "backups replicated", pending=pending)
    progress = progress.having(complete=not pending, pending=tuple(pending))
    return rotation.having(backup_replication=progress)


def _where(rotation: Rotation, ports: Ports) -> Mapping[str, str]:
    """Region -> ARN of the source's, by now; of a source that is gone as they were at the start."""
    plan, database = rotation.planned()
    source = ports.rds.describe_instance_by_resource_id(database.resource_id)
    if source is None:
        return {backup.region: backup.arn for backup in plan.replicated_backups}
    return source.backup_replications


def _counted(rotation: Rotation, now: datetime) -> BackupReplication:
    """The progress, with the time that this execution has spent on it: one that ended has used up only its own."""
    seen, own = rotation.backup_replication, rotation.execution_arn
    if seen is None:
        return BackupReplication(started_at=now, execution_arn=own)
    return seen if own == seen.execution_arn else seen.having(started_at=now, execution_arn=own)


def _making_key(
    backup: ReplicatedBackup, rotation: Rotation, progress: BackupReplication, ports: Ports
) -> Iterator[BackupReplication]:
    """Each of these has to be in the journal before the next is asked for."""
    region, kms = backup.region, ports.kms_in(backup.region)
    if _key_of(region, progress) is not None:
        return
    asked, made = progress.key_requests.get(region), progress.new_keys.get(region)
    for request, key in new_key.making(rotation, asked, made, _old_key(backup, kms), kms, ports.clock):
        progress = progress.having(key_requests={**progress.key_requests, region: request})
        if key is not None:
            progress = progress.having(new_keys={**progress.new_keys, region: key})
        yield progress


def _key_of(region: str, progress: BackupReplication) -> Key | None:
    """The new key of a Region, once KMS knows it everywhere there."""
    asked = progress.key_requests.get(region)
    return progress.new_keys.get(region) if asked is None or asked.complete else None


def _old_key(backup: ReplicatedBackup, kms: Kms) -> KeyFacts | None:
    """What the new one inherits from; None where there is none (any more)."""
    if backup.key_arn is None:
        return None
    try:
        return kms.describe_key(backup.key_arn)
    except AwsRefused as refused:
        if refused.code != "NotFoundException":
            raise
        logger.warning("old key is gone", region=backup.region, old_key=backup.key_arn)
        return None


def _waiting_for(target: Database, backup: ReplicatedBackup, progress: BackupReplication, ports: Ports) -> str | None:
    key = _key_of(backup.region, progress)
    if key is None:
        return "KMS does not know the new key everywhere yet"
    found = ports.replicated_backups.of(target, backup.region)
    if found is None:
        ports.replicated_backups.request(target, backup.region, key.arn, backup.retention_days)
        logger.info("replication of backups requested", region=backup.region, key=key.arn)
        found = ports.replicated_backups.of(target, backup.region)
    if found is None:
        return f"no replicated backup of {target.identifier} is listed"
    if found.key_arn != key.arn:
        return f"{found.arn} is under {found.key_arn}, not under {key.arn}: somebody else has begun it"
    return None


handler = step(replicate_backups)
