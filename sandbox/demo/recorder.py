"""Who called what, and what was denied: CloudTrail's events of the product's roles."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from sandbox.demo.account import Account


@dataclass(frozen=True)
class Calls:
    by_operation: dict[str, int]
    """``service.operation`` -> how often, by roles."""
    decisions: int
    """Permissions that were asked for in these calls; one call may need several."""
    denied: tuple[str, ...]


def newest(account: Account) -> str | None:
    """The id of the last event that there is; the trail may be long, and whoever asks for what comes later is not."""
    events = account.client("cloudtrail").lookup_events(MaxResults=1)["Events"]
    return str(events[0]["EventId"]) if events else None


def calls(account: Account, *, after: str | None) -> Calls:
    """The calls of all roles, in events that are newer than this one."""
    by_operation: Counter[str] = Counter()
    decisions, denied = 0, []
    for event in takewhile(lambda one: one["EventId"] != after, _newest_first(account)):
        detail: dict[str, Any] = json.loads(event["CloudTrailEvent"])
        if detail["userIdentity"]["type"] != "AssumedRole":
            continue
        service = event["EventSource"].removesuffix(".amazonaws.com")
        by_operation[f"{service}.{event['EventName']}"] += 1
        decisions += len(detail.get("additionalEventData", {}).get("authorizations", ())) or 1
        if "AccessDenied" in detail.get("errorCode", ""):
            denied.append(f"{detail['userIdentity']['arn']}: {detail.get('errorMessage', event['EventName'])}")
    return Calls(dict(sorted(by_operation.items())), decisions, tuple(denied))


def _newest_first(account: Account) -> Iterator[dict[str, Any]]:
    for page in account.client("cloudtrail").get_paginator("lookup_events").paginate():
        yield from page["Events"]
