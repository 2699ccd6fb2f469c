"""CloudWatch: what watches a database by its identifier, and will not see the target.

Called only by a function outside the VPC: this one question is not worth an endpoint.
"""

from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any

from lambdas.rotation.aws.client import calls, client_in_a_hurry
from lambdas.rotation.ports import Watchers

DIMENSIONS = ("DBInstanceIdentifier", "DBClusterIdentifier")
_MOST_ALARMS = 3000
_MOST_DASHBOARDS = 50
"""Thirty and fifty calls: CloudWatch has no filter for either, and a function has 25 seconds for all that it does."""
_PATIENCE_SECONDS = 5
"""No further call is begun after that."""


class CloudWatch:
    """`ports.Monitoring`."""

    def watchers_of(self, identifier: str) -> Watchers:
        """Metric alarms on the database, and dashboards that show it; the first few thousand and the first fifty.

        As many of them as are looked at within a few seconds. An instance and a cluster of one name are not told apart
        here.
        """
        stop_at = monotonic() + _PATIENCE_SECONDS
        alarms: list[str] = []
        shown: list[str] = []
        names: list[str] = []
        seen = 0
        limit = {"MaxItems": _MOST_ALARMS, "PageSize": 100}
        with calls("cloudwatch"):
            aws = client_in_a_hurry("cloudwatch")
            for page in aws.get_paginator("describe_alarms").paginate(
                AlarmTypes=["MetricAlarm"], PaginationConfig=limit
            ):
                seen += len(page["MetricAlarms"])
                alarms += [one["AlarmName"] for one in page["MetricAlarms"] if identifier in _databases(one)]
                if monotonic() > stop_at:
                    return Watchers(alarms=tuple(alarms), unseen=1)
            for page in aws.get_paginator("list_dashboards").paginate():
                names += [one["DashboardName"] for one in page["DashboardEntries"]]
                if monotonic() > stop_at:
                    break
        unseen = len(names) + (seen == _MOST_ALARMS)
        for name in names[:_MOST_DASHBOARDS]:
            if monotonic() > stop_at:
                break
            unseen -= 1
            shown += [name] if _shows(name, identifier) else []
        return Watchers(alarms=tuple(alarms), dashboards=tuple(shown), unseen=unseen)


def _databases(alarm: Mapping[str, Any]) -> Iterator[str]:
    """Every database that an alarm looks at, also within an expression."""
    metrics = [alarm, *((query.get("MetricStat") or {}).get("Metric") or {} for query in alarm.get("Metrics") or ())]
    for metric in metrics:
        for dimension in metric.get("Dimensions") or ():
            if dimension["Name"] in DIMENSIONS:
                yield dimension["Value"]


def _shows(dashboard: str, identifier: str) -> bool:
    """By its text: what a widget may look like is CloudWatch's own, and grows."""
    with calls("cloudwatch:GetDashboard"):
        body = client_in_a_hurry("cloudwatch").get_dashboard(DashboardName=dashboard)["DashboardBody"]
    return any(f'"{name}"' in body for name in DIMENSIONS) and f'"{identifier}"' in body
