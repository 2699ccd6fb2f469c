"""RecoverRotations: every hour, start a recovery for each unfinished rotation that nobody carries on.

The last of three triggers; the other two are events that can get lost.
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.rotation.errors import RecoveryIncomplete, RotationError
from lambdas.rotation.names import rotation_id_of
from lambdas.rotation.outage import hangs
from lambdas.rotation.ports import Entry, Ports
from lambdas.rotation.step import aws_ports, logger, metrics, tracer

LOOKS_FOR_SECONDS = 45
"""Less than the function's timeout: what it does not get to by then is reported, not cut off. A test compares."""


def recover_rotations(ports: Ports) -> dict[str, Any]:
    """Start what is missing and report it. A recovery that failed is not tried again by itself: it has paged.

    Idempotent within the hour, by the recovery's name. One that dies before it has taken the rotation over leaves
    everything as it was, and Step Functions gives its name to no other for 90 days; so the next hour has another one.

    Raises:
        RecoveryIncomplete: terminal; what could not be read or started, or looked at in time, when all others have
            been. An alarm rings.
    """
    started: list[str] = []
    give_up_at = ports.clock.monotonic() + LOOKS_FOR_SECONDS
    hour = ports.clock.now().strftime("%Y%m%d%H")
    entries, failed = ports.ledger.unfinished()
    failed = list(failed)
    due = _in_order([entry for entry in entries if not entry.rotation.recovery], hour)
    for looked_at, entry in enumerate(due):
        if ports.clock.monotonic() >= give_up_at:
            failed.append(f"{len(due) - looked_at} of {len(due)} rotations not looked at in time")
            break
        left = entry.rotation
        try:
            if ports.workflow.is_running(left.execution_arn) and not hangs(entry, ports.clock.now()):
                continue
            name = f"recover-{rotation_id_of(left.execution_arn)}-{left.epoch}-{hour}"
            ports.workflow.start_recovery(left.execution_arn, name)
        except RotationError as error:
            failed.append(f"{left.rotation_id}: {error}")
            continue
        logger.warning("recovery started", rotation_id=left.rotation_id, ended_execution=left.execution_arn)
        started.append(left.rotation_id)
    if failed:
        raise RecoveryIncomplete("; ".join(failed))
    return {"recovered": started}


def _in_order(entries: Sequence[Entry], hour: str) -> list[Entry]:
    """First those to which nobody may be able to write; of the others, every hour other ones."""

    def turn(entry: Entry) -> tuple[bool, int]:
        return not entry.rotation.may_be_closed, crc32(f"{hour} {entry.rotation.rotation_id}".encode())

    return sorted(entries, key=turn)


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return recover_rotations(aws_ports())
