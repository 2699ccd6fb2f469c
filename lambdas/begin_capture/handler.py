"""BeginCapture: from now on the source keeps what it commits, for a target that is restored meanwhile."""

from lambdas.rotation import names
from lambdas.rotation.claim import claim_source
from lambdas.rotation.limitations import refuse_if_limited
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Capture, Rotation
from lambdas.rotation.step import logger, step


def begin_capture(rotation: Rotation, ports: Ports) -> Rotation:
    """Let the source keep what it commits (slots, or its binary log). Before the snapshot; fences nothing. Repeatable.

    Raises:
        PreflightRefused: terminal; something came up since Preflight. Of a table without a replica identity a
            publication would make the applications' own updates fail.
        NameTaken: terminal; see `claim_source`.
    """
    plan, database = rotation.planned()
    if rotation.capture is not None and rotation.capture.databases:
        return rotation
    engine = ports.catching_up(database, plan)
    refuse_if_limited(engine, plan)
    capture = rotation.capture or Capture(name=names.capture_name(rotation.rotation_id), begun_at=ports.clock.now())
    target = names.target_identifier(plan.base_name, rotation.rotation_id)
    rotation = rotation.having(capture=capture, target_identifier=target)
    # The journal has the names before anything of them exists: a rollback removes slots and control database by them.
    ports.ledger.record(rotation)
    claim_source(rotation, engine, ports)
    captured, position = engine.begin_capture(capture.name)
    logger.info("capture begun", databases=captured, position=position)
    return rotation.having(capture=capture.having(databases=captured, position=position))


handler = step(begin_capture)
