"""CloudWatch: what watches a database by its identifier, and will not see the target.

Called only by a function outside the VPC: this one question is not worth an endpoint.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lambdas.rotation.aws.client import calls, client, pages
from lambdas.rotation.ports import Watchers

DIMENSIONS = ("DBInstanceIdentifier", "DBClusterIdentifier")
_MOST_ALARMS = 3000
_MOST_DASHBOARDS = 50
"""Thirty and fifty calls: CloudWatch has no filter for either, and a function has 25 seconds for all that it does."""


class CloudWatch:
    """`ports.Monitoring`."""

    def watchers_of(self, identifier: str) -> Watchers:
        """Metric alarms on the database, and dashboards that show it; the first few thousand and the first fifty.

        An instance and a cluster of one name are not told apart here.
        """
        alarms = pages(
            "cloudwatch",
            "describe_alarms",
            "MetricAlarms",
            AlarmTypes=["MetricAlarm"],
            PaginationConfig={"MaxItems": _MOST_ALARMS, "PageSize": 100},
        )
        dashboards = [one["DashboardName"] for one in pages("cloudwatch", "list_dashboards", "DashboardEntries")]
        return Watchers(
            alarms=tuple(one["AlarmName"] for one in alarms if identifier in _databases(one)),
            dashboards=tuple(name for name in dashboards[:_MOST_DASHBOARDS] if _shows(name, identifier)),
            unseen=max(0, len(dashboards) - _MOST_DASHBOARDS) + (1 if len(alarms) == _MOST_ALARMS else 0),
        )


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
        body = client("cloudwatch").get_dashboard(DashboardName=dashboard)["DashboardBody"]
    return any(f'"{name}"' in body for name in DIMENSIONS) and f'"{identifier}"' in body
