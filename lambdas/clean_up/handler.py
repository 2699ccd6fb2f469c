"""CleanUp: after a rollback, remove what the rotation made. Applications are writing to the source."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

from lambdas.rotation import databases, snapshots
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    DatabaseUnreachable,
    LoginRefused,
    RetirementRefused,
    SqlRefused,
    StateIncomplete,
)
from lambdas.rotation.leftovers import removal_of_control_database
from lambdas.rotation.names import ROTATION_ID_TAG
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step
from lambdas.rotation.undoing import free_lock

PATIENCE = timedelta(hours=2)

_LATER = (AwsUnavailable, DatabaseUnreachable, AwsRefused, SqlRefused)
_NEVER = (AccessRefused, LoginRefused, RetirementRefused)

_END_CAPTURE = {
    "mariadb": "mariadb -e \"CALL mysql.rds_set_configuration('binlog retention hours', NULL)\"",
    "postgres": (
        'psql postgres -c "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots '
        "WHERE starts_with(slot_name, '{0}') AND active\" "
        '-c "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots '
        "WHERE starts_with(slot_name, '{0}')\"; "
        'psql postgres -Atc "SELECT datname FROM pg_database WHERE datallowconn" | '
        "while read -r name; do psql \"$name\" -c 'DROP PUBLICATION IF EXISTS {0}'; done"
    ),
}


class _LastCopy(Exception):
    """Somebody has deleted the source meanwhile: RDS has promoted the target then, if that was a replica of it."""


Chore = Callable[[Rotation, Ports], str | None]
"""Asks for one removal. Returns what is still being waited for, None when there is nothing left to remove."""


def clean_up(rotation: Rotation, ports: Ports) -> Rotation:
    """Look once at everything that the rotation made, and ask for the removal of what is left.

    What cannot be removed, or not within two hours, is left over with the command that removes it; it holds nobody up.
    Frees the lock at the end, unless another strategy may follow. Nothing that lacks this rotation's tag is touched,
    and where the source is gone no copy of its data: it may be the last one.
    """
    undo = rotation.undo
    if undo is None or undo.outcome != "rolled-back":
        raise StateIncomplete("needs a rollback that has ended: the target may be in use")
    if undo.clean:
        free_lock(rotation, ports)
        return rotation
    rotation = _followed(rotation, ports)
    patient = ports.clock.now() - (undo.ended_at or undo.started_at) < PATIENCE
    waiting_for: list[str] = []
    leftovers: list[str] = []
    for chore, command in _chores(rotation):
        try:
            waiting = chore(rotation, ports)
        except _LATER as later:
            waiting = f"{type(later).__name__}: {later}"
        except _LastCopy as last:
            logger.warning("not removed", reason=str(last))
            leftovers.append(str(last))  # and no command
            continue
        except _NEVER as never:
            logger.warning("not removed", reason=str(never), command=command)
            leftovers.append(f"{command}  # {never}")
            continue
        if waiting and patient:
            # What comes later needs this to be gone: the verdict in the control database binds a living replica.
            waiting_for.append(waiting)
            break
        if waiting:
            leftovers.append(f"{command}  # {waiting}")
    undo = undo.having(waiting_for=tuple(waiting_for), leftovers=tuple(leftovers), clean=not waiting_for)
    if undo.clean:
        free_lock(rotation, ports)
    logger.info("clean-up observed", waiting_for=waiting_for, leftovers=leftovers)
    return rotation.having(undo=undo)


def _followed(rotation: Rotation, ports: Ports) -> Rotation:
    """The rotation with its target under the name that it has now: somebody may have given it another one."""
    if rotation.target is None:
        return rotation
    with suppress(*_LATER, *_NEVER):
        live = databases.by_resource_id(rotation.target.resource_id, ports)
        if live is not None and live.database.identifier != rotation.target_identifier:
            logger.warning("target renamed by somebody else", now=live.database.identifier)
            return rotation.having(target=live.database, target_identifier=live.database.identifier)
    return rotation


def _chores(rotation: Rotation) -> list[tuple[Chore, str]]:
    """In order, each with the command by which a person does it."""
    plan, source = rotation.planned()
    chores: list[tuple[Chore, str]] = []
    if rotation.fence is not None:
        command = f"aws scheduler delete-schedule --group-name <the stack's> --name {rotation.rotation_id}"
        chores.append((_recovery_schedule, command))
    if rotation.capture is not None:
        # Before anything that takes its time: the source keeps all that it commits for it.
        chores.append((_capture, _END_CAPTURE[source.engine].format(rotation.capture.name)))
    if target := rotation.target_identifier:
        kind = "cluster" if source.is_cluster else "instance"
        command = f"aws rds delete-db-{kind} --db-{kind}-identifier {target} --skip-final-snapshot"
        first = "  # its instances first" if source.is_cluster and not source.is_multi_az_cluster else ""
        chores.append((_target, f"{command} --delete-automated-backups{first}"))
        chores.append((_control_database, removal_of_control_database(source, plan)))
    made: list[str] = []
    if rotation.restoration is not None:
        # After the target, which may still be being made of one of them.
        made += (rotation.restoration.kept_snapshot, rotation.restoration.temporary_snapshot)
    if rotation.pre_copy is not None:
        made += reversed(snapshots.early_pair_of(rotation))
    for snapshot in made:
        kind = "db-cluster-snapshot" if source.is_cluster else "db-snapshot"
        command = f"aws rds delete-{kind} --{kind}-identifier {snapshot}"
        chores.append((partial(_snapshot, snapshot), command))
    return chores


def _recovery_schedule(rotation: Rotation, ports: Ports) -> str | None:
    ports.recovery.remove(rotation)
    return None


def _capture(rotation: Rotation, ports: Ports) -> str | None:
    plan, source = rotation.planned()
    if rotation.capture is not None:
        ports.catching_up(source, plan).end_capture(rotation.capture.name)
    return None


def _target(rotation: Rotation, ports: Ports) -> str | None:
    target = _ours(rotation, ports)
    if target is None:
        return None
    _refuse_the_last_copy(target.database.identifier, rotation, ports)
    # A cluster goes when its instances are gone; until then RDS refuses, and the next visit asks again.
    for one in databases.to_be_deleted_with(target, ports):
        if one.deletion_protection:
            databases.disable_deletion_protection(one.database, ports)
        elif one.status != "deleting":
            databases.request_deletion(one.database, ports, keep_automated_backups=False)
    return f"{target.database.identifier} to be deleted (it is {target.status})"


def _snapshot(identifier: str, rotation: Rotation, ports: Ports) -> str | None:
    refuse = partial(_refuse_the_last_copy, f"snapshot {identifier}", rotation, ports)
    return snapshots.request_removal(identifier, rotation, ports, refuse=refuse)


def _refuse_the_last_copy(identifier: str, rotation: Rotation, ports: Ports) -> None:
    _, source = rotation.planned()
    live = databases.by_resource_id(source.resource_id, ports)
    if live is None or live.status == "deleting":
        raise _LastCopy(
            f"{identifier} is kept: somebody has deleted {source.identifier}, and this may be the last copy of its data"
        )


def _ours(rotation: Rotation, ports: Ports) -> Instance | None:
    """The target; one without our tag was there before (NameTaken), and is not for us to touch."""
    _, source = rotation.planned()
    target = databases.like(source, rotation.target_identifier or "", ports)
    return target if target is not None and target.tags.get(ROTATION_ID_TAG) == rotation.rotation_id else None


def _control_database(rotation: Rotation, ports: Ports) -> str | None:
    """After the target: while that lives, the verdict in the control database keeps it from being released."""
    plan, source = rotation.planned()
    if _ours(rotation, ports) is not None:
        raise RetirementRefused("the target is still there")
    ports.engine(source, plan).drop_control_database(rotation.rotation_id)
    return None


handler = step(clean_up)
