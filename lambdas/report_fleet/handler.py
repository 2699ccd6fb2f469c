"""ReportFleet: each database with its outcome. A quarter in which something was not rotated is a failure, visibly."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.rotation.errors import FleetIncomplete
from lambdas.rotation.notification import SCHEMA
from lambdas.rotation.ports import Ports
from lambdas.rotation.step import aws_ports, logger, metrics, tracer

Event = dict[str, Any]

TOLD_AT_MOST = 100
"""In the error's message; the notification has all of them."""

STARTED_ALREADY = "StepFunctions.ExecutionAlreadyExistsException"
"""By an earlier delivery of the same schedule, which waits for its outcome: EventBridge delivers at least once."""


def report_fleet(event: Event, ports: Ports) -> Event:
    """Publish the summary.

    Raises:
        FleetIncomplete: terminal; at least one rotation failed, or databases were left out, or no database takes part
            at all: then the tags, or the Region, are not what somebody believes.
    """
    outcomes = [_outcome(one) for one in event.get("databases") or ()]
    skipped = list(event.get("skipped") or ())
    left_out = {"databases": 0, "skipped": 0} | (event.get("left_out") or {})
    elsewhere = [one["database"] for one in outcomes if one["error"] == STARTED_ALREADY]
    failed = [one for one in outcomes if one["error"] not in (None, STARTED_ALREADY)]
    rotated = [one["database"] for one in outcomes if one["error"] is None]
    nobody = not outcomes and not skipped
    summary = {
        "schema": SCHEMA,
        "moment": "FleetIncomplete" if failed or nobody or left_out["databases"] else "FleetRotated",
        "scheduled_at": event.get("scheduled_at"),
        "rotated": rotated,
        "started_already": elsewhere,
        "failed": failed,
        "skipped": skipped,
        "left_out": left_out,
    }
    subject = f"Key rotation of the fleet: {len(rotated)} rotated, {len(failed)} failed"
    ports.notifier.publish(str(summary["moment"]), subject, summary)
    logger.info("fleet reported", rotated=len(rotated), failed=len(failed), skipped=len(skipped))
    if nobody:
        raise FleetIncomplete("no database is tagged key-rotation:enabled=true")
    incomplete = [f"{one['database']}: {one['error']}: {one['cause']}" for one in failed[:TOLD_AT_MOST]]
    if failed[TOLD_AT_MOST:]:
        incomplete.append(f"{len(failed) - TOLD_AT_MOST} more have failed")
    if left_out["databases"]:
        incomplete.append(f"{left_out['databases']} more take part: start the fleet again when this one is over")
    if incomplete:
        raise FleetIncomplete("; ".join(incomplete))
    return summary


def _outcome(one: Event) -> dict[str, Any]:
    failure = one.get("failure") or {}
    return {
        "database": one["database"],
        "error": failure.get("Error"),
        "cause": failure.get("Cause", "") if failure else None,
    }


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: Event, context: LambdaContext) -> Event:
    return report_fleet(event, aws_ports())
