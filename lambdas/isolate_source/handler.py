"""IsolateSource: keep everybody out of the source by its security groups. The write outage begins."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from lambdas.rotation import databases, reach
from lambdas.rotation.errors import (
    DecisionLost,
    FenceBroken,
    PreflightRefused,
    StateIncomplete,
    SyncIncomplete,
    UnknownDatabase,
)
from lambdas.rotation.limitations import refuse_before_fence
from lambdas.rotation.network_fence import NetworkFence, groups_of, position_at, unavailable, unmarked
from lambdas.rotation.outage import FENCE_MARGIN, look_again_seconds, refuse_if_spent
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Fence, Isolation, Rotation, Sync
from lambdas.rotation.step import logger, step

ASK_AGAIN = timedelta(minutes=5)
"""RDS promises no event: a restart that it has accepted, and not told of after so long, is asked for again."""

PATIENCE = timedelta(minutes=30)
"""For an instance that is busy right before the fence."""


def isolate_source(rotation: Rotation, ports: Ports) -> Rotation:
    """Do the next thing, or see that the last one is not done yet; the state machine comes again until it is complete.

    In this order: the isolation group takes the place of the source's groups; nobody can begin a session any more, by
    RDS's account and by an attempt; the server restarts, of a cluster that of each instance, which ends the sessions
    that had begun. What gives the groups back is written down before they are taken, and so is the schedule that
    recovers the rotation.

    Raises:
        PreflightRefused: terminal; something came up since Preflight. Nothing was closed.
        DecisionLost: terminal; this rotation was decided, and a late attempt closes nothing.
        JournalMoved: retryable; another attempt has begun to close.
        FenceBroken: terminal; somebody could connect after all. Rollback gives the groups back.
        BudgetSpent: terminal; as above.
        SyncIncomplete: terminal; an instance is not available half an hour after WaitForSource. Nothing was closed.
    """
    plan, source = rotation.planned()
    if rotation.sync is None or not rotation.sync.ready:
        raise StateIncomplete("needs everything ready for the fence: WaitForSource has not finished")
    if rotation.isolation is not None and rotation.isolation.complete:
        return rotation
    engine = NetworkFence(source, plan, ports)
    if (standing := engine.verdict(rotation.rotation_id)) is not None:
        raise DecisionLost(f"'{standing}' stands: {source.identifier} is not closed any more")
    live = databases.by_resource_id(source.resource_id, ports)
    if live is None:
        raise UnknownDatabase(f"{source.identifier} is gone")
    parts = databases.parts_of(live, ports)
    if rotation.fence is None and (before := unavailable(parts)):
        return _not_yet(rotation, rotation.sync, before, ports)
    rotation, fence, isolation = _written_down(rotation, parts, engine, ports)
    ports.recovery.set(rotation, rotation.outage_ends_by + FENCE_MARGIN)
    waiting_for = _to_be_closed(fence, isolation, parts, engine, ports)
    if waiting_for is None:
        isolation = isolation.having(closed_at=isolation.closed_at or ports.clock.now())
        servers = _servers(isolation, parts, ports)
        restarts = [_restarted_at(isolation, server, ports) for server in servers]
        if restarted_at := _last_of(restarts):
            logger.info("source isolated", restarted_at=restarted_at.isoformat())
            return rotation.having(
                isolation=isolation.having(complete=True, waiting_for=()),
                fence=fence.having(raised_at=ports.clock.now(), position=position_at(restarted_at)),
            )
        left = [server for server, restart in zip(servers, restarts, strict=True) if restart is None]
        isolation = _restarting(rotation, isolation, left, ports)
        named = ", ".join(server.database.identifier for server in left) or f"an instance of {source.identifier}"
        waiting_for = f"RDS to say that {named} has restarted"
    logger.info("source observed", waiting_for=waiting_for)
    refuse_if_spent(rotation, waiting_for, ports)
    again = look_again_seconds(rotation, ports)
    return rotation.having(isolation=isolation.having(waiting_for=(waiting_for,), look_again_seconds=again))


def _not_yet(rotation: Rotation, ready: Sync, before: Sequence[str], ports: Ports) -> Rotation:
    """Before the fence nobody has to wait but this rotation. Under it such an instance would keep applications out."""
    logger.info("source observed", waiting_for=before)
    if ports.clock.now() - ready.observed_at >= PATIENCE:
        raise SyncIncomplete(f"right before the fence still waiting for {'; '.join(before)}")
    return rotation.having(isolation=Isolation(waiting_for=tuple(before)))


def _written_down(
    rotation: Rotation, parts: Sequence[Instance], engine: NetworkFence, ports: Ports
) -> tuple[Rotation, Fence, Isolation]:
    """The fence as the journal has it, or a new one that is in the journal now."""
    if rotation.fence is not None:
        return rotation, rotation.fence, rotation.isolation or Isolation()
    refuse_before_fence(rotation, engine, ports)
    if joined := unmarked(parts):
        ports.ledger.record(rotation)  # a twin that was quicker goes on
        raise PreflightRefused(f"{', '.join(joined)} came after WaitForSource, without the mark: start again")
    fence = Fence(databases=engine.plan_fence(()), requested_at=ports.clock.now())
    # From now on: one that leaves before the closing may have been the writer.
    servers = [one.database.resource_id for one in parts if not one.database.is_cluster]
    isolation = Isolation(restarts_requested_at=dict.fromkeys(servers))
    rotation = rotation.having(fence=fence, isolation=isolation)
    ports.ledger.record(rotation)
    return rotation, fence, isolation


def _to_be_closed(
    fence: Fence, isolation: Isolation, parts: Sequence[Instance], engine: NetworkFence, ports: Ports
) -> str | None:
    """What is waited for until nobody can begin a session, in servers that are up; None when that is so."""
    live = parts[0]
    identifier, group = live.database.identifier, str(fence.databases[0].isolation_group)
    if set(groups_of(live)) != {group}:
        if isolation.closed_at is not None:
            raise FenceBroken(f"somebody has given {identifier} other security groups")
        databases.request_security_groups(live.database, [group], ports)
        return f"the security group {group} of {identifier} (it is {live.status})"
    if busy := unavailable(parts):
        return busy[0]
    breach = engine.fence_breach(fence.databases)
    if breach is not None and isolation.closed_at is not None:
        raise FenceBroken(f"{identifier}: {breach}")
    return breach and f"{identifier} to be closed: {breach}"


def _servers(isolation: Isolation, parts: Sequence[Instance], ports: Ports) -> list[Instance]:
    """Those that may have a session from before: of a cluster every instance, for any may write after a failover.

    But for one that has come since. One that is leaving may serve until RDS knows it no more, listed as an instance of
    the cluster or not.
    """
    known = isolation.restarts_requested_at
    there = {part.database.resource_id: part for part in parts if not part.database.is_cluster}
    for resource_id in known.keys() - there.keys():
        if (leaving := ports.rds.describe_instance_by_resource_id(resource_id)) is not None:
            there[resource_id] = leaving
    return [one for resource_id, one in there.items() if resource_id in known or not _has_come_since(isolation, one)]


def _has_come_since(isolation: Isolation, instance: Instance) -> bool:
    """By RDS's account; it was born closed then."""
    created_at, closed_at = instance.raw.get("InstanceCreateTime"), isolation.closed_at
    return created_at is not None and closed_at is not None and created_at > closed_at


