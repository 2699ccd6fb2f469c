"""WaitForRestore: is the target there, is it what the source is, and does the fence stand on it? Looks once."""

from lambdas.rotation import databases, making, reach
from lambdas.rotation.errors import DatabaseUnreachable, RestoreFailed, StateIncomplete, UnknownDatabase
from lambdas.rotation.inherited_fence import is_fenced_primary
from lambdas.rotation.outage import look_again_seconds, refuse_if_spent
from lambdas.rotation.ports import SECURITY_GROUPS, Instance, Ports
from lambdas.rotation.settings import request_repair, request_repair_of_cluster
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step
from lambdas.wait_for_restore import members


def wait_for_restore(rotation: Rotation, ports: Ports) -> Rotation:
    """Observe the target once, ask for what a restore does not make, and prove the fence on it at last.

    That is settings and, of a cluster, instances.

    Raises:
        WrongKey, SettingsNotCarried, RestoreFailed: terminal; it is not, and will not be, what the source is.
        FenceBroken, FenceIncomplete: terminal; applications can reach the target before its release.
        BudgetSpent: terminal; RDS takes longer than applications may be kept from writing.
    """
    restoration = rotation.restored()
    if restoration.requested_at is None:
        raise StateIncomplete("needs a target: RestoreTarget has not run")
    if restoration.complete:
        return rotation
    _, source = rotation.planned()
    target = databases.like(source, rotation.target_identifier or "", ports)
    waiting_for = making.waiting_for(rotation, target, RestoreFailed)
    if target is not None and target.database.address:
        rotation = rotation.having(target=target.database)
    if target is not None and not waiting_for:
        waiting_for = _finished(rotation, target, ports)
    logger.info("target observed", target=rotation.target_identifier, waiting_for=waiting_for)
    if not waiting_for:
        return rotation.having(restoration=restoration.having(stage="done", waiting_for=()))
    refuse_if_spent(rotation, "; ".join(waiting_for), ports)
    return rotation.having(
        restoration=restoration.having(
            waiting_for=tuple(waiting_for), look_again_seconds=look_again_seconds(rotation, ports)
        )
    )


def _finished(rotation: Rotation, target: Instance, ports: Ports) -> list[str]:
    """The settings before the fence: some of them restart the server, or let in whoever may not come in."""
    _, database = rotation.planned()
    source = databases.by_resource_id(database.resource_id, ports)
    if source is None:
        raise UnknownDatabase(f"{database.identifier} is gone")
    # Behind a network fence it is born with the source's groups. A late attempt would take from it what opens it.
    besides = (SECURITY_GROUPS,) if rotation.isolation is not None else ()
    repair = request_repair_of_cluster if database.is_cluster else request_repair
    if differing := repair(source, target, ports, besides=besides):
        return [f"the settings {', '.join(differing)}"]
    if waiting_for := members.waiting_for(rotation, source, target, ports):
        return waiting_for
    return _closed(rotation, target, ports)


def _closed(rotation: Rotation, target: Instance, ports: Ports) -> list[str]:
    """Born fenced, where the fence is in the data; else closed to everybody but what is going to apply."""
    if rotation.capture is None:
        return [] if is_fenced_primary(rotation, ports) else [f"{target.database.identifier} to answer"]
    plan, _ = rotation.planned()
    try:
        ports.catching_up(rotation.synced_target(), plan).keep_closed()
    except DatabaseUnreachable as unreachable:  # the first minutes of a server that was restored
        return [f"{target.database.identifier} to be closed: {unreachable}"]
    return []


handler = step(wait_for_restore, reaches=(reach.database, reach.isolation_group, reach.source_server))
