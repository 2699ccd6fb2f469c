"""What StartRotation does about a rotation that another execution began."""

from lambdas.rotation.errors import RecoveryExhausted, RotationInProgress
from lambdas.rotation.outage import hangs
from lambdas.rotation.policy import TASK_TOKEN, task_token
from lambdas.rotation.ports import Lock, Ports
from lambdas.rotation.state import Failure, Moment, Rotation


def recover(rotation: Rotation, ended_execution: str, ports: Ports) -> Rotation:
    """Take up what an execution left; at once ``closed`` when it left nothing.

    Three triggers may ask for the same recovery, and late: the first one takes the rotation over, and the others no
    longer find an unfinished entry of that execution. Nobody recovers a recovery, so an attempt that died half way
    must not keep the next one from finishing it: what this execution holds already comes first.

    Raises:
        RecoveryExhausted: terminal; that execution was a recovery itself. (After the release a person may ask as often
            as it takes: nobody is kept from writing, and the lock that a plain start would find may be free by then.)
    """
    if (ours := ports.ledger.left_by(rotation.execution_arn)) is not None:
        return _taken(rotation, ours.rotation, ended_execution, ports, recovery=True)
    entry = ports.ledger.left_by(ended_execution)
    if entry is None:
        return rotation.having(route="closed")
    left = entry.rotation
    if ports.workflow.is_running(ended_execution):
        if not hangs(entry, ports.clock.now()):
            return rotation.having(route="closed")
        ports.workflow.stop(ended_execution, f"it hangs between fence and release; {rotation.execution_arn} takes over")
    elif left.recovery and left.release is None:
        raise RecoveryExhausted(
            f"the recovery {ended_execution} of rotation {left.rotation_id} failed; start a rotation of "
            f"{left.planned()[0].base_name} by hand: it takes this one up"
        )
    return _taken(rotation, left, ended_execution, ports, recovery=True)


def take_over(rotation: Rotation, holder: Lock, ports: Ports) -> Rotation | None:
    """The unfinished rotation of an ended holder, taken over; None when the holder left nothing but its lock.

    Raises:
        RotationInProgress: terminal; the holder is at work, or this is a dry run, which finishes nothing.
    """
    plan, _ = rotation.planned()
    if _works(holder.execution_arn, rotation, ports):
        raise RotationInProgress(
            f"rotation {holder.rotation_id} of {plan.base_name} is at work; wait for {holder.execution_arn}"
        )
    entry = ports.ledger.entry(plan.base_name, holder.rotation_id)
    if entry is None or entry.closed_at is not None:
        return None
    if plan.dry_run:
        raise _unfinished(holder.rotation_id, plan.base_name)
    return _taken(rotation, entry.rotation, entry.rotation.execution_arn, ports, recovery=False)


def finish_rollback(rotation: Rotation, ports: Ports) -> Rotation | None:
    """A rollback of this database whose last steps failed, taken over; None when there is none.

    It freed the lock before, so the lock, which this rotation has by now, does not lead to it.

    Raises:
        RotationInProgress: terminal; this is a dry run, which finishes nothing.
    """
    plan, _ = rotation.planned()
    for entry in ports.ledger.entries(plan.base_name):
        left = entry.rotation
        # After a release it went forward; all that it may still do is wait for its key's users.
        open_rollback = entry.closed_at is None and left.undo is not None and left.release is None
        if not open_rollback or _works(left.execution_arn, rotation, ports):
            continue
        ports.ledger.release_lock(rotation)
        if plan.dry_run:
            raise _unfinished(left.rotation_id, plan.base_name)
        return _taken(rotation, left, left.execution_arn, ports, recovery=False)
    return None


def carry_on_retirements(rotation: Rotation, ports: Ports) -> None:
    """Start anew what earlier rotations of this database have left to do about their old keys, where nobody does it.

    They have freed the lock, so they hold up nobody, and this rotation goes on beside them. Whoever starts it has
    perhaps removed what kept them from it. Repeatable: the name of such an execution follows from both rotations.
    """
    plan, _ = rotation.planned()
    for entry in ports.ledger.entries(plan.base_name):
        left = entry.rotation
        waits = entry.closed_at is None and left.release is not None and left.rotation_id != rotation.rotation_id
        if waits and not plan.dry_run and not _works(left.execution_arn, rotation, ports):
            ports.workflow.start_recovery(left.execution_arn, f"recover-{left.rotation_id}-{rotation.rotation_id}")


def _works(execution_arn: str, rotation: Rotation, ports: Ports) -> bool:
    """Whether another execution is at work. What this one holds, an earlier attempt of this function has left."""
    return execution_arn != rotation.execution_arn and ports.workflow.is_running(execution_arn)


def _unfinished(rotation_id: str, base_name: str) -> RotationInProgress:
    return RotationInProgress(
        f"rotation {rotation_id} of {base_name} is unfinished; start without DryRun to finish it first"
    )


def _taken(rotation: Rotation, left: Rotation, ended_execution: str, ports: Ports, *, recovery: bool) -> Rotation:
    """Repeatable: an attempt that was cut off has raised the epoch, and perhaps not gone further."""
    if left.execution_arn == rotation.execution_arn:
        taken = ports.ledger.current(left)
    else:
        taken = ports.ledger.take_over(left, rotation.execution_arn)
    if left.decommission is None or not left.decommission.complete:
        # The lock names whoever works on the database; a rotation that only waits for its key's users has freed it.
        ports.ledger.acquire(taken)
    # What people were told about the execution that ended they are told again about this one.
    again = (Moment.ATTENTION, Moment.UNDECIDED)
    taken = taken.having(notified=tuple(moment for moment in taken.notified if moment not in again))
    token = task_token(rotation.request)
    if token is not None:  # a fleet waits for this execution, not for the one that ended
        taken = taken.having(request={**taken.request, TASK_TOKEN: token}, token_answered=False)
    if taken.release is not None:
        taken = taken.having(release=taken.release.having(asked_since=None))  # this execution may wait for RDS anew
    # One that RDS has not opened yet is finished by the way that a failure takes: that asks RDS again.
    if taken.release is not None and taken.release.open:
        seen = taken.verification  # what the ended execution has waited for, this one may wait for anew
        verification = seen if seen is not None and seen.complete else None
        return taken.having(route="verify", recovery=recovery, failure=None, verification=verification)
    ended = Failure(Error="ExecutionEnded", Cause=f"{ended_execution} ended before the rotation was complete")
    plan, _ = taken.planned()
    # Whoever stopped it wants it undone, not done in another way.
    plan = plan.having(fallback=None)
    return taken.having(route="rollback", recovery=recovery, failure=left.failure or ended, plan=plan)


def without_stale_lock(rotation: Rotation, holder: Lock, ports: Ports) -> Lock | None:
    """Free the lock of a holder that left nothing behind, and ask for it again."""
    ports.ledger.release_lock(rotation.having(rotation_id=holder.rotation_id, execution_arn=holder.execution_arn))
    return ports.ledger.acquire(rotation)
