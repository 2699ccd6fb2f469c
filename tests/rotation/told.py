"""Everything that a rotation leaves for people and programs to read, so that it can be searched for what is secret."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.rotation.support import Customer

Told = Mapping[str, str]
"""Place -> all that stands there."""

PLACES = ("logs", "executions", "ledger", "messages", "trail", "resources", "traces", "schedules")


def everything(customer: Customer, *, messages: Iterable[Any], schedules: Iterable[Any]) -> Told:
    """What is kept is read here; what passes (messages, schedules) has to be collected meanwhile."""
    parts: dict[str, Iterable[Any]] = {
        "logs": _logs(customer),
        "executions": _executions(customer),
        "ledger": _ledger(customer),
        "messages": messages,
        "trail": (event["CloudTrailEvent"] for event in _pages(customer, "cloudtrail", "lookup_events", "Events")),
        "resources": _resources(customer),
        "traces": [(_work_dir(customer) / "traces").read_text(errors="replace")],
        "schedules": schedules,
    }
    return {place: "\n".join(_text(part) for part in found) for place, found in parts.items()}


def places_of(told: Told, secrets: Iterable[str]) -> set[str]:
    return {place for place, text in told.items() if any(secret in text for secret in secrets)}


def schedules(customer: Customer) -> list[Any]:
    """The one-time schedules that there are at this moment."""
    scheduler = customer.client("scheduler")
    found = []
    for one in _pages(customer, "scheduler", "list_schedules", "Schedules"):
        if one["GroupName"].endswith("-recovery"):
            with suppress(scheduler.exceptions.ResourceNotFoundException):  # it has come to its end meanwhile
                found.append(scheduler.get_schedule(Name=one["Name"], GroupName=one["GroupName"]))
    return found


def _work_dir(customer: Customer) -> Path:
    return customer.sandbox.ca_bundle.parents[1]


def _logs(customer: Customer) -> Iterator[str]:
    for log in (_work_dir(customer) / "logs").iterdir():
        yield log.read_text(errors="replace")


def _executions(customer: Customer) -> Iterator[Any]:
    states = customer.client("stepfunctions")
    for machine in (customer.account.rotate_key_arn, customer.account.rotate_fleet_arn):
        for one in _pages(customer, "stepfunctions", "list_executions", "executions", stateMachineArn=machine):
            arn = one["executionArn"]
            yield states.describe_execution(executionArn=arn)
            yield from _pages(customer, "stepfunctions", "get_execution_history", "events", executionArn=arn)


def _ledger(customer: Customer) -> Iterator[Any]:
    for table in _pages(customer, "dynamodb", "list_tables", "TableNames"):
        yield from _pages(customer, "dynamodb", "scan", "Items", TableName=table)


def _resources(customer: Customer) -> Iterator[Any]:
    """With their names, descriptions and tags."""
    yield from _pages(customer, "resourcegroupstaggingapi", "get_resources", "ResourceTagMappingList")
    yield from _pages(customer, "rds", "describe_db_instances", "DBInstances")
    yield from _pages(customer, "rds", "describe_db_snapshots", "DBSnapshots")
    yield from _pages(customer, "kms", "list_aliases", "Aliases")
    kms = customer.client("kms")
    for key in _pages(customer, "kms", "list_keys", "Keys"):
        yield kms.describe_key(KeyId=key["KeyId"])


def _pages(customer: Customer, service: str, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
    for page in customer.client(service).get_paginator(operation).paginate(**arguments):
        yield from page[key]


def _text(part: Any) -> str:
    return part if isinstance(part, str) else json.dumps(part, default=str, ensure_ascii=False)
