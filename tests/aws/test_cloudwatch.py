"""Whoever watches the source by its name sees nothing of the target; a dry run says who that is."""

import json
from itertools import chain, repeat
from typing import Any

import pytest

from lambdas.rotation.aws import cloudwatch
from lambdas.rotation.aws.client import client, client_in_a_hurry
from lambdas.rotation.aws.cloudwatch import CloudWatch
from lambdas.rotation.ports import Watchers


def dimensions(identifier: str, name: str = "DBInstanceIdentifier") -> list[dict[str, str]]:
    return [{"Name": name, "Value": identifier}]


def alarm(name: str, **what: Any) -> None:
    client("cloudwatch").put_metric_alarm(
        AlarmName=name, EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanThreshold", **what
    )


def simple(name: str, *of: str) -> None:
    what = {"Namespace": "AWS/RDS", "MetricName": "CPUUtilization", "Period": 60, "Statistic": "Average"}
    alarm(name, Dimensions=dimensions(*of), **what)


def dashboard(name: str, identifier: str, dimension: str = "DBInstanceIdentifier") -> None:
    metrics = [["AWS/RDS", "CPUUtilization", dimension, identifier]]
    body = {"widgets": [{"type": "metric", "properties": {"metrics": metrics}}]}
    client("cloudwatch").put_dashboard(DashboardName=name, DashboardBody=json.dumps(body))


def test_finds_alarms_on_the_instance_and_dashboards_that_show_it() -> None:
    simple("cpu", "orders")
    simple("cpu-of-another", "orders-2")
    metric = {"Namespace": "AWS/RDS", "MetricName": "ReadIOPS", "Dimensions": dimensions("orders")}
    query = {"Id": "reads", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}}
    alarm("iops", Metrics=[query])
    dashboard("shop", "orders")
    dashboard("shop-2", "orders-2")

    seen = CloudWatch().watchers_of("orders")

    assert Watchers(alarms=("cpu", "iops"), dashboards=("shop",)) == seen


def test_a_cluster_has_a_dimension_of_its_own() -> None:
    simple("cpu", "orders", "DBClusterIdentifier")
    simple("cpu-of-another-kind", "orders", "FunctionName")
    dashboard("shop", "orders", "DBClusterIdentifier")
    dashboard("shop-2", "orders", "FunctionName")

    seen = CloudWatch().watchers_of("orders")

    assert Watchers(alarms=("cpu",), dashboards=("shop",)) == seen


def test_an_account_without_any() -> None:
    assert Watchers() == CloudWatch().watchers_of("orders")


def test_says_what_it_did_not_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has 25 seconds; a large account has thousands of them."""
    monkeypatch.setattr(cloudwatch, "_MOST_ALARMS", 1)
    monkeypatch.setattr(cloudwatch, "_MOST_DASHBOARDS", 1)
    for number in range(3):
        simple(f"cpu-{number}", "orders")
        dashboard(f"shop-{number}", "orders")

    seen = CloudWatch().watchers_of("orders")

    assert (("cpu-0",), ("shop-0",), 3) == (seen.alarms, seen.dashboards, seen.unseen)


@pytest.mark.parametrize(
    ("calls_in_time", "alarms", "dashboards", "unseen"),
    [(0, ("cpu",), (), 1), (1, ("cpu",), (), 2), (2, ("cpu",), (), 2), (3, ("cpu",), ("shop-0",), 1)],
)
def test_stops_after_a_few_seconds(
    monkeypatch: pytest.MonkeyPatch, calls_in_time: int, alarms: tuple[str], dashboards: tuple[str], unseen: int
) -> None:
    """A function has 25 seconds for all that it does, and this is worth a few of them."""
    simple("cpu", "orders")
    for number in range(2):
        dashboard(f"shop-{number}", "orders")
    moments = chain(repeat(0.0, 1 + calls_in_time), repeat(6.0))
    monkeypatch.setattr(cloudwatch, "monotonic", lambda: next(moments))

    seen = CloudWatch().watchers_of("orders")

    assert Watchers(alarms=alarms, dashboards=dashboards, unseen=unseen) == seen


def test_a_question_that_is_not_answered_is_not_asked_for_long() -> None:
    """Two attempts of at most five seconds."""
    config = client_in_a_hurry("cloudwatch").meta.config

    assert (2, 3) == (config.connect_timeout, config.read_timeout)
    assert config.retries["total_max_attempts"] == 2
