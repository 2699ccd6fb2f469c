"""Blue/green deployments of clusters: the cluster and all its instances get green ones, and change names as one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pg8000
import pytest

from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually, running
from tests.sandbox.test_blue_green import INVALID_STATE, gone, is_, look, switched_over_under_writes

UNSUPPORTED = "SourceClusterNotSupportedFault"
LOGICAL = {"ParameterName": "rds.logical_replication", "ParameterValue": "1", "ApplyMethod": "pending-reboot"}
READ_ONLY = "25006"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running(longest_switchover_seconds=10) as sandbox:
        group = {"DBClusterParameterGroupName": "logical"}
        sandbox.rds.create_db_cluster_parameter_group(
            **group, DBParameterGroupFamily="aurora-postgresql16", Description="of the customer"
        )
        sandbox.rds.modify_db_cluster_parameter_group(**group, Parameters=[LOGICAL])
        yield sandbox


def fit(sandbox: Sandbox, name: str, *readers: str, **changes: Any) -> dict[str, Any]:
    """A cluster of which RDS makes a deployment; its writer is called ``<name>-1``."""
    cluster = sandbox.create_cluster(name, DBClusterParameterGroupName="logical", **changes)
    sandbox.add_member(name, f"{name}-1")
    for reader in readers:
        sandbox.add_member(name, reader)
    return cluster


def request(cluster: dict[str, Any], key: str | None = None, **changes: Any) -> dict[str, Any]:
    entry = [{"SourceArn": cluster["DBClusterArn"], "TargetKmsKeyId": key}] if key else []
    return {
        "BlueGreenDeploymentName": f"bg-{cluster['DBClusterIdentifier']}",
        "Source": cluster["DBClusterArn"],
        "TargetResourceConfigurations": entry,
        **changes,
    }


def created(sandbox: Sandbox, cluster: dict[str, Any], key: str | None = None, **changes: Any) -> str:
    """A deployment that can be switched over."""
    made = sandbox.rds.create_blue_green_deployment(**request(cluster, key, **changes))["BlueGreenDeployment"]
    identifier = str(made["BlueGreenDeploymentIdentifier"])
    is_(sandbox, identifier, "AVAILABLE")
    for _, green in pairs(sandbox, identifier)[1:]:
        sandbox.available(green)
    return identifier


def pairs(sandbox: Sandbox, identifier: str) -> list[tuple[str, str]]:
    """The names of what is switched over: the cluster's, then those of its instances."""
    details = look(sandbox, identifier)["SwitchoverDetails"]
    kinds = [member["SourceMember"].split(":")[5] for member in details]
    assert kinds == ["cluster"] + ["db"] * (len(kinds) - 1)
    return [(one["SourceMember"].split(":")[6], one["TargetMember"].split(":")[6]) for one in details]


