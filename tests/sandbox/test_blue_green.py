"""Blue/green deployments of the sandbox: green is a real copy under its own key; a switchover switches, or does not."""

from __future__ import annotations

import threading
import time
from typing import Any

import pg8000
import pytest

from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually

INVALID_STATE = "InvalidBlueGreenDeploymentStateFault"
UNSUPPORTED = "SourceDatabaseNotSupportedFault"


def create(sandbox: Sandbox, of: str, keys: dict[str, str], **more: Any) -> str:
    """Ask for a deployment; keys by the name of the blue member."""
    arns = {name: sandbox.describe(name)["DBInstanceArn"] for name in {of, *keys}}
    made = sandbox.rds.create_blue_green_deployment(
        BlueGreenDeploymentName=f"bg-{of}",
        Source=arns[of],
        TargetResourceConfigurations=[{"SourceArn": arns[name], "TargetKmsKeyId": key} for name, key in keys.items()],
        **more,
    )["BlueGreenDeployment"]
    assert made["Status"] == "PROVISIONING"
    return str(made["BlueGreenDeploymentIdentifier"])


def look(sandbox: Sandbox, identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.rds.describe_blue_green_deployments(BlueGreenDeploymentIdentifier=identifier)[
        "BlueGreenDeployments"
    ][0]
    return found


def is_(sandbox: Sandbox, identifier: str, status: str, seconds: float = 90) -> None:
    eventually(lambda: look(sandbox, identifier)["Status"] == status, f"{identifier} is {status}", seconds)


def greens(sandbox: Sandbox, identifier: str) -> list[dict[str, Any]]:
    return [
        sandbox.describe(member["TargetMember"].rsplit(":", 1)[-1])
        for member in look(sandbox, identifier)["SwitchoverDetails"]
    ]


def ready(sandbox: Sandbox, identifier: str) -> None:
    is_(sandbox, identifier, "AVAILABLE")
    for green in greens(sandbox, identifier):
        sandbox.available(green["DBInstanceIdentifier"])


def can_write(sandbox: Sandbox, instance: dict[str, Any]) -> bool:
    try:
        with sandbox.session(instance) as sql:
            sql.run("INSERT INTO t VALUES (0)")
    except (pg8000.exceptions.Error, OSError):
        return False
    return True


def gone(sandbox: Sandbox, identifier: str) -> None:
    eventually(
        lambda: (
            code_of(sandbox.rds.describe_blue_green_deployments, BlueGreenDeploymentIdentifier=identifier)
            == "BlueGreenDeploymentNotFoundFault"
        ),
        f"{identifier} is gone",
    )


def switched_over_under_writes(sandbox: Sandbox, identifier: str, endpoint: str) -> list[int]:
    """What was acknowledged to somebody who writes numbers into ``t`` before the switchover, during it and after it."""
    acknowledged: list[int] = []
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            try:
                with sandbox.session_at(endpoint) as sql:
                    while not stop.is_set():
                        number += 1
                        sql.run(f"INSERT INTO t VALUES ({number})")
                        acknowledged.append(number)
            except (pg8000.exceptions.Error, OSError, AssertionError):
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: len(acknowledged) > 20, "it writes")
    sandbox.rds.switchover_blue_green_deployment(BlueGreenDeploymentIdentifier=identifier, SwitchoverTimeout=60)
    is_(sandbox, identifier, "SWITCHOVER_COMPLETED")
    before = len(acknowledged)
    eventually(lambda: len(acknowledged) > before + 20, "it writes again")
    stop.set()
    writer.join()
    return acknowledged


