"""IsolateSource: keep everybody out of the source by its security groups. The write outage begins."""

from datetime import datetime, timedelta

from lambdas.rotation import reach
from lambdas.rotation.errors import DecisionLost, FenceBroken, StateIncomplete, UnknownDatabase
from lambdas.rotation.limitations import refuse_before_fence
from lambdas.rotation.network_fence import NetworkFence, groups_of, position_at
from lambdas.rotation.outage import FENCE_MARGIN, refuse_if_spent
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Fence, Isolation, Rotation
from lambdas.rotation.step import logger, step

ASK_AGAIN = timedelta(minutes=5)
"""A restart that RDS has not told of after so long was never asked for: the attempt died before it."""


def isolate_source(rotation: Rotation, ports: Ports) -> Rotation:
    """Do the next thing, or see that the last one is not done yet; the state machine comes again until it is complete.

    In this order: the isolation group takes the place of the source's groups; nobody can begin a session any more, by
    RDS's account and by an attempt; the server restarts, which ends the sessions that had begun. What gives the groups
    back is written down before they are taken, and so is the schedule that recovers the rotation.

    Raises:
        PreflightRefused: terminal; something came up since Preflight. Nothing was closed.
        DecisionLost: terminal; this rotation was decided, and a late attempt closes nothing.
        JournalMoved: retryable; another attempt has begun to close.
        FenceBroken: terminal; somebody could connect after all. Rollback gives the groups back.
        BudgetSpent: terminal; as above.
    """
    plan, source = rotation.planned()
    if rotation.sync is None or not rotation.sync.ready:
        raise StateIncomplete("needs everything ready for the fence: WaitForSource has not finished")
    if rotation.isolation is not None and rotation.isolation.complete:
        return rotation
    engine = NetworkFence(source, plan, ports)
    if (standing := engine.verdict(rotation.rotation_id)) is not None:
        raise DecisionLost(f"'{standing}' stands: {source.identifier} is not closed any more")
    rotation, fence, isolation = _written_down(rotation, engine, ports)
    ports.recovery.set(rotation, rotation.outage_ends_by + FENCE_MARGIN)
    live = ports.rds.describe_instance_by_resource_id(source.resource_id)
    if live is None:
        raise UnknownDatabase(f"{source.identifier} is gone")
    waiting_for = _to_be_closed(fence, isolation, live, engine, ports)
    if waiting_for is None:
        isolation = isolation.having(closed_at=isolation.closed_at or ports.clock.now())
        restarted_at = _restarted_at(isolation, live, ports)
        if restarted_at is not None:
            logger.info("source isolated", restarted_at=restarted_at.isoformat())
            return rotation.having(
                isolation=isolation.having(complete=True, waiting_for=()),
                fence=fence.having(raised_at=ports.clock.now(), position=position_at(restarted_at)),
            )
        isolation = _restarting(rotation, isolation, live, ports)
        waiting_for = f"RDS to say that {live.database.identifier} has restarted"
    logger.info("source observed", waiting_for=waiting_for)
    refuse_if_spent(rotation, waiting_for, ports)
    return rotation.having(isolation=isolation.having(waiting_for=(waiting_for,)))


def _written_down(rotation: Rotation, engine: NetworkFence, ports: Ports) -> tuple[Rotation, Fence, Isolation]:
    """The fence as the journal has it, or a new one that is in the journal now."""
    if rotation.fence is not None:
        return rotation, rotation.fence, rotation.isolation or Isolation()
    refuse_before_fence(rotation, engine, ports)
    fence, isolation = Fence(databases=engine.plan_fence(()), requested_at=ports.clock.now()), Isolation()
    rotation = rotation.having(fence=fence, isolation=isolation)
    ports.ledger.record(rotation)
    return rotation, fence, isolation


def _to_be_closed(fence: Fence, isolation: Isolation, live: Instance, engine: NetworkFence, ports: Ports) -> str | None:
    """What is waited for until nobody can begin a session, in a server that is up; None when that is so."""
    identifier, group = live.database.identifier, str(fence.databases[0].isolation_group)
    if set(groups_of(live)) != {group}:
        if isolation.closed_at is not None:
            raise FenceBroken(f"somebody has given {identifier} other security groups")
        ports.rds.request_security_groups(identifier, [group])
        return f"the security group {group} of {identifier} (it is {live.status})"
    if live.status != "available":
        return f"{identifier} to be available (it is {live.status})"
    breach = engine.fence_breach(fence.databases)
    if breach is not None and isolation.closed_at is not None:
        raise FenceBroken(f"{identifier}: {breach}")
    return breach and f"{identifier} to be closed: {breach}"


def _restarted_at(isolation: Isolation, live: Instance, ports: Ports) -> datetime | None:
    """By this rotation's own request, which came when nobody could begin a session any more: no earlier one counts."""
    asked_at = isolation.reboot_requested_at
    return None if asked_at is None else ports.rds.restarted_at(live.database.identifier, asked_at)


def _restarting(rotation: Rotation, isolation: Isolation, live: Instance, ports: Ports) -> Isolation:
    """Asked for once, and again when RDS tells of nothing: a restart more ends nobody's session."""
    now, asked_at = ports.clock.now(), isolation.reboot_requested_at
    if asked_at is not None and now - asked_at < ASK_AGAIN:
        return isolation
    isolation = isolation.having(reboot_requested_at=now)
    ports.ledger.record(rotation.having(isolation=isolation))
    if not ports.rds.request_reboot(live.database.identifier):
        return isolation.having(reboot_requested_at=None)
    return isolation


handler = step(isolate_source, reaches=(reach.recovery_schedule, reach.network_fence))
