"""A plan must mean what its owner wrote: what nobody understands is refused, never ignored."""

import re
from typing import Any

import pytest

from lambdas.rotation.errors import InputRefused
from lambdas.rotation.policy import min_age_days, plan_of, recovered_execution, requested_database
from lambdas.rotation.state import DnsRecordName

TAGS = {
    "key-rotation:enabled": "true",
    "key-rotation:login-secret": "rds-key-rotation/orders",
    "key-rotation:connectivity": "dns secret",
    "key-rotation:dns-record": "Z123/DB.example.com.",
    "key-rotation:endpoint-secret": "orders-app",
    "key-rotation:grace-days": "3",
    "team": "payments",
}
DEFAULTS = {"strategy": "read-replica", "grace_days": 7, "retire_key": "auto", "min_age_days": 30, "vpc_ids": []}
REQUEST: dict[str, Any] = {"DBInstanceIdentifier": "orders"}


def test_a_cluster_has_nothing_to_copy_ahead() -> None:
    tags = {"key-rotation:pre-copy": "true", "key-rotation:strategy": "snapshot"}

    assert plan_of("orders", REQUEST, tags, DEFAULTS).pre_copy
    with pytest.raises(InputRefused, match="a cluster is restored without a copy"):
        plan_of("cluster/orders", {"DBClusterIdentifier": "orders"}, tags, DEFAULTS)


def test_input_wins_over_tags_and_tags_over_defaults() -> None:
    plan = plan_of("orders", REQUEST | {"RetireKey": True}, TAGS, DEFAULTS)

    assert ("true", 3.0, "read-replica") == (plan.retire_key, plan.grace_days, plan.strategy)
    assert DnsRecordName(zone_id="Z123", name="db.example.com") == plan.dns_record
    assert ("dns", "secret") == plan.connectivity


@pytest.mark.parametrize(
    ("request_more", "tags_more", "named"),
    [
        ({"GraceDay": 3}, {}, "GraceDay"),
        ({}, {"key-rotation:grace-day": "3"}, "key-rotation:grace-day"),
        ({"GraceDays": "soon"}, {}, "GraceDays"),
        ({}, {"key-rotation:grace-days": "a week"}, "key-rotation:grace-days"),
        ({"GraceDays": -1}, {}, "grace_days"),
        ({"Accept": ["logical-slot"]}, {}, "Accept: knows no logical-slot"),
        ({"DryRun": "yes"}, {}, "DryRun: must be true or false"),
        ({"WriteOutageBudgetSeconds": 1.5}, {}, "whole number"),
        ({}, {"key-rotation:dns-record": "db.example.com"}, "key-rotation:dns-record: must be"),
        ({"WriteOutageBudgetSeconds": 601}, {}, "strategy read-replica takes 5 to 600 seconds, not 601"),
        (
            {"Strategy": "catch-up"},
            {"key-rotation:write-outage-budget": "601"},
            "strategy catch-up takes 5 to 600 seconds, not 601",
        ),
        ({"WriteOutageBudgetSeconds": 4, "Strategy": "catch-up"}, {}, "strategy catch-up takes 5 to 600 seconds"),
        (
            {"Strategy": "snapshot"},
            {"key-rotation:write-outage-budget": "600"},
            "strategy snapshot takes 601 to 86400 seconds, not 600",
        ),
        ({"PreCopy": True}, {}, "PreCopy: strategy read-replica copies nothing"),
        ({"PreCopy": "maybe", "Strategy": "snapshot"}, {}, "PreCopy: must be true or false"),
        ({}, {"key-rotation:connectivity": "rename"}, "rename is not supported yet"),
        ({}, {"key-rotation:approval": "required"}, "key-rotation:approval: is not supported yet"),
        ({}, {"key-rotation:window": "sun:02:00-sun:04:00"}, "key-rotation:window"),
        ({}, {"key-rotation:min-age-days": "old"}, "key-rotation:min-age-days"),
        ({}, {"key-rotation:min-age-days": "-1"}, "key-rotation:min-age-days: must be a number of days"),
        ({}, {"key-rotation:min-age-days": "99999999"}, "key-rotation:min-age-days: must be a number of days"),
    ],
)
def test_refuses_by_name_what_it_does_not_understand(
    request_more: dict[str, Any], tags_more: dict[str, str], named: str
) -> None:
    """Ignored, a misspelt grace period would delete a database too early, and an approval would never be asked for."""
    with pytest.raises(InputRefused, match=re.escape(named)):
        plan_of("orders", REQUEST | request_more, TAGS | tags_more, DEFAULTS)