def _restarted_at(isolation: Isolation, server: Instance, ports: Ports) -> datetime | None:
    """By this rotation's own request, which came when nobody could begin a session any more: no earlier one counts."""
    asked_at = isolation.restarts_requested_at.get(server.database.resource_id)
    return None if asked_at is None else ports.rds.restarted_at(server.database.identifier, asked_at)


def _last_of(restarts: Sequence[datetime | None]) -> datetime | None:
    """When the last one had restarted; None while one has not, and where there is none."""
    moments = [moment for moment in restarts if moment is not None]
    return max(moments, default=None) if len(moments) == len(restarts) else None


def _restarting(rotation: Rotation, isolation: Isolation, servers: Sequence[Instance], ports: Ports) -> Isolation:
    """Each is asked for until RDS accepts it, and again when RDS then tells of nothing.

    A request counts once it is accepted: of one that was never made any later event would be taken for its own. An
    attempt that dies in between asks twice, and a restart more ends nobody's session.
    """
    now, asked = ports.clock.now(), dict(isolation.restarts_requested_at)
    due = [
        one for one in servers if (before := asked.get(one.database.resource_id)) is None or now - before >= ASK_AGAIN
    ]
    if not due:
        return isolation
    asked |= {one.database.resource_id: None for one in due}
    isolation = isolation.having(restarts_requested_at=asked, asking_since=now)
    ports.ledger.record(rotation.having(isolation=isolation))
    for one in due:
        before = ports.clock.now()  # the event may be there before the answer
        if ports.rds.request_reboot(one.database.identifier):
            asked = {**asked, one.database.resource_id: before}
            isolation = isolation.having(restarts_requested_at=asked)
            ports.ledger.record(rotation.having(isolation=isolation))
    return isolation


handler = step(isolate_source, reaches=(reach.recovery_schedule, reach.network_fence))
