"""Clusters of the sandbox: one instance writes, the others follow; names lead to whoever has the role."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import Any

import pg8000
import pytest

from tests.sandbox.rds_sandbox import PASSWORD, Sandbox, code_of, eventually, running

NEW: dict[str, Any] = {
    "DBClusterIdentifier": "x", "Engine": "aurora-postgresql", "MasterUsername": "dba", "MasterUserPassword": PASSWORD,
}  # fmt: skip
MEMBER: dict[str, Any] = {
    "DBInstanceIdentifier": "y", "DBClusterIdentifier": "orders", "DBInstanceClass": "db.r7g.large",
    "Engine": "aurora-postgresql",
}  # fmt: skip


@pytest.fixture(scope="module")
def key(sandbox: Sandbox) -> str:
    return sandbox.key()


@pytest.fixture(scope="module")
def orders(sandbox: Sandbox, key: str) -> str:
    """An encrypted cluster of a writer and a reader; tests leave it as it is."""
    tags = [{"Key": "team", "Value": "a"}]
    sandbox.create_cluster("orders", StorageEncrypted=True, KmsKeyId=key, Tags=tags)
    sandbox.rds.create_db_instance(**MEMBER | {"DBInstanceIdentifier": "orders-1"})
    sandbox.rds.create_db_instance(**MEMBER | {"DBInstanceIdentifier": "orders-2", "PromotionTier": 3})
    sandbox.available("orders-1")
    sandbox.available("orders-2")
    return "orders"


def roles(cluster: dict[str, Any]) -> dict[str, bool]:
    """Whether a member is the writer."""
    return {member["DBInstanceIdentifier"]: member["IsClusterWriter"] for member in cluster["DBClusterMembers"]}


def lets_in(sandbox: Sandbox, name: str, password: str) -> bool:
    try:
        with sandbox.session_at(name, password=password):
            return True
    except pg8000.exceptions.DatabaseError:
        return False


def can_write(sandbox: Sandbox, name: str) -> bool:
    with sandbox.session_at(name) as sql:
        return bool(sql.run("SELECT pg_is_in_recovery()") == [[False]])


def test_one_writes_the_others_follow_and_the_cluster_has_what_they_share(
    sandbox: Sandbox, orders: str, key: str
) -> None:
    cluster, writer, reader = sandbox.cluster(orders), sandbox.describe("orders-1"), sandbox.describe("orders-2")
    with sandbox.session_at(cluster["Endpoint"]) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")
    with sandbox.session_at(cluster["ReaderEndpoint"]) as sql:
        eventually(lambda: sql.run("SELECT count(*) FROM pg_tables WHERE tablename = 't'") == [[1]], "it follows")
        with pytest.raises(pg8000.exceptions.DatabaseError, match="25006"):
            sql.run("INSERT INTO t VALUES (2)")

    assert roles(cluster) == {"orders-1": True, "orders-2": False}
    assert [m["DBClusterParameterGroupStatus"] for m in cluster["DBClusterMembers"]] == ["in-sync"] * 2
    assert (cluster["KmsKeyId"], cluster["StorageEncrypted"], cluster["EngineMode"]) == (key, True, "provisioned")
    assert (cluster["MultiAZ"], cluster["DBClusterParameterGroup"]) == (True, "default.aurora-postgresql16")
    assert cluster["DbClusterResourceId"].startswith("cluster-")
    assert cluster["Endpoint"].startswith("orders.cluster-c")
    assert cluster["ReaderEndpoint"].startswith("orders.cluster-ro-c")
    assert sandbox.address(cluster["Endpoint"]) == sandbox.address(writer["Endpoint"]["Address"])
    assert sandbox.address(cluster["ReaderEndpoint"]) == sandbox.address(reader["Endpoint"]["Address"])
    for member, tier in ((writer, 0), (reader, 3)):
        assert (member["DBClusterIdentifier"], member["KmsKeyId"], member["PromotionTier"]) == ("orders", key, tier)
        assert member["BackupRetentionPeriod"] == 1
        assert "ReadReplicaSourceDBInstanceIdentifier" not in member
        assert (member["ReadReplicaDBInstanceIdentifiers"], member.get("StatusInfos", [])) == ([], [])
    context = {"EncryptionContextSubset": {"aws:rds:dbc-id": cluster["DbClusterResourceId"]}}
    assert context in [grant["Constraints"] for grant in sandbox.kms.list_grants(KeyId=key)["Grants"]]


def test_it_is_found_by_name_arn_and_filter(sandbox: Sandbox, orders: str) -> None:
    cluster = sandbox.cluster(orders)
    assert sandbox.cluster(cluster["DBClusterArn"]) == cluster

    def found(**wanted: str) -> list[str]:
        filters = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in wanted.items()]
        return [c["DBClusterIdentifier"] for c in sandbox.rds.describe_db_clusters(Filters=filters)["DBClusters"]]

    assert found(db_cluster_id=cluster["DBClusterArn"]) == ["orders"]
    assert found(db_cluster_resource_id=cluster["DbClusterResourceId"]) == ["orders"]
    assert found(engine="aurora-mysql") == []
    colour = [{"Name": "colour", "Values": ["blue"]}]
    assert code_of(sandbox.rds.describe_db_clusters, Filters=colour) == "InvalidParameterValue"
    assert code_of(sandbox.rds.describe_db_clusters, DBClusterIdentifier="no") == "DBClusterNotFoundFault"
    members = sandbox.rds.describe_db_instances(Filters=[{"Name": "db-cluster-id", "Values": ["orders"]}])
    assert [member["DBInstanceIdentifier"] for member in members["DBInstances"]] == ["orders-1", "orders-2"]


def test_tags_of_a_cluster(sandbox: Sandbox, orders: str) -> None:
    arn = sandbox.cluster(orders)["DBClusterArn"]
    sandbox.rds.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "rotation", "Value": "1"}])
    found = sandbox.client("resourcegroupstaggingapi").get_resources(TagFilters=[{"Key": "rotation"}])
    assert [one["ResourceARN"] for one in found["ResourceTagMappingList"]] == [arn]

    sandbox.rds.remove_tags_from_resource(ResourceName=arn, TagKeys=["rotation"])

    assert sandbox.rds.list_tags_for_resource(ResourceName=arn)["TagList"] == [{"Key": "team", "Value": "a"}]
    nobody = arn.replace("orders", "nobody")
    assert code_of(sandbox.rds.list_tags_for_resource, ResourceName=nobody) == "DBClusterNotFoundFault"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"DBClusterIdentifier": "Orders"}, "DBClusterAlreadyExistsFault"),
        ({"DBClusterIdentifier": "two--hyphens"}, "InvalidParameterValue"),
        ({"Engine": "mariadb"}, "InvalidParameterValue"),
        ({"EngineVersion": "9.6"}, "InvalidParameterCombination"),
        ({"EngineMode": "serverless"}, "InvalidParameterValue"),
        ({"BackupRetentionPeriod": 0}, "InvalidParameterValue"),
        ({"MasterUserPassword": "short"}, "InvalidParameterValue"),
        ({"MasterUsername": "rdsadmin"}, "InvalidParameterValue"),
        ({"DBClusterParameterGroupName": "nowhere"}, "DBClusterParameterGroupNotFound"),
        ({"DBSubnetGroupName": "nowhere"}, "DBSubnetGroupNotFoundFault"),
        ({"KmsKeyId": "alias/aws/rds"}, "InvalidParameterCombination"),
        ({"StorageEncrypted": True, "KmsKeyId": "alias/nowhere"}, "KMSKeyNotAccessibleFault"),
        ({"BacktrackWindow": 3600}, "InvalidParameterCombination"),
        ({"Engine": "aurora-mysql", "BacktrackWindow": 259_201}, "InvalidParameterValue"),
    ],
)
def test_what_rds_makes_no_cluster_of(sandbox: Sandbox, orders: str, changes: dict[str, Any], code: str) -> None:
    assert code_of(sandbox.rds.create_db_cluster, **{**NEW, **changes}) == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"DBInstanceIdentifier": "orders-1"}, "DBInstanceAlreadyExists"),
        ({"DBClusterIdentifier": "nowhere"}, "DBClusterNotFoundFault"),
        ({"Engine": "postgres"}, "InvalidParameterCombination"),
        ({"DBInstanceClass": "db.m7g.large"}, "InvalidParameterCombination"),
        ({"DBInstanceClass": "db.serverless"}, "InvalidParameterValue"),
        ({"PromotionTier": 16}, "InvalidParameterValue"),
        ({"BackupRetentionPeriod": 7}, "InvalidParameterCombination"),
        ({"MasterUserPassword": PASSWORD}, "InvalidParameterCombination"),
        ({"DeletionProtection": True}, "InvalidParameterCombination"),
        ({"DatabaseInsightsMode": "advanced"}, "InvalidParameterCombination"),
        ({"StorageEncrypted": True}, "InvalidParameterCombination"),
    ],
)
def test_what_is_the_clusters_is_not_a_members(
    sandbox: Sandbox, orders: str, changes: dict[str, Any], code: str
) -> None:
    assert code_of(sandbox.rds.create_db_instance, **{**MEMBER, **changes}) == code


def test_calls_that_a_member_does_not_take(sandbox: Sandbox, orders: str) -> None:
    """Code that treats a member as a database of its own must fail here, and not lose a setting in production."""
    rds, member = sandbox.rds, {"DBInstanceIdentifier": "orders-1"}
    assert code_of(rds.create_db_snapshot, **member, DBSnapshotIdentifier="s") == "InvalidParameterValue"
    assert code_of(rds.promote_read_replica, DBInstanceIdentifier="orders-2") == "InvalidDBInstanceState"
    assert code_of(rds.stop_db_instance, **member) == "InvalidParameterCombination"
    assert code_of(rds.modify_db_instance, **member, BackupRetentionPeriod=3) == "InvalidParameterCombination"
    assert code_of(rds.modify_db_instance, **member, DatabaseInsightsMode="advanced") == "InvalidParameterCombination"
    assert code_of(rds.delete_db_instance, **member, FinalDBSnapshotIdentifier="s") == "InvalidParameterCombination"
    replica = {"DBInstanceIdentifier": "y", "SourceDBInstanceIdentifier": "orders-1"}
    assert code_of(rds.create_db_instance_read_replica, **replica) == "InvalidParameterCombination"
    alone = {name: value for name, value in MEMBER.items() if name != "DBClusterIdentifier"}
    assert code_of(rds.create_db_instance, **alone) == "InvalidParameterCombination"
    protected = {"DBClusterIdentifier": orders, "SkipFinalSnapshot": True}
    assert code_of(rds.delete_db_cluster, **protected) == "InvalidDBClusterStateFault"


def test_a_failover_moves_the_endpoints_and_loses_nothing(sandbox: Sandbox, orders: str) -> None:
    """As with one volume under all of them: what was committed is there, whoever writes."""
    failover = sandbox.rds.failover_db_cluster
    own = {"DBClusterIdentifier": orders, "TargetDBInstanceIdentifier": "orders-1"}
    assert code_of(failover, **own) == "InvalidDBInstanceState"
    cluster, addresses = sandbox.cluster(orders), {n: sandbox.describe(n)["Endpoint"] for n in ("orders-1", "orders-2")}
    with sandbox.session_at(cluster["Endpoint"]) as open_before:
        open_before.run("CREATE TABLE kept AS SELECT 1 AS x")

        failover(DBClusterIdentifier=orders)

        eventually(lambda: roles(sandbox.cluster(orders))["orders-2"], "the other one writes")
        with pytest.raises((pg8000.exceptions.Error, OSError)):
            open_before.run("INSERT INTO kept VALUES (2)")
    assert sandbox.cluster_available(orders)["Endpoint"] == cluster["Endpoint"]
    assert {name: sandbox.describe(name)["Endpoint"] for name in addresses} == addresses
    assert sandbox.address(cluster["Endpoint"]) == sandbox.address(addresses["orders-2"]["Address"])
    assert can_write(sandbox, addresses["orders-2"]["Address"])
    assert not can_write(sandbox, cluster["ReaderEndpoint"])
    with sandbox.session_at(cluster["Endpoint"]) as sql:
        sql.run("INSERT INTO kept VALUES (2)")
    with sandbox.session_at(cluster["ReaderEndpoint"]) as sql:
        eventually(lambda: sql.run("SELECT x FROM kept ORDER BY x") == [[1], [2]], "the former writer follows")
    failover(**own)
    eventually(lambda: roles(sandbox.cluster(orders))["orders-1"], "back again")
    sandbox.cluster_available(orders)


def test_the_volume_outlives_the_instances_and_the_cluster_goes_last(sandbox: Sandbox) -> None:
    cluster = sandbox.create_cluster("volume", DeletionProtection=True, BackupRetentionPeriod=3)
    assert (cluster["StorageEncrypted"], cluster["StorageEncryptionType"]) == (False, "sse-rds")
    assert cluster["DBClusterMembers"] == []
    assert sandbox.address(cluster["Endpoint"]) is None
    sandbox.add_member("volume", "volume-1")
    sandbox.add_member("volume", "volume-2")
    with sandbox.session_at(cluster["Endpoint"]) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")

    sandbox.rds.delete_db_instance(DBInstanceIdentifier="volume-1")
    sandbox.gone("volume-1")

    assert roles(sandbox.cluster("volume")) == {"volume-2": True}
    assert sandbox.address(cluster["Endpoint"]) == sandbox.address(cluster["ReaderEndpoint"])
    assert can_write(sandbox, cluster["Endpoint"])
    sandbox.rds.delete_db_instance(DBInstanceIdentifier="volume-2", SkipFinalSnapshot=True)
    sandbox.gone("volume-2")
    assert sandbox.address(cluster["Endpoint"]) is None
    sandbox.add_member("volume", "volume-3")
    with sandbox.session_at(cluster["Endpoint"]) as sql:
        assert sql.run("SELECT x FROM t") == [[1]]

    sandbox.rds.delete_db_instance(DBInstanceIdentifier="volume-3")
    delete, name = sandbox.rds.delete_db_cluster, {"DBClusterIdentifier": "volume"}
    assert code_of(delete, **name, SkipFinalSnapshot=True) == "InvalidParameterCombination", "it is protected"
    sandbox.rds.modify_db_cluster(**name, DeletionProtection=False)
    assert code_of(delete, **name) == "InvalidParameterCombination", "nobody said what becomes of the data"
    delete(**name, SkipFinalSnapshot=True)
    sandbox.cluster_gone("volume")


def test_instances_may_be_made_and_deleted_all_at_once(sandbox: Sandbox) -> None:
    """As a stack does it; here the writer begins with a restart, and nobody may rely on its server meanwhile."""
    group, names = {"DBClusterParameterGroupName": "crowd"}, [f"crowd-{n}" for n in range(3)]
    sandbox.rds.create_db_cluster_parameter_group(
        **group, DBParameterGroupFamily="aurora-postgresql16", Description="of the customer"
    )
    logical = {"ParameterName": "rds.logical_replication", "ParameterValue": "1", "ApplyMethod": "pending-reboot"}
    sandbox.rds.modify_db_cluster_parameter_group(**group, Parameters=[logical])
    cluster = sandbox.create_cluster("crowd", **group)
    for name in names:
        sandbox.rds.create_db_instance(**MEMBER | {"DBInstanceIdentifier": name, "DBClusterIdentifier": "crowd"})
    for name in names:
        sandbox.available(name)
    assert roles(sandbox.cluster("crowd")) == {"crowd-0": True, "crowd-1": False, "crowd-2": False}
    with sandbox.session_at(cluster["Endpoint"]) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")

    for name in names:
        sandbox.rds.delete_db_instance(DBInstanceIdentifier=name)
    sandbox.rds.delete_db_cluster(DBClusterIdentifier="crowd", FinalDBSnapshotIdentifier="crowd-final")
    sandbox.cluster_gone("crowd")

    found = sandbox.rds.describe_db_cluster_snapshots(DBClusterSnapshotIdentifier="crowd-final")
    assert found["DBClusterSnapshots"][0]["Status"] == "available"


def test_a_writer_and_the_reader_that_is_being_made_may_go_together() -> None:
    """Nobody serves the reader's clients yet when it would have to take over."""
    with running(unattended_seconds=2) as sandbox:
        sandbox.create_cluster("brief")
        names = [f"brief-{n}" for n in range(2)]
        for name in names:
            sandbox.rds.create_db_instance(**MEMBER | {"DBInstanceIdentifier": name, "DBClusterIdentifier": "brief"})
            if name == names[0]:
                sandbox.available(name)
        time.sleep(1.2)  # it has a server by now, and no endpoint

        for name in names:
            sandbox.rds.delete_db_instance(DBInstanceIdentifier=name)
        sandbox.rds.delete_db_cluster(DBClusterIdentifier="brief", SkipFinalSnapshot=True)

        sandbox.cluster_gone("brief")