def test_all_problems_are_listed_together() -> None:
    with pytest.raises(InputRefused, match=r"key-rotation:grace-days: .*; DryRun: "):
        plan_of("orders", REQUEST | {"DryRun": 1}, TAGS | {"key-rotation:grace-days": "x"}, DEFAULTS)


def test_a_tag_that_the_input_overrides_is_not_judged() -> None:
    """A person may start by hand what a broken tag stops."""
    plan = plan_of("orders", REQUEST | {"GraceDays": 0}, TAGS | {"key-rotation:grace-days": "x"}, DEFAULTS)

    assert plan.grace_days == 0


def test_a_risk_is_accepted_by_name() -> None:
    plan = plan_of("orders", REQUEST | {"Accept": ["materialized-views"]}, {}, {})

    assert plan.accept == ("materialized-views",)


def test_auto_is_for_preflight_to_choose() -> None:
    assert plan_of("orders", REQUEST | {"Strategy": "auto"}, {}, {}).strategy == "auto"


@pytest.mark.parametrize("seconds", [None, 5, 600])
def test_a_catch_up_has_the_budget_of_a_promotion(seconds: int | None) -> None:
    """The target is restored before anybody is kept from writing."""
    given = {} if seconds is None else {"WriteOutageBudgetSeconds": seconds}
    tags = {"key-rotation:strategy": "catch-up"}

    plan = plan_of("orders", REQUEST | given, tags, {"write_outage_budget_seconds": 120})

    assert (plan.strategy, plan.write_outage_budget_seconds) == ("catch-up", seconds or 120)


@pytest.mark.parametrize(("given", "seconds"), [({}, 14_400), ({"WriteOutageBudgetSeconds": 86_400}, 86_400)])
def test_a_snapshot_has_a_budget_of_its_own(given: dict[str, Any], seconds: int) -> None:
    """The stack's default is made for a promotion; by it applications would be stopped two minutes for nothing."""
    plan = plan_of("orders", REQUEST | {"Strategy": "snapshot"} | given, {}, {"write_outage_budget_seconds": 120})

    assert plan.write_outage_budget_seconds == seconds


def test_the_fleets_plumbing_is_known_input() -> None:
    request = REQUEST | {"TaskToken": "t", "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID": "arn"}

    assert requested_database(request) == "orders"


@pytest.mark.parametrize("request_", [{}, {"DBInstanceIdentifier": ""}, {"DBInstanceIdentifier": 3}])
def test_a_start_without_a_database_says_what_to_write(request_: dict[str, Any]) -> None:
    with pytest.raises(InputRefused, match="DBInstanceIdentifier"):
        requested_database(request_)


def test_a_recovery_takes_no_other_input() -> None:
    """Its plan is the one in the journal; input that were ignored here would look as if it counted."""
    assert recovered_execution({"Recover": "arn:x"}) == "arn:x"
    assert recovered_execution(REQUEST) is None
    with pytest.raises(InputRefused, match="GraceDays"):
        recovered_execution({"Recover": "arn:x", "GraceDays": 1})


def test_the_tag_decides_how_old_a_key_has_to_be() -> None:
    assert (30, 90) == (min_age_days({}, DEFAULTS), min_age_days({"key-rotation:min-age-days": "90"}, DEFAULTS))
