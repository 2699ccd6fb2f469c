"""WaitForSource: is the source ready for the fence, where the target is made under it? Looks once."""

from collections.abc import Sequence
from datetime import datetime

from lambdas.rotation import databases, marks, names
from lambdas.rotation.claim import claim_source
from lambdas.rotation.errors import UnknownDatabase
from lambdas.rotation.network_fence import unavailable, unmarked
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.readiness import backup_window, begun, concluded, connectivity
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step

OBSERVATIONS = 3
"""So often somebody looks for sessions of RDS's own agent, which come and go, and decide how a database is fenced."""


def wait_for_source(rotation: Rotation, ports: Ports) -> Rotation:
    """Observe the source once, and say what is still being waited for. Makes the control database; fences nothing.

    Raises:
        UnknownDatabase: terminal; the source is gone.
        NameTaken: terminal; see `claim_source`.
        SyncIncomplete: terminal; it is not ready after 24 hours.
    """
    plan, database = rotation.planned()
    now = ports.clock.now()
    source = databases.by_resource_id(database.resource_id, ports)
    if source is None:
        raise UnknownDatabase(f"{database.identifier} is gone")
    # The journal has the name before anything of it exists: a rollback removes the control database by it, too.
    rotation = rotation.having(target_identifier=names.target_identifier(plan.base_name, rotation.rotation_id))
    ports.ledger.record(rotation)
    seen = rotation.sync
    looks, marked_at = (seen.steady_observations, seen.marked_at) if seen else (0, None)
    sync = begun(rotation, now)
    superusers = set(sync.superuser_databases)
    waiting_for = [*backup_window(source, now), *connectivity(rotation, now)]
    if source.status == "available":
        engine = ports.engine(database, plan)
        parts = databases.parts_of(source, ports) if plan.fence == "network" else ()
        claim_source(rotation, engine, ports)
        if parts:
            marked_at = now if unmarked(parts) or marked_at is None else marked_at
            waiting_for += _not_to_be_restarted(parts, marked_at, now)
        superusers |= {*engine.databases_with_superuser_sessions()}
        looks = min(looks + 1, OBSERVATIONS)
    else:
        waiting_for.append(f"{database.identifier} to be available (it is {source.status})")
    if looks < OBSERVATIONS:
        waiting_for.append(f"superusers' sessions to be looked for ({looks} of {OBSERVATIONS} times)")
    sync = sync.having(steady_observations=looks, superuser_databases=tuple(sorted(superusers)), marked_at=marked_at)
    sync = concluded(database.identifier, sync, waiting_for)
    logger.info("source observed", waiting_for=waiting_for)
    return rotation.having(sync=sync)


def _not_to_be_restarted(parts: Sequence[Instance], marked_at: datetime, now: datetime) -> list[str]:
    """Behind a network fence each instance has to be, and only what has a mark may be; a refusal would come under it.

    ``parts``: as they were before they were marked.
    """
    marked = [f"RDS to show the mark of {one}" for one in unmarked(parts)]
    if not marked and marks.seconds_to_settle(marked_at, now):
        marked = ["the marks to count for permissions"]
    return [*unavailable(parts[1:]), *marked]


handler = step(wait_for_source)
