"""A proxy must be led from one database to one other, and never away from where somebody else has led it."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.proxies import RdsProxies
from lambdas.rotation.errors import AwsRefused, AwsUnavailable, ConnectivityChanged
from lambdas.rotation.ports import ProxyTarget
from lambdas.rotation.state import Database

SOURCE = Database(
    identifier="orders", arn="arn:orders", resource_id="db-1", engine="postgres", engine_version="16", address="orders",
    port=5432,
)  # fmt: skip
TARGET = SOURCE.having(identifier="orders-rot-1", resource_id="db-2")
CLUSTER = SOURCE.having(resource_id="cluster-1")

REGISTER, DEREGISTER = "register_db_proxy_targets", "deregister_db_proxy_targets"


@pytest.fixture
def rds() -> Iterator[Stubber]:
    with Stubber(client("rds")) as stub:
        yield stub


def target(of: Database, state: str = "AVAILABLE", **health: str) -> dict[str, Any]:
    if not of.is_cluster:
        found = {"Type": "RDS_INSTANCE", "RdsResourceId": of.identifier}
        return found | {"TargetHealth": {"State": state} | health}
    # Only its instances have a TrackedClusterId (RDS user guide, "Modifying an RDS Proxy"; Terraform's documentation).
    return {"Type": "TRACKED_CLUSTER", "RdsResourceId": of.identifier, "Port": 0}


def finds(rds: Stubber, *targets: dict[str, Any]) -> None:
    rds.add_response("describe_db_proxy_targets", {"Targets": list(targets)}, {"DBProxyName": "pool"})


def asked(rds: Stubber, operation: str, database: Database) -> None:
    kind = "DBClusterIdentifiers" if database.is_cluster else "DBInstanceIdentifiers"
    rds.add_response(operation, {}, {"DBProxyName": "pool", kind: [database.identifier]})


def refused(rds: Stubber, operation: str, code: str) -> None:
    rds.add_client_error(operation, code, f"{code}: no")


def lead(to: Database = TARGET, instead_of: Database = SOURCE) -> None:
    RdsProxies().lead("pool", to, instead_of=instead_of)


def test_leads_from_one_to_the_other(rds: Stubber) -> None:
    finds(rds, target(SOURCE))
    asked(rds, DEREGISTER, SOURCE)
    asked(rds, REGISTER, TARGET)

    lead()


def test_leads_a_cluster_by_its_own_words(rds: Stubber) -> None:
    later = CLUSTER.having(identifier="orders-rot-1")
    finds(rds, target(CLUSTER))
    asked(rds, DEREGISTER, CLUSTER)
    asked(rds, REGISTER, later)

    lead(later, instead_of=CLUSTER)


def test_goes_on_halfway(rds: Stubber) -> None:
    finds(rds)
    asked(rds, REGISTER, TARGET)

    lead()


def test_a_repetition_asks_for_nothing(rds: Stubber) -> None:
    finds(rds, target(TARGET, "UNAVAILABLE"))

    lead()


@pytest.mark.parametrize("other", [SOURCE.having(identifier="elsewhere"), CLUSTER], ids=["third", "cluster"])
def test_leaves_alone_what_leads_to_a_third_database(rds: Stubber, other: Database) -> None:
    finds(rds, target(other))

    with pytest.raises(ConnectivityChanged, match="leads to"):
        lead()


def test_a_lost_answer_to_the_deregistration_is_no_refusal(rds: Stubber) -> None:
    finds(rds, target(SOURCE))
    refused(rds, DEREGISTER, "DBProxyTargetNotFoundFault")
    asked(rds, REGISTER, TARGET)

    lead()


def test_a_lost_answer_to_the_registration_is_no_refusal(rds: Stubber) -> None:
    finds(rds)
    refused(rds, REGISTER, "DBProxyTargetAlreadyRegisteredFault")
    finds(rds, target(TARGET))

    lead()


def test_somebody_who_was_quicker_is_left_alone(rds: Stubber) -> None:
    finds(rds)
    refused(rds, REGISTER, "DBProxyTargetAlreadyRegisteredFault")
    finds(rds, target(SOURCE.having(identifier="elsewhere")))

    with pytest.raises(ConnectivityChanged, match="leads to elsewhere by now"):
        lead()


@pytest.mark.parametrize("shown", [[], [target(SOURCE)]], ids=["nothing", "former"])
def test_nobody_is_blamed_while_rds_gives_the_former_target_up(rds: Stubber, shown: list[dict[str, Any]]) -> None:
    finds(rds, target(SOURCE))
    asked(rds, DEREGISTER, SOURCE)
    refused(rds, REGISTER, "DBProxyTargetAlreadyRegisteredFault")
    finds(rds, *shown)

    with pytest.raises(AwsUnavailable, match="has not given up its former target"):
        lead()


@pytest.mark.parametrize("operation", ["describe_db_proxy_targets", DEREGISTER, REGISTER])
@pytest.mark.parametrize("code", ["InvalidDBProxyStateFault", "InsufficientAvailableIPsInSubnetFault"])
def test_comes_again_while_rds_is_at_work(rds: Stubber, operation: str, code: str) -> None:
    if operation != "describe_db_proxy_targets":
        finds(rds, *([target(SOURCE)] if operation == DEREGISTER else []))
    refused(rds, operation, code)

    with pytest.raises(AwsUnavailable):
        lead()


@pytest.mark.parametrize("operation", [REGISTER, DEREGISTER])
def test_any_other_refusal_ends_it(rds: Stubber, operation: str) -> None:
    finds(rds, *([target(SOURCE)] if operation == DEREGISTER else []))
    refused(rds, operation, "InvalidDBInstanceState")

    with pytest.raises(AwsRefused, match="InvalidDBInstanceState"):
        lead()


def test_several_databases_are_not_chosen_from(rds: Stubber) -> None:
    finds(rds, target(SOURCE), target(TARGET))

    with pytest.raises(ConnectivityChanged, match=r"orders, orders-rot-1"):
        lead()


# -- what it leads to --


def member(name: str, state: str) -> dict[str, Any]:
    return target(SOURCE.having(identifier=name), state) | {"TrackedClusterId": "orders"}


@pytest.mark.parametrize(
    ("found", "seen"),
    [
        ([], None),
        ([target(SOURCE)], ProxyTarget("orders", None)),
        ([target(SOURCE, "REGISTERING")], ProxyTarget("orders", "REGISTERING")),
        (
            [target(SOURCE, "UNAVAILABLE", Reason="AUTH_FAILURE", Description="wrong password")],
            ProxyTarget("orders", "UNAVAILABLE AUTH_FAILURE wrong password"),
        ),
        ([target(CLUSTER)], ProxyTarget("cluster/orders", "it has found no instance yet")),
        (
            [target(CLUSTER), member("one", "UNAVAILABLE"), member("two", "AVAILABLE")],
            ProxyTarget("cluster/orders", None),
        ),
        ([target(CLUSTER), member("one", "REGISTERING")], ProxyTarget("cluster/orders", "REGISTERING")),
    ],
)
def test_says_where_it_leads_and_why_nobody_comes_through(
    rds: Stubber, found: list[dict[str, Any]], seen: ProxyTarget | None
) -> None:
    finds(rds, *found)

    assert RdsProxies().target_of("pool") == seen


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ([target(SOURCE)], []),
        ([], ["ProxyLeadsElsewhere"]),
        ([target(TARGET)], ["ProxyLeadsElsewhere"]),
        ([target(SOURCE, "UNAVAILABLE")], ["ProxyUnavailable"]),
    ],
)
def test_limitations_by_what_is_found(rds: Stubber, found: list[dict[str, Any]], names: list[str]) -> None:
    finds(rds, *found)

    assert names == [one.name for one in RdsProxies().limitations("pool", SOURCE)]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("AccessDenied", "ProxyNotAllowed"),
        ("DBProxyNotFoundFault", "ProxyLeadsElsewhere"),
        ("InvalidParameterValue", "ProxyUnknown"),
    ],
)
def test_limitations_by_what_cannot_be_asked(rds: Stubber, code: str, name: str) -> None:
    refused(rds, "describe_db_proxy_targets", code)

    assert [name] == [one.name for one in RdsProxies().limitations("pool", SOURCE)]
