"""Multi-AZ DB clusters: RDS makes, changes and deletes their instances with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pg8000.exceptions
import pytest

from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually, running

OF_THREE = {"Engine": "postgres", "DBClusterInstanceClass": "db.m6gd.large", "AllocatedStorage": 100, "Iops": 1000}
UNDER_NAMES = ["orders-instance-1", "orders-instance-2", "orders-instance-3"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def key(sandbox: Sandbox) -> str:
    return sandbox.key()


@pytest.fixture(scope="module")
def orders(sandbox: Sandbox, key: str) -> str:
    """An encrypted cluster; tests leave it as it is."""
    sandbox.create_cluster("orders", **OF_THREE, StorageEncrypted=True, KmsKeyId=key)
    return "orders"


def members(cluster: dict[str, Any]) -> list[str]:
    return sorted(one["DBInstanceIdentifier"] for one in cluster["DBClusterMembers"])


def test_it_comes_with_its_instances(sandbox: Sandbox, orders: str, key: str) -> None:
    cluster = sandbox.cluster(orders)
    with sandbox.session_at(cluster["Endpoint"]) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")
    with sandbox.session_at(cluster["ReaderEndpoint"]) as sql:
        eventually(lambda: sql.run("SELECT count(*) FROM pg_tables WHERE tablename = 't'") == [[1]], "it follows")
        with pytest.raises(pg8000.exceptions.DatabaseError, match="25006"):
            sql.run("INSERT INTO t VALUES (2)")

    assert members(cluster) == UNDER_NAMES
    assert (cluster["DBClusterInstanceClass"], cluster["StorageType"]) == ("db.m6gd.large", "io1")
    assert (cluster["MultiAZ"], cluster["KmsKeyId"]) == (True, key)
    assert cluster["CertificateDetails"] == {"CAIdentifier": "rds-ca-rsa2048-g1"}
    for name in UNDER_NAMES:
        member = sandbox.describe(name)
        assert (member["DBInstanceStatus"], member["DBClusterIdentifier"]) == ("available", "orders")
        assert (member["KmsKeyId"], member["DBInstanceClass"], member["Iops"]) == (key, "db.m6gd.large", 1000)


def test_it_is_changed_as_a_whole(sandbox: Sandbox, orders: str) -> None:
    sandbox.rds.modify_db_cluster(DBClusterIdentifier=orders, EnablePerformanceInsights=True, ApplyImmediately=True)
    sandbox.cluster_available(orders)

    assert sandbox.cluster(orders)["PerformanceInsightsEnabled"]
    assert all(sandbox.describe(name)["PerformanceInsightsEnabled"] for name in UNDER_NAMES)
    later = {"DBClusterIdentifier": orders, "DBClusterInstanceClass": "db.m6gd.xlarge"}
    assert code_of(sandbox.rds.modify_db_cluster, **later) == "InvalidParameterValue"
    for refused in (
        code_of(sandbox.rds.modify_db_instance, DBInstanceIdentifier=UNDER_NAMES[1], DBInstanceClass="db.m7g.large"),
        code_of(sandbox.rds.delete_db_instance, DBInstanceIdentifier=UNDER_NAMES[1], SkipFinalSnapshot=True),
    ):
        assert refused == "InvalidDBClusterStateFault"
    assert "InvalidParameterCombination" == code_of(
        sandbox.rds.create_db_instance,
        DBInstanceIdentifier="fourth",
        DBClusterIdentifier=orders,
        DBInstanceClass="db.m6gd.large",
        Engine="postgres",
    )


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"DBClusterIdentifier": "o" * 53}, "InvalidParameterValue"),
        ({"DBClusterInstanceClass": None}, "MissingParameter"),
        ({"DBClusterInstanceClass": "db.t4g.medium"}, "InvalidParameterCombination"),
        ({"AllocatedStorage": None}, "MissingParameter"),
        ({"Iops": None}, "InvalidParameterCombination"),
        ({"ServerlessV2ScalingConfiguration": {"MinCapacity": 1, "MaxCapacity": 2}}, "InvalidParameterCombination"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else None,
)
def test_what_it_cannot_be_made_with(sandbox: Sandbox, wanted: dict[str, Any], code: str) -> None:
    parameters = {
        "DBClusterIdentifier": "refused", "MasterUsername": "dba", "MasterUserPassword": "correct-horse",
        **OF_THREE, **wanted,
    }  # fmt: skip
    given = {name: value for name, value in parameters.items() if value is not None}
    assert code_of(sandbox.rds.create_db_cluster, **given) == code


def test_its_snapshot_is_restored_under_another_key_and_not_copied(sandbox: Sandbox, orders: str) -> None:
    with sandbox.session_at(sandbox.cluster(orders)["Endpoint"]) as sql:
        sql.run("CREATE TABLE kept AS SELECT 7 AS x")
    sandbox.rds.create_db_cluster_snapshot(DBClusterSnapshotIdentifier="s", DBClusterIdentifier=orders)
    sandbox.cluster_snapshot_available("s")
    new = sandbox.key()
    restore = {
        "DBClusterIdentifier": "again", "SnapshotIdentifier": "s", "Engine": "postgres", "KmsKeyId": new,
        "DBClusterInstanceClass": "db.m6gd.large", "Iops": 1000,
    }  # fmt: skip
    without_iops = {name: value for name, value in restore.items() if name != "Iops"}
    assert code_of(sandbox.rds.restore_db_cluster_from_snapshot, **without_iops) == "InvalidParameterCombination"
    sandbox.rds.restore_db_cluster_from_snapshot(**restore)
    again = sandbox.cluster_available("again")

    assert (again["KmsKeyId"], again["AllocatedStorage"], len(members(again))) == (new, 100, 3)
    with sandbox.session_at(again["Endpoint"]) as sql:
        assert sql.run("SELECT x FROM kept") == [[7]]
    assert "InvalidParameterCombination" == code_of(
        sandbox.rds.copy_db_cluster_snapshot,
        SourceDBClusterSnapshotIdentifier="s",
        TargetDBClusterSnapshotIdentifier="copy",
        KmsKeyId=new,
    )
    sandbox.rds.delete_db_cluster(DBClusterIdentifier="again", SkipFinalSnapshot=True)
    eventually(lambda: sandbox.rds.describe_db_clusters()["DBClusters"][1:] == [], "it goes, and its instances with it")
    left = [one["DBInstanceIdentifier"] for one in sandbox.rds.describe_db_instances()["DBInstances"]]
    assert sorted(left) == UNDER_NAMES


def test_without_a_key_it_stays_without(sandbox: Sandbox, key: str) -> None:
    sandbox.create_cluster("open", **OF_THREE)
    sandbox.rds.create_db_cluster_snapshot(DBClusterSnapshotIdentifier="open", DBClusterIdentifier="open")
    sandbox.cluster_snapshot_available("open")
    assert "InvalidParameterCombination" == code_of(
        sandbox.rds.restore_db_cluster_from_snapshot,
        DBClusterIdentifier="closed", SnapshotIdentifier="open", Engine="postgres", KmsKeyId=key,
        DBClusterInstanceClass="db.m6gd.large", Iops=1000,
    )  # fmt: skip
    assert "SourceClusterNotSupportedFault" == code_of(
        sandbox.rds.create_blue_green_deployment,
        BlueGreenDeploymentName="no",
        Source=sandbox.cluster("open")["DBClusterArn"],
    )