def test_a_switchover_under_writes_loses_nothing_and_exchanges_names_and_keys(sandbox: Sandbox) -> None:
    old, new = sandbox.key(), sandbox.key()
    tags = [{"Key": "team", "Value": "a"}]
    blue = fit(sandbox, "orders", "orders-2", StorageEncrypted=True, KmsKeyId=old, Tags=tags, BackupRetentionPeriod=5)
    writer, reader = sandbox.describe("orders-1"), sandbox.describe("orders-2")
    with sandbox.session_at(blue["Endpoint"]) as sql:
        sql.run("CREATE TABLE t (x int PRIMARY KEY)")
    identifier = created(sandbox, blue, new, TargetDBClusterParameterGroupName="logical")
    (_, green_name), (_, green_writer), (_, green_reader) = pairs(sandbox, identifier)
    green = sandbox.cluster(green_name)
    assert green_name.startswith("orders-green-")
    assert green_writer.startswith("orders-1-green-")
    assert (green["KmsKeyId"], green["DBClusterParameterGroup"], green["TagList"]) == (new, "logical", tags)
    assert {sandbox.describe(name)["KmsKeyId"] for name in (green_writer, green_reader)} == {new}
    assert sandbox.describe(green_writer)["DBClusterIdentifier"] == green_name
    assert code_of(sandbox.rds.delete_db_cluster, DBClusterIdentifier=green_name, SkipFinalSnapshot=True) != ""
    sandbox.rds.add_tags_to_resource(ResourceName=green["DBClusterArn"], Tags=[{"Key": "mine", "Value": "1"}])
    with sandbox.session_at(green["Endpoint"]) as sql, pytest.raises(pg8000.exceptions.DatabaseError, match=READ_ONLY):
        sql.run("CREATE TABLE mine (x int)")
    acknowledged = switched_over_under_writes(sandbox, identifier, blue["Endpoint"])

    after, left = sandbox.cluster("orders"), sandbox.cluster("orders-old1")
    assert (after["DbClusterResourceId"], after["KmsKeyId"]) == (green["DbClusterResourceId"], new)
    assert (left["DbClusterResourceId"], left["KmsKeyId"]) == (blue["DbClusterResourceId"], old)
    assert (after["Endpoint"], after["ReaderEndpoint"]) == (blue["Endpoint"], blue["ReaderEndpoint"])
    assert after["TagList"] == tags, "blue's tags take the place of green's"
    assert [m["DBInstanceIdentifier"] for m in after["DBClusterMembers"]] == ["orders-1", "orders-2"]
    assert [m["DBInstanceIdentifier"] for m in left["DBClusterMembers"]] == ["orders-1-old1", "orders-2-old1"]
    for instance in (writer, reader):
        now = sandbox.describe(instance["DBInstanceIdentifier"])
        assert now["Endpoint"] == instance["Endpoint"]
        assert now["DbiResourceId"] != instance["DbiResourceId"]
    with sandbox.session_at(after["Endpoint"]) as sql:
        present = [row[0] for row in sql.run("SELECT x FROM t")]
    assert sorted(set(acknowledged) - set(present)) == []
    with sandbox.session_at(after["ReaderEndpoint"]) as sql:
        assert sql.run("SELECT pg_is_in_recovery()") == [[True]]
    with sandbox.session_at(left["Endpoint"]) as sql:
        sql.run("SET default_transaction_read_only = off")
        with pytest.raises(pg8000.exceptions.DatabaseError, match=READ_ONLY):
            sql.run("INSERT INTO t VALUES (0)")
        assert sql.run("SELECT slot_name FROM pg_replication_slots WHERE NOT active") == []

    deletion = {"BlueGreenDeploymentIdentifier": identifier}
    assert code_of(sandbox.rds.delete_blue_green_deployment, **deletion, DeleteTarget=True) != ""
    assert code_of(sandbox.rds.delete_db_instance, DBInstanceIdentifier="orders-1-old1") == "InvalidDBInstanceState"
    with sandbox.session_at(left["Endpoint"]) as idle:
        assert idle.run("SHOW transaction_read_only") == [["on"]]
        sandbox.rds.delete_blue_green_deployment(**deletion)
        gone(sandbox, identifier)
        idle.run("INSERT INTO t VALUES (0)")  # only the deployment protected it from that
    with sandbox.session_at(left["Endpoint"]) as sql:
        sql.run("INSERT INTO t VALUES (-1)")
    for name in ("orders-1-old1", "orders-2-old1"):
        sandbox.rds.delete_db_instance(DBInstanceIdentifier=name)
    sandbox.rds.delete_db_cluster(DBClusterIdentifier="orders-old1", SkipFinalSnapshot=True)
    sandbox.cluster_gone("orders-old1")
    holders = {grant["Constraints"]["EncryptionContextSubset"].get("aws:rds:dbc-id")
               for grant in sandbox.kms.list_grants(KeyId=old)["Grants"]}  # fmt: skip
    assert holders == set(), "nothing is left under the old key"


def test_a_switchover_that_cannot_catch_up_rolls_itself_back_and_green_can_be_deleted(sandbox: Sandbox) -> None:
    blue = fit(sandbox, "behind", StorageEncrypted=True, KmsKeyId=sandbox.key())
    identifier = created(sandbox, blue, sandbox.key())
    (_, green_name), (_, green) = pairs(sandbox, identifier)
    sandbox.do("pause_replay", name=green)
    with sandbox.session_at(blue["Endpoint"]) as sql:
        sql.run("CREATE TABLE t (x int)")

    sandbox.rds.switchover_blue_green_deployment(BlueGreenDeploymentIdentifier=identifier, SwitchoverTimeout=30)
    deletion = {"BlueGreenDeploymentIdentifier": identifier, "DeleteTarget": True}
    assert code_of(sandbox.rds.delete_blue_green_deployment, **deletion) == INVALID_STATE
    is_(sandbox, identifier, "SWITCHOVER_FAILED")

    assert sandbox.cluster("behind")["DbClusterResourceId"] == blue["DbClusterResourceId"]
    with sandbox.session_at(blue["Endpoint"]) as sql:
        sql.run("INSERT INTO t VALUES (2)")
    sandbox.do("resume_replay", name=green)
    sandbox.rds.delete_blue_green_deployment(**deletion)
    gone(sandbox, identifier)
    sandbox.gone(green)
    sandbox.cluster_gone(green_name)
    with sandbox.session_at(blue["Endpoint"]) as sql:
        assert sql.run("SELECT slot_name FROM pg_replication_slots") == []