def test_a_group_is_in_force_after_a_reboot(sandbox: Sandbox) -> None:
    """A blue/green deployment is refused before that, and nobody says so in advance but this status."""
    rds, logical = sandbox.rds, {"ParameterName": "rds.logical_replication", "ParameterValue": "1"}
    of_cluster, of_instance = {"DBClusterParameterGroupName": "tuned"}, {"DBParameterGroupName": "tuned"}
    family = {"DBParameterGroupFamily": "aurora-postgresql16", "Description": "of the customer"}
    rds.create_db_cluster_parameter_group(**of_cluster, **family)
    rds.create_db_parameter_group(**of_instance, **family)
    at_once = [{**logical, "ApplyMethod": "immediate"}]
    later = [{**logical, "ApplyMethod": "pending-reboot"}]
    modify = rds.modify_db_cluster_parameter_group
    assert code_of(modify, **of_cluster, Parameters=at_once) == "InvalidParameterCombination"
    assert code_of(rds.modify_db_parameter_group, **of_instance, Parameters=later) == "InvalidParameterValue"
    sandbox.create_cluster("tuned")
    sandbox.add_member("tuned", "tuned-1")
    rds.modify_db_cluster(DBClusterIdentifier="tuned", **of_cluster)
    sandbox.cluster_available("tuned")
    modify(**of_cluster, Parameters=later)

    def status() -> str:
        return str(sandbox.cluster("tuned")["DBClusterMembers"][0]["DBClusterParameterGroupStatus"])

    def level() -> str:
        with sandbox.session(sandbox.describe("tuned-1")) as sql:
            return str(sql.run("SHOW wal_level")[0][0])

    assert (status(), level()) == ("pending-reboot", "replica")
    assert code_of(rds.delete_db_cluster_parameter_group, **of_cluster) == "InvalidDBParameterGroupState"

    rds.reboot_db_instance(DBInstanceIdentifier="tuned-1")
    sandbox.available("tuned-1")

    assert (status(), level()) == ("in-sync", "logical")
    read_only = {"ParameterName": "default_transaction_read_only", "ParameterValue": "1", "ApplyMethod": "immediate"}
    modify(**of_cluster, Parameters=[read_only])
    eventually(lambda: status() == "in-sync", "it is applied")
    with sandbox.session(sandbox.describe("tuned-1")) as sql:
        assert sql.run("SHOW default_transaction_read_only") == [["on"]]


