"""WaitForCatchUp: let the restored target apply what the source has kept, and see it come close. Looks once."""

from lambdas.rotation import making, readiness
from lambdas.rotation.errors import CatchUpFailed, TargetMismatch, UnknownDatabase
from lambdas.rotation.names import named
from lambdas.rotation.ports import CatchUpEngine, Delivery, Ports
from lambdas.rotation.readiness import SMALL_LAG_BYTES, SMALL_LAG_SECONDS, STEADY_OBSERVATIONS, connectivity
from lambdas.rotation.snapshots import NOTES
from lambdas.rotation.state import Rotation, Sync
from lambdas.rotation.step import step


def wait_for_catch_up(rotation: Rotation, ports: Ports) -> Rotation:
    """Observe the target once, and say what is still being waited for. The first look lets it subscribe.

    Fences nothing. What is not replicated is compared here already, so that a change costs no write outage.

    Raises:
        CatchUpFailed: terminal; from where is not known, or the source has thrown away what the target lacks.
        TargetMismatch: terminal; something was changed that is not replicated.
        SyncIncomplete: terminal; it is not close after 24 hours.
    """
    plan, database = rotation.planned()
    now = ports.clock.now()
    source = ports.rds.describe_instance_by_resource_id(database.resource_id)
    if source is None:
        raise UnknownDatabase(f"{database.identifier} is gone")
    target = ports.rds.describe_instance(rotation.target_identifier or "")
    waiting_for = making.waiting_for(rotation, target, CatchUpFailed)
    sync = readiness.begun(rotation, now)
    if target is not None and not waiting_for:
        publisher, copy = ports.catching_up(source.database, plan), ports.catching_up(target.database, plan)
        _delivery(rotation, publisher, copy)
        rotation, waiting_for = _subscribed(rotation, publisher, copy, ports)
        if not waiting_for:
            waiting_for, sync = _behind(rotation, sync, publisher, copy)
        waiting_for += connectivity(rotation, now)
    return readiness.ended(rotation, sync, waiting_for)


def _subscribed(
    rotation: Rotation, publisher: CatchUpEngine, copy: CatchUpEngine, ports: Ports
) -> tuple[Rotation, list[str]]:
    capture = rotation.captured()
    position = capture.applied_from
    if position is None:
        target = rotation.synced_target().identifier
        assert capture.position is not None  # it came with the databases
        position = copy.end_of_recovery(
            capture.position, lambda words: ports.rds.log_lines(target, words, capture.begun_at)
        )
        if position is None:
            return rotation, ["the target's log to say where its recovery ended"]
        # Until WaitForRestore closed it, whoever knew its endpoint could log in.
        if not copy.is_untouched():
            raise TargetMismatch(f"somebody has written to {rotation.target_identifier} before it was closed")
        rotation = rotation.having(capture=capture.having(applied_from=position))
        # Logs are kept for days only, and a second recovery would be in there, too.
        ports.ledger.record(rotation)
    _, source = rotation.planned()
    for database in capture.databases:
        if not copy.is_subscribed(capture.name, database):
            publisher.begin_behind(capture.name, database, position)
            copy.subscribe(capture.name, database, source, position)
    return rotation, []


def _delivery(rotation: Rotation, publisher: CatchUpEngine, copy: CatchUpEngine) -> Delivery:
    capture = rotation.captured()
    seen = publisher.delivery(capture.name, copy)
    if seen.lost or seen.slots < len(capture.databases):
        raise CatchUpFailed(
            f"the source no longer has what {rotation.target_identifier} lacks: raise max_slot_wal_keep_size (of "
            "MariaDB: the binlog retention hours), or start when less is written"
        )
    return seen


def _behind(rotation: Rotation, sync: Sync, publisher: CatchUpEngine, copy: CatchUpEngine) -> tuple[list[str], Sync]:
    capture = rotation.captured()
    seen = _delivery(rotation, publisher, copy)
    superusers = {*sync.superuser_databases, *publisher.databases_with_superuser_sessions()}
    sync = sync.having(
        lag_bytes=seen.bytes,
        lag_seconds=seen.seconds,
        position=seen.position,
        superuser_databases=tuple(sorted(superusers)),
        steady_observations=0,
    )
    before = rotation.sync.steady_observations if rotation.sync is not None else 0
    if not seen.connected:
        return ["the target to connect"], sync
    if seen.bytes > SMALL_LAG_BYTES or (seen.seconds or 0) > SMALL_LAG_SECONDS:
        age = "" if seen.seconds is None else f", {seen.seconds} s"
        return [f"the lag ({seen.bytes} bytes{age}) to become small"], sync
    steady = min(before + 1, STEADY_OBSERVATIONS)
    sync = sync.having(steady_observations=steady)
    if steady < STEADY_OBSERVATIONS:
        return [f"the lag to stay small ({steady} of {STEADY_OBSERVATIONS} observations)"], sync
    if not copy.has_notes_once(rotation.rotation_id, NOTES):
        return ["the rows from before and after the snapshot to be there once"], sync
    if changed := copy.differing_catalogs(publisher.catalogs(capture.name)):
        raise TargetMismatch(f"changed since the snapshot: {named(changed)}; start anew, and change no schema")
    return [], sync


handler = step(wait_for_catch_up)
