"""Engines that nobody here can run: RDS's rules for them are kept, and what is in them is in their snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually

FOREIGN: dict[str, dict[str, Any]] = {
    "oracle-se2": {
        "Port": 1521, "DBName": "ORCL", "LicenseModel": "license-included", "EngineVersion": "19.0.0.0",
        "Family": "oracle-se2-19", "OptionGroup": "default:oracle-se2-19",
    },
    "sqlserver-se": {
        "Port": 1433, "DBName": None, "LicenseModel": "license-included", "EngineVersion": "15.00.4430.1.v1",
        "Family": "sqlserver-se-15.0", "OptionGroup": "default:sqlserver-se-15-00",
    },
    "db2-se": {
        "Port": 50000, "DBName": None, "LicenseModel": "bring-your-own-license", "EngineVersion": "11.5.9.0",
        "Family": "db2-se-11.5", "OptionGroup": "default:db2-se-11-5",
    },
}  # fmt: skip


@pytest.mark.parametrize("engine", FOREIGN)
def test_an_instance_is_as_rds_makes_it_and_its_copy_has_the_data(sandbox: Sandbox, engine: str) -> None:
    """Its snapshot, copied under another key, is all that a rotation of it has."""
    expected, old, new = FOREIGN[engine], sandbox.key(), sandbox.key()
    made = sandbox.create(engine, Engine=engine, DBName=None, StorageEncrypted=True, KmsKeyId=old)
    with sandbox.session(made, "postgres") as sql:
        sql.run("CREATE TABLE t AS SELECT 42 AS x")

    rds = sandbox.rds
    rds.create_db_snapshot(DBInstanceIdentifier=engine, DBSnapshotIdentifier=f"{engine}-s")
    sandbox.snapshot_available(f"{engine}-s")
    rds.copy_db_snapshot(
        SourceDBSnapshotIdentifier=f"{engine}-s", TargetDBSnapshotIdentifier=f"{engine}-c", KmsKeyId=new
    )
    assert sandbox.snapshot_available(f"{engine}-c")["Engine"] == engine
    rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier=f"{engine}-2", DBSnapshotIdentifier=f"{engine}-c")
    restored = sandbox.available(f"{engine}-2")

    for instance, key in ((made, old), (restored, new)):
        assert instance["KmsKeyId"] == key
        assert instance["Endpoint"]["Port"] == expected["Port"]
        assert instance["EngineVersion"].startswith(expected["EngineVersion"])
        assert (instance.get("DBName"), instance["LicenseModel"]) == (expected["DBName"], expected["LicenseModel"])
        assert instance["DBParameterGroups"][0]["DBParameterGroupName"] == f"default.{expected['Family']}"
        assert instance["OptionGroupMemberships"][0]["OptionGroupName"] == expected["OptionGroup"]
    with sandbox.session(restored, "postgres") as sql:
        assert sql.run("SELECT x FROM t") == [[42]]


def test_the_default_option_group_is_there_and_has_no_options(sandbox: Sandbox) -> None:
    """It is asked for them as any other would be."""
    for name in (expected["OptionGroup"] for expected in FOREIGN.values()):
        (group,) = sandbox.rds.describe_option_groups(OptionGroupName=name)["OptionGroupsList"]
        assert (group["OptionGroupName"], group["Options"]) == (name, [])


@pytest.mark.parametrize(
    ("engine", "name", "is_made"),
    [
        ("postgres", "db.t4g.medium", True),
        ("postgres", "db.m3.large", False),
        ("postgres", "db.serverless", False),
        ("oracle-se2", "db.m6g.large", True),
        ("aurora-postgresql", "db.serverless", True),
        ("aurora-postgresql", "db.m7g.large", False),
    ],
)
def test_what_can_be_ordered_is_what_is_made(sandbox: Sandbox, engine: str, name: str, is_made: bool) -> None:
    known = sandbox.rds.describe_db_engine_versions(Engine=engine)["DBEngineVersions"]

    def options(**wanted: str) -> list[dict[str, Any]]:
        found = sandbox.rds.get_paginator("describe_orderable_db_instance_options").paginate(Engine=engine, **wanted)
        return [dict(one) for page in found for one in page["OrderableDBInstanceOptions"]]

    made = {one["EngineVersion"] for one in options(DBInstanceClass=name)}
    assert made == ({one["EngineVersion"] for one in known} if is_made else set())
    assert [] == options(DBInstanceClass=name, EngineVersion="9.6.24")
    assert name in {one["DBInstanceClass"] for one in options()} or not is_made
    if not is_made and not engine.startswith("aurora"):
        new = {"DBInstanceIdentifier": "odd", "Engine": engine, "AllocatedStorage": 20, "DBInstanceClass": name}
        owner = {"MasterUsername": "dba", "MasterUserPassword": "correct-horse"}
        assert code_of(sandbox.rds.create_db_instance, **new, **owner) == "InvalidParameterCombination"


@pytest.mark.parametrize("engine", FOREIGN)
def test_a_parameter_group_is_of_the_family_that_rds_names(sandbox: Sandbox, engine: str) -> None:
    family = FOREIGN[engine]["Family"]
    (version,) = sandbox.rds.describe_db_engine_versions(Engine=engine)["DBEngineVersions"]
    assert (version["DBParameterGroupFamily"], version["SupportsReadReplica"]) == (family, False)

    make = sandbox.rds.create_db_parameter_group
    wanted = {"DBParameterGroupName": f"{engine}-settings", "Description": "-"}
    assert code_of(make, **wanted, DBParameterGroupFamily=family.replace("-", "", 1)) == "InvalidParameterValue"
    assert code_of(make, **wanted, DBParameterGroupFamily=family) == ""


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Engine": "sqlserver-se"}, "InvalidParameterValue"),
        ({"Engine": "oracle-se2", "DBName": "ORDERSDB1"}, "InvalidParameterValue"),
        ({"Engine": "oracle-se2", "DBName": None, "MasterUsername": "SYSTEM"}, "InvalidParameterValue"),
        (
            {"Engine": "sqlserver-se", "DBName": None, "LicenseModel": "bring-your-own-license"},
            "InvalidParameterCombination",
        ),
        ({"Engine": "oracle-ee"}, "InvalidParameterValue"),
    ],
)
def test_what_rds_refuses_of_them(sandbox: Sandbox, changes: dict[str, Any], code: str) -> None:
    wanted = {
        "DBInstanceIdentifier": "refused", "DBInstanceClass": "db.m7g.large", "AllocatedStorage": 20, "DBName": "app",
        "MasterUsername": "dba", "MasterUserPassword": "correct-horse", **changes,
    }  # fmt: skip

    given = {name: value for name, value in wanted.items() if value is not None}
    assert code_of(sandbox.rds.create_db_instance, **given) == code


def test_sql_server_makes_no_database_with_the_instance(sandbox: Sandbox) -> None:
    """In RDS's own words, by which whoever restores one knows what to leave out."""
    with pytest.raises(ClientError, match="DBName must be null for engine: sqlserver-se"):
        sandbox.create("refused", Engine="sqlserver-se", DBName="app")


def test_there_is_no_other_way_than_a_snapshot(sandbox: Sandbox) -> None:
    rds = sandbox.rds
    made = sandbox.create("only", Engine="oracle-se2", DBName="SID1")
    assert made["DBName"] == "SID1"
    eventually(lambda: "LatestRestorableTime" in sandbox.describe("only"), "it has a backup")

    assert "SourceDatabaseNotSupportedFault" == code_of(
        rds.create_blue_green_deployment, BlueGreenDeploymentName="d", Source=made["DBInstanceArn"]
    )
    assert "InvalidParameterCombination" == code_of(
        rds.create_db_instance_read_replica, DBInstanceIdentifier="r", SourceDBInstanceIdentifier="only"
    )
    assert "InvalidParameterValue" == code_of(
        rds.create_db_cluster, DBClusterIdentifier="c", Engine="oracle-se2", MasterUsername="dba",
        MasterUserPassword="correct-horse",
    )  # fmt: skip
