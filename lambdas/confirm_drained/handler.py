"""ConfirmDrained: has the target replayed everything up to the fence?"""

from lambdas.rotation import arrival, reach
from lambdas.rotation.errors import DrainIncomplete
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Drain, Rotation
from lambdas.rotation.step import logger, step

POLL_SECONDS = 10.0
PAUSE_SECONDS = 0.05


def confirm_drained(rotation: Rotation, ports: Ports) -> Rotation:
    """Look for up to 10 s (the write outage is on). Only the position together with the marker row counts, never lag.

    Raises:
        DrainIncomplete: terminal; not within the write outage budget. Rollback re-opens the source, nothing is lost.
    """
    plan, _ = rotation.planned()
    _, target, _, position = rotation.fenced()
    engine = ports.engine(target, plan)
    arrived = arrival.of(rotation, engine, ports)
    began = ports.clock.monotonic()
    while True:
        complete = arrived.is_complete() and engine.shows_marker(rotation.rotation_id)
        now = ports.clock.now()
        if complete or ports.clock.monotonic() - began >= POLL_SECONDS:
            break
        if now >= rotation.outage_ends_by:
            raise DrainIncomplete(
                f"{target.identifier} has replayed {arrived.position()}, not {position}, "
                f"within {plan.write_outage_budget_seconds} s"
            )
        ports.clock.pause(PAUSE_SECONDS)
    replayed = arrived.position()
    logger.info("drain observed", complete=complete, replayed=replayed, fence_position=position)
    return rotation.having(drain=Drain(complete=complete, replayed=replayed, observed_at=now))


handler = step(confirm_drained, reaches=(reach.source_server, reach.target_server))
