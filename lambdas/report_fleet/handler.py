"""ReportFleet: each database with its outcome. A quarter in which something was not rotated is a failure, visibly."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.rotation.errors import FleetIncomplete
from lambdas.rotation.notification import SCHEMA
from lambdas.rotation.ports import Ports
from lambdas.rotation.step import aws_ports, logger, metrics, tracer

Event = dict[str, Any]

STARTED_ALREADY = "StepFunctions.ExecutionAlreadyExistsException"
"""By an earlier delivery of the same schedule, which waits for its outcome: EventBridge delivers at least once."""


def report_fleet(event: Event, ports: Ports) -> Event:
    """Publish the summary.

    Raises:
        FleetIncomplete: terminal; at least one rotation failed, or no database takes part at all: then the tags, or
            the Region, are not what somebody believes.
    """
    outcomes = [_outcome(one) for one in event.get("outcomes") or ()]
    skipped = list(event.get("skipped") or ())
    elsewhere = [one["database"] for one in outcomes if one["error"] == STARTED_ALREADY]
    failed = [one for one in outcomes if one["error"] not in (None, STARTED_ALREADY)]
    rotated = [one["database"] for one in outcomes if one["error"] is None]
    nobody = not outcomes and not skipped
    summary = {
        "schema": SCHEMA,
        "moment": "FleetIncomplete" if failed or nobody else "FleetRotated",
        "scheduled_at": event.get("scheduled_at"),
        "rotated": rotated,
        "started_already": elsewhere,
        "failed": failed,
        "skipped": skipped,
    }
    subject = f"Key rotation of the fleet: {len(rotated)} rotated, {len(failed)} failed"
    ports.notifier.publish(str(summary["moment"]), subject, summary)
    logger.info("fleet reported", rotated=len(rotated), failed=len(failed), skipped=len(skipped))
    if nobody:
        raise FleetIncomplete("no database is tagged key-rotation:enabled=true")
    if failed:
        raise FleetIncomplete("; ".join(f"{one['database']}: {one['error']}: {one['cause']}" for one in failed))
    return summary


def _outcome(one: Event) -> dict[str, Any]:
    failure = one.get("failure") or {}
    return {
        "database": one["database"]["identifier"],
        "error": failure.get("Error"),
        "cause": str(failure.get("Cause", ""))[:1000] if failure else None,
    }


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: Event, context: LambdaContext) -> Event:
    return report_fleet(event, aws_ports())