def test_a_switchover_under_writes_loses_nothing_and_exchanges_names_and_keys(sandbox: Sandbox) -> None:
    """What the strategy rests on: the name goes to another server, and everything that was acknowledged is there."""
    old, new = sandbox.key(), sandbox.key()
    blue = sandbox.create("orders", StorageEncrypted=True, KmsKeyId=old, Tags=[{"Key": "team", "Value": "a"}])
    with sandbox.session(blue) as sql:
        sql.run("CREATE TABLE t (x int)")
    identifier = create(sandbox, "orders", {"orders": new}, TargetDBParameterGroupName="default.postgres16")
    ready(sandbox, identifier)
    [green] = greens(sandbox, identifier)
    assert (green["KmsKeyId"], green["ReadReplicaSourceDBInstanceIdentifier"]) == (new, "orders")
    assert {"Key": "team", "Value": "a"} in green["TagList"]
    sandbox.rds.add_tags_to_resource(ResourceName=green["DBInstanceArn"], Tags=[{"Key": "mine", "Value": "1"}])
    acknowledged = switched_over_under_writes(sandbox, identifier, blue["Endpoint"]["Address"])

    after, left = sandbox.describe("orders"), sandbox.describe("orders-old1")
    assert (after["DbiResourceId"], after["KmsKeyId"]) == (green["DbiResourceId"], new)
    assert (left["DbiResourceId"], left["KmsKeyId"]) == (blue["DbiResourceId"], old)
    assert after["Endpoint"]["Address"] == blue["Endpoint"]["Address"]
    assert "ReadReplicaSourceDBInstanceIdentifier" not in after
    assert [tag["Key"] for tag in after["TagList"]] == ["team"], "blue's tags take the place of green's"
    with sandbox.session(after) as sql:
        present = [row[0] for row in sql.run("SELECT x FROM t ORDER BY x")]
    assert sorted(set(acknowledged) - set(present)) == []
    assert len(present) == len(set(present))
    with sandbox.session(left) as sql:
        with pytest.raises(pg8000.exceptions.DatabaseError, match="25006"):
            sql.run("INSERT INTO t VALUES (0)")
        assert sql.run("SELECT slot_name FROM pg_replication_slots") == []

    deletion = {"BlueGreenDeploymentIdentifier": identifier}
    assert code_of(sandbox.rds.delete_blue_green_deployment, **deletion, DeleteTarget=True) != ""
    protected = {"DBInstanceIdentifier": "orders-old1", "SkipFinalSnapshot": True}
    assert code_of(sandbox.rds.delete_db_instance, **protected) == "InvalidDBInstanceState"
    sandbox.rds.delete_blue_green_deployment(**deletion)
    gone(sandbox, identifier)
    with sandbox.session(left) as sql, pytest.raises(pg8000.exceptions.DatabaseError, match="25006"):
        sql.run("INSERT INTO t VALUES (0)")  # that it is an instance's changes nothing for blue
    sandbox.rds.delete_db_instance(**protected)
    sandbox.gone("orders-old1")


def test_a_green_that_is_not_ready_is_refused_and_its_deletion_leaves_blue_alone(sandbox: Sandbox) -> None:
    """Available says RDS of a deployment whose green still loads its storage."""
    old, new = sandbox.key(), sandbox.key()
    sandbox.create("slow", StorageEncrypted=True, KmsKeyId=old)
    sandbox.do("execution", running=True)
    identifier = create(sandbox, "slow", {"slow": new})
    by_identifier = {"BlueGreenDeploymentIdentifier": identifier}
    assert code_of(sandbox.rds.switchover_blue_green_deployment, **by_identifier) == INVALID_STATE
    assert code_of(sandbox.rds.delete_blue_green_deployment, **by_identifier) == INVALID_STATE
    eventually(lambda: look(sandbox, identifier)["Status"] == "AVAILABLE", "available")
    status = greens(sandbox, identifier)[0]["DBInstanceStatus"]
    refused = code_of(sandbox.rds.switchover_blue_green_deployment, **by_identifier)
    assert status == "available" or refused == INVALID_STATE
    sandbox.do("execution", running=False)
    ready(sandbox, identifier)
    green = greens(sandbox, identifier)[0]["DBInstanceIdentifier"]

    sandbox.rds.delete_blue_green_deployment(**by_identifier, DeleteTarget=True)

    assert look(sandbox, identifier)["Status"] == "DELETING"
    gone(sandbox, identifier)
    sandbox.gone(green)
    with sandbox.session(sandbox.available("slow")) as sql:
        sql.run("CREATE TABLE still_writable (x int)")
        assert sql.run("SELECT slot_name FROM pg_replication_slots") == []


def test_a_switchover_that_cannot_catch_up_rolls_itself_back(sandbox: Sandbox) -> None:
    old, new = sandbox.key(), sandbox.key()
    blue = sandbox.create("behind", StorageEncrypted=True, KmsKeyId=old)
    identifier = create(sandbox, "behind", {"behind": new})
    ready(sandbox, identifier)
    green = greens(sandbox, identifier)[0]["DBInstanceIdentifier"]
    sandbox.do("pause_replay", name=green)
    with sandbox.session(blue) as sql:
        sql.run("CREATE TABLE t (x int)")

    sandbox.rds.switchover_blue_green_deployment(BlueGreenDeploymentIdentifier=identifier, SwitchoverTimeout=30)

    is_(sandbox, identifier, "SWITCHOVER_IN_PROGRESS")
    deletion = {"BlueGreenDeploymentIdentifier": identifier, "DeleteTarget": True}
    assert code_of(sandbox.rds.delete_blue_green_deployment, **deletion) == INVALID_STATE
    eventually(lambda: not can_write(sandbox, blue), "nobody can write while it lasts", 10)
    is_(sandbox, identifier, "SWITCHOVER_FAILED")
    after = sandbox.describe("behind")
    assert after["DbiResourceId"] == blue["DbiResourceId"]
    with sandbox.session(after) as sql:
        sql.run("INSERT INTO t VALUES (2)")
    sandbox.do("resume_replay", name=green)
    sandbox.rds.delete_blue_green_deployment(**deletion)
    gone(sandbox, identifier)


