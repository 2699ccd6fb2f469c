"""ListOptedInDatabases: what the fleet rotates this time, and what it leaves alone, with the reason."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.rotation.databases import own_name
from lambdas.rotation.errors import AccessRefused, AwsRefused, InputRefused
from lambdas.rotation.names import BASE_NAME_TAG, DECOMMISSION_TAG, execution_name
from lambdas.rotation.policy import min_age_days
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.step import aws_ports, logger, metrics, tracer

Event = dict[str, Any]

LISTED_AT_MOST = 1000
"""Databases and what is skipped together: all of it travels through the fleet's state (256 KB). A test measures."""


def list_opted_in_databases(event: Event, ports: Ports) -> Event:
    """Every database tagged ``key-rotation:enabled=true``, as one execution each; the names follow from the schedule.

    Of more than fit some are left out, and only counted: the next fleet rotates them, for which these are too young.
    Reads only. What is wrong with a database is not judged here: its own rotation refuses, and the report says why.
    """
    scheduled_at = str(event.get("scheduled_at") or ports.clock.now().isoformat())
    databases, skipped = [], []
    created_at = cache(ports.kms.created_at)  # a key may be that of many
    for instance in (*ports.rds.describe_opted_in(), *ports.clusters.describe_opted_in()):
        identifier = instance.database.identifier
        reason = _reason_to_skip(instance, created_at, ports)
        if reason is None:
            named = {"identifier": identifier, "is_cluster": instance.database.is_cluster}
            databases.append({**named, "execution_name": execution_name(_unique_name(instance, ports), scheduled_at)})
        else:
            skipped.append({"identifier": identifier, "reason": reason})
    logger.info("fleet listed", databases=len(databases), skipped=len(skipped))
    listed = databases[:LISTED_AT_MOST]
    passed_over = skipped[: LISTED_AT_MOST - len(listed)]
    left_out = {"databases": len(databases) - len(listed), "skipped": len(skipped) - len(passed_over)}
    return {"scheduled_at": scheduled_at, "databases": listed, "skipped": passed_over, "left_out": left_out}


def _unique_name(instance: Instance, ports: Ports) -> str:
    """Its base name. The tag counts only where the ledger agrees: it may have come with the tags of a snapshot."""
    own, resource_id = own_name(instance.database), instance.database.resource_id
    tagged = instance.tags.get(BASE_NAME_TAG)
    if tagged and ports.ledger.successor(tagged) == resource_id:
        return tagged
    # Of a database that has the former name of another one; both have to get an execution.
    return own if ports.ledger.successor(own) in (None, resource_id) else f"{own}_{resource_id}"


def _reason_to_skip(instance: Instance, created_at: Callable[[str], datetime], ports: Ports) -> str | None:
    if instance.replica_of is not None:
        return f"it is a replica of {instance.replica_of}"
    if DECOMMISSION_TAG in instance.tags:
        return "a rotation has left it behind"
    if instance.database.kms_key_arn is None:
        return None
    try:
        least = timedelta(days=min_age_days(instance.tags, ports.settings.defaults))
        age = ports.clock.now() - created_at(instance.database.kms_key_arn)
    except (InputRefused, AccessRefused, AwsRefused):
        return None
    return f"its key is {age.days} days old, younger than {least.days}" if age < least else None


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: Event, context: LambdaContext) -> Event:
    return list_opted_in_databases(event, aws_ports())
