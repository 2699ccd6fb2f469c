"""Automated backups in another Region: made there, under a key of there, and refused as RDS refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.rds_sandbox import REGION, Sandbox, code_of, eventually

ABROAD = "eu-west-1"
ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def orders(sandbox: Sandbox) -> dict[str, Any]:
    return sandbox.create("orders", StorageEncrypted=True, KmsKeyId=sandbox.key(), BackupRetentionPeriod=7)


def listed(sandbox: Sandbox, instance: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sandbox.client("rds", ABROAD).describe_db_instance_automated_backups(
        DbiResourceId=instance["DbiResourceId"]
    )["DBInstanceAutomatedBackups"]
    return found


def test_a_replicated_backup_is_there_and_the_instance_says_so(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    key, there = sandbox.key(ABROAD), sandbox.client("rds", ABROAD)

    there.start_db_instance_automated_backups_replication(
        SourceDBInstanceArn=orders["DBInstanceArn"], KmsKeyId=key, BackupRetentionPeriod=14, SourceRegion=REGION
    )

    [backup] = listed(sandbox, orders)
    arn = backup["DBInstanceAutomatedBackupsArn"]
    assert arn.startswith(f"arn:aws:rds:{ABROAD}:{ACCOUNT}:auto-backup:ab-")
    facts = (backup["KmsKeyId"], backup["BackupRetentionPeriod"], backup["DBInstanceArn"], backup["Region"])
    assert facts == (key, 14, orders["DBInstanceArn"], REGION)
    assert there.describe_db_instance_automated_backups(DBInstanceAutomatedBackupsArn=arn)["DBInstanceAutomatedBackups"]
    eventually(lambda: listed(sandbox, orders)[0]["Status"] == "replicating", "the first copy is there")
    shown = sandbox.available("orders")["DBInstanceAutomatedBackupsReplications"]
    assert shown == [{"DBInstanceAutomatedBackupsArn": arn}]
    own = sandbox.rds.describe_db_instance_automated_backups(DbiResourceId=orders["DbiResourceId"])
    assert [REGION] == [one["Region"] for one in own["DBInstanceAutomatedBackups"]]
    grants = sandbox.client("kms", ABROAD).list_grants(KeyId=key)["Grants"]
    assert [f"rds.{ABROAD}.amazonaws.com"] == [grant["GranteePrincipal"] for grant in grants]

    again = {"SourceDBInstanceArn": orders["DBInstanceArn"], "KmsKeyId": key}
    refusal = code_of(there.start_db_instance_automated_backups_replication, **again)
    assert refusal == "InvalidDBInstanceAutomatedBackupState"

    there.stop_db_instance_automated_backups_replication(SourceDBInstanceArn=orders["DBInstanceArn"])

    assert ["retained"] == [one["Status"] for one in listed(sandbox, orders)]
    assert "DBInstanceAutomatedBackupsReplications" not in sandbox.available("orders")
    stop = there.stop_db_instance_automated_backups_replication
    assert code_of(stop, SourceDBInstanceArn=orders["DBInstanceArn"]) == "InvalidDBInstanceState"


def test_refuses_what_cannot_be_replicated(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    there, arn = sandbox.client("rds", ABROAD), orders["DBInstanceArn"]
    start, good = there.start_db_instance_automated_backups_replication, sandbox.key(ABROAD)
    disabled = sandbox.key(ABROAD)
    sandbox.client("kms", ABROAD).disable_key(KeyId=disabled)
    young = sandbox.client("kms", ABROAD).create_key()["KeyMetadata"]["Arn"]
    without = sandbox.create("without", StorageEncrypted=True, KmsKeyId=sandbox.key(), BackupRetentionPeriod=0)

    assert code_of(start, SourceDBInstanceArn=f"{arn}-2", KmsKeyId=good) == "DBInstanceNotFound"
    assert code_of(start, SourceDBInstanceArn=arn, KmsKeyId=sandbox.key()) == "KMSKeyNotAccessibleFault"
    assert code_of(start, SourceDBInstanceArn=arn, KmsKeyId=disabled) == "KMSKeyNotAccessibleFault"
    assert code_of(start, SourceDBInstanceArn=arn, KmsKeyId=young) == "KMSKeyNotAccessibleFault"
    assert code_of(start, SourceDBInstanceArn=arn) == "InvalidParameterCombination"
    assert code_of(start, SourceDBInstanceArn=without["DBInstanceArn"], KmsKeyId=good) == "InvalidDBInstanceState"
    here = sandbox.rds.start_db_instance_automated_backups_replication
    assert code_of(here, SourceDBInstanceArn=arn, KmsKeyId=sandbox.key()) == "InvalidParameterValue"
    sandbox.do("deny", actions=["kms:CreateGrant"])
    try:
        assert code_of(start, SourceDBInstanceArn=arn, KmsKeyId=good) == "KMSKeyNotAccessibleFault"
    finally:
        sandbox.do("deny", actions=[])
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="orders")
    assert code_of(start, SourceDBInstanceArn=arn, KmsKeyId=good) == "InvalidDBInstanceState"
    sandbox.available("orders")
    assert not [one for one in listed(sandbox, orders) if one["Status"] != "retained"]


def test_what_there_is_of_a_deleted_instance_stays_until_it_expires(sandbox: Sandbox) -> None:
    """Under its key, which is needed until then."""
    gone = sandbox.create("gone", StorageEncrypted=True, KmsKeyId=sandbox.key(), BackupRetentionPeriod=1)
    there, key = sandbox.client("rds", ABROAD), sandbox.key(ABROAD)
    there.start_db_instance_automated_backups_replication(
        SourceDBInstanceArn=gone["DBInstanceArn"], KmsKeyId=key, BackupRetentionPeriod=3
    )
    sandbox.available("gone")

    sandbox.rds.delete_db_instance(DBInstanceIdentifier="gone", SkipFinalSnapshot=True, DeleteAutomatedBackups=False)
    sandbox.gone("gone")

    assert [("retained", key)] == [(one["Status"], one["KmsKeyId"]) for one in listed(sandbox, gone)]
    sandbox.jump(days=4)
    assert [] == listed(sandbox, gone)
    assert [] == sandbox.client("kms", ABROAD).list_grants(KeyId=key)["Grants"]
