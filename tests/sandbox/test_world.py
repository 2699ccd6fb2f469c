"""A customer's database that is removed: the next one in the same sandbox is judged by what is there when it begins."""

import pytest
from botocore.exceptions import ClientError

from sandbox.demo import world
from sandbox.demo.account import Account
from tests.sandbox.rds_sandbox import REGION, Sandbox

OFTEN = {"Delay": 1, "MaxAttempts": 60}


@pytest.mark.parametrize("engine", ["postgres", "aurora-postgresql"])
def test_nothing_is_still_being_deleted(sandbox: Sandbox, engine: str) -> None:
    dns = sandbox.dns
    account = Account(sandbox.endpoint_url, REGION, "ak", "sk", dns["host"], dns["port"], sandbox.ca_bundle)
    name = f"gone-{engine}"
    built = world.build(account, identifier=name, engine=engine, rows=40, writers=1)
    if engine == "postgres":
        sandbox.rds.create_db_snapshot(DBInstanceIdentifier=name, DBSnapshotIdentifier=f"{name}-kept")
        sandbox.rds.get_waiter("db_snapshot_available").wait(DBSnapshotIdentifier=f"{name}-kept", WaiterConfig=OFTEN)
    else:
        sandbox.rds.create_db_cluster_snapshot(DBClusterIdentifier=name, DBClusterSnapshotIdentifier=f"{name}-kept")
        sandbox.rds.get_waiter("db_cluster_snapshot_available").wait(
            DBClusterSnapshotIdentifier=f"{name}-kept", WaiterConfig=OFTEN
        )

    world.remove(account, name)

    with pytest.raises(ClientError, match="NotFound"):
        built.describe(account)
    assert not [one for one in sandbox.rds.describe_db_instances()["DBInstances"] if name in one["DBInstanceArn"]]
    assert not [s for s in sandbox.rds.describe_db_snapshots()["DBSnapshots"] if s["DBInstanceIdentifier"] == name]
    clusters = sandbox.rds.describe_db_cluster_snapshots()["DBClusterSnapshots"]
    assert not [one for one in clusters if one["DBClusterIdentifier"] == name]