def test_a_failover_of_blue_does_not_disturb_green(sandbox: Sandbox) -> None:
    blue = fit(sandbox, "moving", "moving-2", StorageEncrypted=True, KmsKeyId=sandbox.key())
    identifier = created(sandbox, blue, sandbox.key())

    sandbox.rds.failover_db_cluster(DBClusterIdentifier="moving")

    eventually(lambda: sandbox.cluster("moving")["DBClusterMembers"][0]["DBInstanceIdentifier"] == "moving-2", "moved")
    sandbox.cluster_available("moving")
    with sandbox.session_at(blue["Endpoint"]) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")
    eventually(
        lambda: code_of(sandbox.rds.switchover_blue_green_deployment, BlueGreenDeploymentIdentifier=identifier) == "",
        "it is switched over",
    )
    is_(sandbox, identifier, "SWITCHOVER_COMPLETED")
    with sandbox.session_at(blue["Endpoint"]) as sql:
        assert sql.run("SELECT x FROM t") == [[1]]
        sql.run("INSERT INTO t VALUES (2)")
    # Nor does the end of the deployment disturb a backup of blue that is under way.
    sandbox.rds.create_db_cluster_snapshot(DBClusterSnapshotIdentifier="last", DBClusterIdentifier="moving-old1")
    time.sleep(0.1)  # until it has begun
    sandbox.rds.delete_blue_green_deployment(BlueGreenDeploymentIdentifier=identifier)
    gone(sandbox, identifier)
    last = {"DBClusterSnapshotIdentifier": "last"}
    sandbox.cluster_available("moving-old1")
    [snapshot] = sandbox.rds.describe_db_cluster_snapshots(**last)["DBClusterSnapshots"]
    assert snapshot["Status"] == "available"


def test_what_rds_makes_no_deployment_of(sandbox: Sandbox) -> None:
    """Each is a rotation that ends before it has begun, instead of on the way."""
    create, key = sandbox.rds.create_blue_green_deployment, sandbox.key()
    default = sandbox.create_cluster("default", StorageEncrypted=True, KmsKeyId=key)
    without = request(default, key)
    assert code_of(create, **without) == "InvalidDBClusterStateFault", "it has no instance"
    sandbox.add_member("default", "default-1")
    assert code_of(create, **without) == UNSUPPORTED, "its parameter group is RDS's"
    sandbox.rds.modify_db_cluster(DBClusterIdentifier="default", DBClusterParameterGroupName="logical")
    eventually(lambda: code_of(create, **without) == UNSUPPORTED, "nobody has rebooted it")
    member = sandbox.describe("default-1")["DBInstanceArn"]
    assert code_of(create, **without | {"Source": member}) == "SourceDatabaseNotSupportedFault"
    assert code_of(create, **request({**default, "DBClusterArn": f"{default['DBClusterArn']}x"})) == (
        "DBClusterNotFoundFault"
    )
    sandbox.cluster_available("default")
    sandbox.available("default-1")
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="default-1")
    sandbox.available("default-1")
    of_member = [{"SourceArn": member, "TargetKmsKeyId": key}]
    assert code_of(create, **without | {"TargetResourceConfigurations": of_member}) == "InvalidParameterValue"
    twice = without["TargetResourceConfigurations"] * 2
    assert code_of(create, **without | {"TargetResourceConfigurations": twice}) == "InvalidParameterValue"
    nowhere = {"TargetDBClusterParameterGroupName": "nowhere"}
    assert code_of(create, **without, **nowhere) == "DBClusterParameterGroupNotFound"
    plain = fit(sandbox, "plain")
    assert code_of(create, **request(plain, key)) == "InvalidParameterCombination", "it is not encrypted"
    sandbox.rds.modify_db_cluster(DBClusterIdentifier="plain", ManageMasterUserPassword=True, ApplyImmediately=True)
    assert code_of(create, **request(plain)) == UNSUPPORTED, "RDS manages its password"
