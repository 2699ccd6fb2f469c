"""Who called what, and what was denied: CloudTrail's events of the product's roles."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sandbox.demo.account import Account


@dataclass(frozen=True)
class Calls:
    by_operation: dict[str, int]
    """``service.operation`` -> how often, by roles."""
    decisions: int
    """Permissions that were asked for in these calls; one call may need several."""
    denied: tuple[str, ...]


def calls(account: Account, *, skip: frozenset[str] = frozenset()) -> tuple[Calls, frozenset[str]]:
    """The calls of all roles, without the events in ``skip``; and the ids of all events that there are."""
    trail = account.client("cloudtrail")
    by_operation: Counter[str] = Counter()
    decisions, denied, seen = 0, [], set()
    for page in trail.get_paginator("lookup_events").paginate():
        for event in page["Events"]:
            seen.add(event["EventId"])
            detail: dict[str, Any] = json.loads(event["CloudTrailEvent"])
            if event["EventId"] in skip or detail["userIdentity"]["type"] != "AssumedRole":
                continue
            service = event["EventSource"].removesuffix(".amazonaws.com")
            by_operation[f"{service}.{event['EventName']}"] += 1
            decisions += len(detail.get("additionalEventData", {}).get("authorizations", ())) or 1
            if "AccessDenied" in detail.get("errorCode", ""):
                denied.append(f"{detail['userIdentity']['arn']}: {detail.get('errorMessage', event['EventName'])}")
    return Calls(dict(sorted(by_operation.items())), decisions, tuple(denied)), frozenset(seen)
