"""Rotations by snapshot under live writes: nobody can write while RDS copies and restores, and nothing is lost.

RDS's minutes are virtual, so the outages here are to be read on the sandbox's clock.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.demo.connection import Login
from sandbox.demo.dialects import AURORA_MYSQL
from sandbox.demo.world import BY_ENGINE, World, wait_available
from sandbox.sweep.boundaries import BY_NETWORK, BY_SNAPSHOT, CLUSTER_BY_NETWORK, CLUSTER_BY_SNAPSHOT
from tests.rotation.scenarios import (
    ROWS,
    WRITERS,
    Scenario,
    assert_invariants,
    params,
    play,
    sandbox_with,
    table_line,
)
from tests.rotation.support import Customer

RESTORE = "rds.RestoreDBInstanceFromDBSnapshot"
RESTORE_CLUSTER = "rds.RestoreDBClusterFromSnapshot"
OF_A_CLUSTER: Mapping[str, Any] = {
    "request": CLUSTER_BY_SNAPSHOT,
    "world": {"engine": "aurora-postgresql"},
}
OF_MULTI_AZ: Mapping[str, Any] = {**OF_A_CLUSTER, "world": {"engine": "multi-az-postgres"}}
BEHIND_NETWORK: Mapping[str, Any] = {"request": BY_NETWORK, "world": {"engine": "oracle-se2", "fence": "network"}}
CLUSTER_BEHIND_NETWORK: Mapping[str, Any] = {"request": CLUSTER_BY_NETWORK, "world": {"engine": "aurora-mysql"}}
COPIED_AHEAD: Mapping[str, Any] = {**BY_SNAPSHOT, "PreCopy": True}
SHORT = 601
"""Seconds. RDS takes longer for the restore."""

FORWARD = [
    Scenario("sn-plain", ends="forward", request=BY_SNAPSHOT),
    Scenario(
        "sn-dies-after-request",
        ({"kind": "killed", "function": "restore-target", "call": RESTORE, "when": "after"},),
        ends="forward",
        request=BY_SNAPSHOT,
    ),
    # Four snapshots, of which one stays, and what is written between the two moments.
    Scenario(
        "sn-copied-ahead",
        ({"kind": "killed", "function": "copy-ahead", "call": "rds.CopyDBSnapshot", "when": "after"},),
        ends="forward",
        request=COPIED_AHEAD,
    ),
    Scenario("sn-cluster", ends="forward", **OF_A_CLUSTER),
    # The first instance is there, and nobody knows that it was asked for.
    Scenario(
        "sn-cluster-dies-at-writer",
        ({"kind": "killed", "function": "wait-for-restore", "call": "rds.CreateDBInstance", "when": "after"},),
        ends="forward",
        **OF_A_CLUSTER,
    ),
    # RDS copies no snapshot of it under a key; what is kept is of a cluster in between, which nobody knows of here.
    Scenario(
        "sn-cluster-keyless",
        ({"kind": "killed", "function": "decommission", "call": RESTORE_CLUSTER, "when": "after"},),
        ends="forward",
        request=CLUSTER_BY_SNAPSHOT,
        world={"engine": "aurora-postgresql", "encrypted": False},
    ),
    # RDS copies no snapshot of it at all, and makes its instances; of the target nobody knows that it was asked for.
    Scenario(
        "sn-multi-az-dies-at-request",
        ({"kind": "killed", "function": "restore-target", "call": RESTORE_CLUSTER, "when": "after"},),
        ends="forward",
        **OF_MULTI_AZ,
    ),
    Scenario(
        "sn-multi-az-dies-in-between",
        ({"kind": "killed", "function": "decommission", "call": RESTORE_CLUSTER, "when": "after"},),
        ends="forward",
        **OF_MULTI_AZ,
    ),
    # RDS changes the groups, or restarts the server, and nobody knows that it was asked to.
    Scenario(
        "sn-network-dies-at-groups",
        ({"kind": "killed", "function": "isolate-source", "call": "rds.ModifyDBInstance", "when": "after"},),
        ends="forward",
        **BEHIND_NETWORK,
    ),
    Scenario(
        "sn-network-dies-at-restart",
        ({"kind": "killed", "function": "isolate-source", "call": "rds.RebootDBInstance", "when": "after"},),
        ends="forward",
        **BEHIND_NETWORK,
    ),
    # The verdict stands, and the target is closed.
    Scenario(
        "sn-network-dies-before-opening",
        ({"kind": "killed", "function": "resume-writes", "call": "rds.ModifyDBInstance", "when": "before"},),
        ends="forward",
        **BEHIND_NETWORK,
    ),
    Scenario(
        "sn-network-stopped-before-opening",
        ({"kind": "stopped", "function": "resume-writes", "call": "rds.ModifyDBInstance", "seconds": 4},),
        ends="forward",
        **BEHIND_NETWORK,
    ),
    # The same of a cluster: of three instances two have been asked for, or one.
    Scenario(
        "sn-walled-dies-at-groups",
        ({"kind": "killed", "function": "isolate-source", "call": "rds.ModifyDBCluster", "when": "after"},),
        ends="forward",
        **CLUSTER_BEHIND_NETWORK,
    ),
    Scenario(
        "sn-walled-dies-at-restarts",
        ({"kind": "killed", "function": "isolate-source", "call": "rds.RebootDBInstance", "nth": 2, "when": "after"},),
        ends="forward",
        **CLUSTER_BEHIND_NETWORK,
    ),
    Scenario(
        "sn-walled-dies-before-opening",
        ({"kind": "killed", "function": "resume-writes", "call": "rds.ModifyDBCluster", "when": "before"},),
        ends="forward",
        **CLUSTER_BEHIND_NETWORK,
    ),
    # A reader becomes the writer when nobody can begin a session any more, and none has been ended yet.
    Scenario(
        "sn-walled-fails-over",
        ({"kind": "failover", "function": "isolate-source", "call": "rds.RebootDBInstance", "side": "source"},),
        ends="forward",
        **CLUSTER_BEHIND_NETWORK,
    ),
    # Nothing else rotates such a cluster: RDS makes no encrypted copy of it by blue/green.
    Scenario(
        "sn-walled-keyless",
        ({"kind": "killed", "function": "decommission", "call": RESTORE_CLUSTER, "when": "after"},),
        ends="forward",
        request=CLUSTER_BY_NETWORK,
        world={"engine": "aurora-mysql", "encrypted": False},
    ),
]
BACK = [
    Scenario(
        "sn-walled-stopped-at-groups",
        ({"kind": "stopped", "function": "isolate-source", "call": "rds.ModifyDBCluster", "seconds": 4},),
        error="StoppedByHand",
        **CLUSTER_BEHIND_NETWORK,
    ),
    Scenario(
        "sn-walled-stopped-at-restarts",
        ({"kind": "stopped", "function": "isolate-source", "call": "rds.RebootDBInstance", "nth": 2, "seconds": 4},),
        error="StoppedByHand",
        **CLUSTER_BEHIND_NETWORK,
    ),
    # The writer restarts, and no reader may.
    Scenario(
        "sn-walled-denied-restart",
        ({"kind": "denied", "function": "isolate-source", "call": "rds.RebootDBInstance", "nth": 2},),
        error="AccessRefused",
        **CLUSTER_BEHIND_NETWORK,
    ),
    # The function lives on, and asks for the groups when its rollback has begun.
    Scenario(
        "sn-network-stopped-at-groups",
        ({"kind": "stopped", "function": "isolate-source", "call": "rds.ModifyDBInstance", "seconds": 4},),
        error="StoppedByHand",
        **BEHIND_NETWORK,
    ),
    Scenario(
        "sn-network-stopped-at-restart",
        ({"kind": "stopped", "function": "isolate-source", "call": "rds.RebootDBInstance", "seconds": 4},),
        error="StoppedByHand",
        **BEHIND_NETWORK,
    ),
    Scenario(
        "sn-network-denied-restart",
        ({"kind": "denied", "function": "isolate-source", "call": "rds.RebootDBInstance"},),
        error="AccessRefused",
        **BEHIND_NETWORK,
    ),
    Scenario(
        "sn-network-denied-name",
        ({"kind": "denied", "function": "update-connectivity", "call": "route53.ChangeResourceRecordSets"},),
        error="AccessRefused",
        **BEHIND_NETWORK,
    ),
    # The journal says that it was about to ask; the function lives on, and asks after the stop.
    Scenario(
        "sn-stopped-at-request",
        ({"kind": "stopped", "function": "restore-target", "call": RESTORE, "seconds": 1},),
        error="StoppedByHand",
        request=BY_SNAPSHOT,
    ),
    # The function lives on, and asks for the copy when its rollback has begun.
    Scenario(
        "sn-copied-ahead-stopped",
        ({"kind": "stopped", "function": "copy-ahead", "call": "rds.CopyDBSnapshot", "seconds": 4},),
        error="StoppedByHand",
        request=COPIED_AHEAD,
    ),
    # All of the target is there: its instances, the cluster and the snapshot have to go.
    Scenario(
        "sn-cluster-denied",
        ({"kind": "denied", "function": "update-connectivity", "call": "route53.ChangeResourceRecordSets"},),
        error="AccessRefused",
        **OF_A_CLUSTER,
    ),
    Scenario(
        "sn-multi-az-denied",
        ({"kind": "denied", "function": "update-connectivity", "call": "route53.ChangeResourceRecordSets"},),
        error="AccessRefused",
        **OF_MULTI_AZ,
    ),
    # The function lives on, and asks for the cluster when its rollback has begun.
    Scenario(
        "sn-multi-az-stopped-at-request",
        ({"kind": "stopped", "function": "restore-target", "call": RESTORE_CLUSTER, "seconds": 4},),
        error="StoppedByHand",
        **OF_MULTI_AZ,
    ),
    # A session that was open on that reader could write by now. RDS may leave it there; the sandbox ends it.
    Scenario(
        "sn-multi-az-fails-over",
        ({"kind": "failover", "function": "restore-target", "call": RESTORE_CLUSTER, "side": "source"},),
        error="TargetMismatch",
        **OF_MULTI_AZ,
    ),
    Scenario(
        "sn-cluster-stopped-at-reader",
        ({"kind": "stopped", "function": "wait-for-restore", "call": "rds.CreateDBInstance", "nth": 2, "seconds": 1},),
        error="StoppedByHand",
        **OF_A_CLUSTER,
    ),
    Scenario(
        "sn-budget",
        ({"kind": "stalled", "function": "wait-for-restore", "seconds": SHORT - 110},),
        error="BudgetSpent",
        request={**BY_SNAPSHOT, "WriteOutageBudgetSeconds": SHORT},
    ),
]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with([*FORWARD, *BACK]) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params([*FORWARD, *BACK], ()))
def test_one_side_serves_and_nothing_is_lost(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS, **scenario.world)

    outcome = play(customer, scenario, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    rds = customer.client("rds")
    manual = {
        **{one["DBSnapshotIdentifier"]: one for one in rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]},
        **{
            one["DBClusterSnapshotIdentifier"]: one
            for one in rds.describe_db_cluster_snapshots(SnapshotType="manual")["DBClusterSnapshots"]
        },
    }
    kept = [one["KmsKeyId"] for name, one in manual.items() if name.startswith(f"{scenario.name}-rot-")]
    if scenario.ends == "forward":
        assert outcome.last.status == "SUCCEEDED", outcome.story
        assert kept == [outcome.last.output["new_key"]["arn"]], "one copy, under the new key"
        if scenario.world.get("engine") == AURORA_MYSQL:
            name = outcome.state["target"]["identifier"]
            (target,) = rds.describe_db_clusters(DBClusterIdentifier=name)["DBClusters"]
            assert target["BacktrackWindow"] == BY_ENGINE[AURORA_MYSQL]["BacktrackWindow"]
    else:
        assert kept == []
        assert outcome.shut_out_seconds < BY_SNAPSHOT["WriteOutageBudgetSeconds"], "RDS was not waited for"


@pytest.mark.proof
def test_a_master_password_that_rds_manages_is_managed_afterwards(customer: Customer, tmp_path: Path) -> None:
    """No other strategy rotates such a database. The target has another password, and the secret that tells it."""
    request = {**BY_SNAPSHOT, "Accept": ["downtime", "managed-master-password"]}
    built = managed_by_rds(customer, customer.build("sn-managed", rows=ROWS, writers=WRITERS))
    before = master_secret(customer, built.identifier)

    outcome = play(
        customer, Scenario(built.identifier, ends="forward", request=request), tmp_path / "acks", built=built
    )

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.last.status == "SUCCEEDED", outcome.story
    after = master_secret(customer, outcome.state["target"]["identifier"])
    assert after["arn"] != before["arn"]
    assert after["password"] != before["password"]
    target = built.finder(customer.account).find()
    login = Login(after["username"], after["password"])
    assert customer.query(built, target, None, "SELECT current_user", login) == [["dbadmin"]]


def managed_by_rds(customer: Customer, built: World) -> World:
    """Hand its master password to RDS; the rotation, and whoever looks on, has a login of its own from then on."""
    keeper, endpoint = Login("keeper", "not-the-master"), built.finder(customer.account).find()
    for statement in (
        f"CREATE ROLE {keeper.user} LOGIN CREATEDB PASSWORD '{keeper.password}'",
        f"GRANT pg_monitor, pg_signal_backend, {built.app.user} TO {keeper.user}",
        # Nobody can be made a member of the master user, whose databases these are.
        f"GRANT {keeper.user} TO {built.master.user}",
        f"ALTER DATABASE postgres OWNER TO {keeper.user}",
        f"ALTER DATABASE template1 OWNER TO {keeper.user}",
    ):
        customer.query(built, endpoint, None, statement, built.master)
    customer.client("secretsmanager").put_secret_value(
        SecretId=built.login_secret_arn,
        SecretString=json.dumps({"username": keeper.user, "password": keeper.password}),
    )
    customer.client("rds").modify_db_instance(
        DBInstanceIdentifier=built.identifier, ManageMasterUserPassword=True, ApplyImmediately=True
    )
    customer.until(lambda: (customer.instance(built.identifier) or {}).get("MasterUserSecret"))
    wait_available(customer.account, built.identifier)
    return replace(built, master=keeper)


def master_secret(customer: Customer, identifier: str) -> dict[str, str]:
    """Its ARN, and the fields in it."""
    found = customer.instance(identifier)
    assert found is not None
    arn = found["MasterUserSecret"]["SecretArn"]
    value = customer.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return {**json.loads(value), "arn": arn}