def test_each_member_has_the_key_of_its_entry_and_one_that_is_left_out_keeps_its_own(sandbox: Sandbox) -> None:
    """RDS does what it is told: the rotation has to look at every member."""
    old, new = sandbox.key(), sandbox.key()
    sandbox.create("family", StorageEncrypted=True, KmsKeyId=old, BackupRetentionPeriod=3)
    sandbox.replica("family", "family-r1")
    identifier = create(sandbox, "family", {"family": new})
    ready(sandbox, identifier)
    assert [green["KmsKeyId"] for green in greens(sandbox, identifier)] == [new, old]

    sandbox.rds.switchover_blue_green_deployment(BlueGreenDeploymentIdentifier=identifier)

    is_(sandbox, identifier, "SWITCHOVER_COMPLETED")
    assert sandbox.describe("family-r1")["ReadReplicaSourceDBInstanceIdentifier"] == "family"
    assert sandbox.describe("family-r1-old1")["ReadReplicaSourceDBInstanceIdentifier"] == "family-old1"
    with sandbox.session(sandbox.describe("family")) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")
    with sandbox.session(sandbox.describe("family-r1")) as sql:
        eventually(lambda: sql.run("SELECT count(*) FROM pg_tables WHERE tablename = 't'") == [[1]], "it follows")


def test_an_unencrypted_blue_gets_an_encrypted_green(sandbox: Sandbox) -> None:
    key = sandbox.key()
    assert not sandbox.create("plain")["StorageEncrypted"]
    identifier = create(sandbox, "plain", {"plain": key})
    ready(sandbox, identifier)
    assert greens(sandbox, identifier)[0]["KmsKeyId"] == key


def test_what_rds_makes_no_deployment_of(sandbox: Sandbox) -> None:
    rds, key = sandbox.rds, sandbox.key()
    managed = sandbox.create("managed", ManageMasterUserPassword=True, MasterUserPassword=None)
    sandbox.create("trunk", StorageEncrypted=True, KmsKeyId=key)
    branch = sandbox.replica("trunk", "branch")
    careless = sandbox.create("careless", BackupRetentionPeriod=0)
    for source, code in ((managed, UNSUPPORTED), (branch, UNSUPPORTED), (careless, "InvalidDBInstanceState")):
        wanted = {"BlueGreenDeploymentName": "no", "Source": source["DBInstanceArn"]}
        assert code_of(rds.create_blue_green_deployment, **wanted) == code
    trunk = sandbox.describe("trunk")["DBInstanceArn"]
    entry = {"SourceArn": trunk, "TargetKmsKeyId": key}
    twice = {"BlueGreenDeploymentName": "no", "Source": trunk, "TargetResourceConfigurations": [entry, entry]}
    assert code_of(rds.create_blue_green_deployment, **twice) == "InvalidParameterValue"
    sandbox.kms.disable_key(KeyId=key)
    lost = {"BlueGreenDeploymentName": "no", "Source": trunk, "TargetResourceConfigurations": [entry]}
    assert code_of(rds.create_blue_green_deployment, **lost) == "KMSKeyNotAccessibleFault"
    unknown = {"BlueGreenDeploymentIdentifier": "bgd-0"}
    assert code_of(rds.switchover_blue_green_deployment, **unknown) == "BlueGreenDeploymentNotFoundFault"


def test_a_protected_green_is_not_deleted_and_a_promoted_one_spoils_its_deployment(sandbox: Sandbox) -> None:
    sandbox.create("safe", StorageEncrypted=True, KmsKeyId=sandbox.key(), DeletionProtection=True)
    identifier = create(sandbox, "safe", {"safe": sandbox.key()})
    ready(sandbox, identifier)
    green = greens(sandbox, identifier)[0]["DBInstanceIdentifier"]
    deletion = {"BlueGreenDeploymentIdentifier": identifier, "DeleteTarget": True}
    assert code_of(sandbox.rds.delete_blue_green_deployment, **deletion) == "InvalidDBInstanceState"

    sandbox.rds.promote_read_replica(DBInstanceIdentifier=green)

    assert look(sandbox, identifier)["Status"] == "INVALID_CONFIGURATION"
    assert (
        code_of(sandbox.rds.switchover_blue_green_deployment, BlueGreenDeploymentIdentifier=identifier) == INVALID_STATE
    )