def test_modify_and_rename(sandbox: Sandbox) -> None:
    """The instances keep their names, and the cluster's lead to them again some minutes later."""
    before = sandbox.create_cluster("before", EngineVersion="16.13")
    sandbox.add_member("before", "before-1")
    member, name = sandbox.describe("before-1"), {"DBClusterIdentifier": "before"}
    assert (before["EngineVersion"], member["EngineVersion"]) == ("16.13", "16.13")
    sandbox.rds.add_role_to_db_cluster(**name, RoleArn="arn:aws:iam::123456789012:role/r", FeatureName="s3Import")
    sandbox.rds.modify_db_cluster(
        **name, BackupRetentionPeriod=9, CopyTagsToSnapshot=True, MasterUserPassword="another-horse",
        CloudwatchLogsExportConfiguration={"EnableLogTypes": ["postgresql"]}, EnableIAMDatabaseAuthentication=True,
        ServerlessV2ScalingConfiguration={"MinCapacity": 0.5, "MaxCapacity": 4}, DatabaseInsightsMode="advanced",
    )  # fmt: skip
    eventually(lambda: lets_in(sandbox, before["Endpoint"], "another-horse"), "the password is another one")
    changed = sandbox.cluster_available("before")
    assert (changed["BackupRetentionPeriod"], changed["CopyTagsToSnapshot"]) == (9, True)
    assert changed["ServerlessV2ScalingConfiguration"] == {"MinCapacity": 0.5, "MaxCapacity": 4}
    assert changed["PendingModifiedValues"] == {"IAMDatabaseAuthenticationEnabled": True}
    assert [role["FeatureName"] for role in changed["AssociatedRoles"]] == ["s3Import"]
    shown = sandbox.describe("before-1")
    assert (shown["EnabledCloudwatchLogsExports"], shown["DatabaseInsightsMode"]) == (["postgresql"], "advanced")
    with sandbox.session(member, password="another-horse") as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")

    sandbox.rds.modify_db_cluster(**name, NewDBClusterIdentifier="after", ApplyImmediately=True)
    eventually(lambda: code_of(sandbox.rds.describe_db_clusters, DBClusterIdentifier="after") == "", "renamed")

    after = sandbox.cluster_available("after")
    assert after["DbClusterResourceId"] == before["DbClusterResourceId"]
    assert (sandbox.describe("before-1")["DBClusterIdentifier"], roles(after)) == ("after", {"before-1": True})
    assert after["IAMDatabaseAuthenticationEnabled"] is True
    assert sandbox.address(before["Endpoint"]) is None
    with sandbox.session_at(after["Endpoint"], password="another-horse") as sql:
        assert sql.run("SELECT x FROM t") == [[1]]


def test_only_a_cluster_that_was_made_with_backtracking_has_it(sandbox: Sandbox) -> None:
    """Aurora User Guide: it is switched on when a cluster is created, or restored."""
    by_mysql: dict[str, Any] = {"Engine": "aurora-mysql"}
    assert sandbox.create_cluster("rewound", BacktrackWindow=3600, **by_mysql)["BacktrackWindow"] == 3600
    assert "BacktrackWindow" not in sandbox.create_cluster("straight", **by_mysql)

    modify = sandbox.rds.modify_db_cluster
    assert (
        code_of(modify, DBClusterIdentifier="straight", BacktrackWindow=3600, ApplyImmediately=True)
        == "InvalidParameterCombination"
    )
    modify(DBClusterIdentifier="rewound", BacktrackWindow=7200, ApplyImmediately=True)
    assert sandbox.cluster_available("rewound")["BacktrackWindow"] == 7200


def test_rds_keeps_the_password_in_secrets_manager(sandbox: Sandbox) -> None:
    cluster = sandbox.create_cluster("managed", ManageMasterUserPassword=True, MasterUserPassword=None)
    secret = sandbox.client("secretsmanager").get_secret_value(SecretId=cluster["MasterUserSecret"]["SecretArn"])
    sandbox.add_member("managed", "managed-1")
    with sandbox.session_at(cluster["Endpoint"], password=json.loads(secret["SecretString"])["password"]) as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_a_cluster_without_its_key_is_out_of_reach(sandbox: Sandbox) -> None:
    lost = sandbox.key()
    sandbox.create_cluster("lost", StorageEncrypted=True, KmsKeyId=lost)
    sandbox.add_member("lost", "lost-1")
    sandbox.kms.disable_key(KeyId=lost)

    sandbox.jump(hours=3)

    def out_of_reach() -> bool:
        found = {sandbox.cluster("lost")["Status"], sandbox.describe("lost-1")["DBInstanceStatus"]}
        return found == {"inaccessible-encryption-credentials-recoverable"}

    eventually(out_of_reach, "it is out of reach")
    assert code_of(sandbox.rds.modify_db_cluster, DBClusterIdentifier="lost", CopyTagsToSnapshot=True) != ""


def test_restorable_times(sandbox: Sandbox, orders: str) -> None:
    cluster = sandbox.cluster(orders)
    assert cluster["EarliestRestorableTime"] <= cluster["LatestRestorableTime"]
    assert cluster["ClusterCreateTime"] <= cluster["EarliestRestorableTime"] + dt.timedelta(minutes=1)
