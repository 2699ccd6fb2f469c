"""Backups in another Region, by RDS's answers of there; moto has none of these calls."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.kms import AwsKms
from lambdas.rotation.aws.replicated_backups import RdsReplicatedBackups
from lambdas.rotation.errors import AwsRefused
from lambdas.rotation.names import our_tags
from lambdas.rotation.state import Database, ReplicatedBackup

ABROAD = "eu-west-1"
ARN = f"arn:aws:rds:{ABROAD}:123456789012:auto-backup:ab-1"
KEY = f"arn:aws:kms:{ABROAD}:123456789012:key/1"
ORDERS = Database(
    identifier="orders", arn="arn:aws:rds:eu-central-1:123456789012:db:orders", resource_id="db-1", engine="postgres",
    engine_version="16.14", address="", port=5432,
)  # fmt: skip
SHOWN = {
    "DBInstanceAutomatedBackupsArn": ARN,
    "DBInstanceArn": ORDERS.arn,
    "DbiResourceId": "db-1",
    "KmsKeyId": KEY,
    "BackupRetentionPeriod": 14,
    "Status": "replicating",
}
READ = "describe_db_instance_automated_backups"
START = "start_db_instance_automated_backups_replication"


@pytest.fixture
def there() -> Iterator[Stubber]:
    """RDS of that Region: who asked another one would find nothing stubbed."""
    with Stubber(client("rds", ABROAD)) as stub:
        yield stub


@pytest.mark.parametrize("status", ["pending", "replicating", "a status of tomorrow"])
def test_what_rds_shows_there(there: Stubber, status: str) -> None:
    """Before the first copy, too: nobody waits for that."""
    answer = {"DBInstanceAutomatedBackups": [SHOWN | {"Status": status}]}
    there.add_response(READ, answer, {"DBInstanceAutomatedBackupsArn": ARN})

    found = RdsReplicatedBackups().at(ARN)

    assert ReplicatedBackup(region=ABROAD, arn=ARN, key_arn=KEY, retention_days=14) == found


@pytest.mark.parametrize(
    "differs",
    [{"Status": "retained"}, {"Status": "deleting"}, {"DBInstanceArn": ORDERS.arn.replace("central", "north")}],
)
def test_what_ended_or_is_somebody_elses_is_none(there: Stubber, differs: dict[str, Any]) -> None:
    """A resource id is unique to a Region only, and RDS begins a replication anew beside what is left of one."""
    there.add_response(READ, {"DBInstanceAutomatedBackups": [SHOWN | differs]}, {"DbiResourceId": "db-1"})
    assert RdsReplicatedBackups().of(ORDERS, ABROAD) is None

    there.add_response(READ, {"DBInstanceAutomatedBackups": [SHOWN | differs, SHOWN]}, {"DbiResourceId": "db-1"})
    assert RdsReplicatedBackups().of(ORDERS, ABROAD) is not None


def test_one_that_is_not_there_is_none(there: Stubber) -> None:
    """RDS shows an empty list, or its error for that: both are an answer."""
    there.add_client_error(READ, "DBInstanceAutomatedBackupNotFound")
    assert RdsReplicatedBackups().at(ARN) is None

    there.add_client_error(READ, "DBInstanceAutomatedBackupNotFound")
    assert RdsReplicatedBackups().of(ORDERS, ABROAD) is None


def test_counts_what_is_replicated_there_and_not_what_is_at_home_there(there: Stubber) -> None:
    at_home = SHOWN | {"DBInstanceArn": ORDERS.arn.replace("eu-central-1", ABROAD)}
    there.add_response(READ, {"DBInstanceAutomatedBackups": [SHOWN, SHOWN | {"Status": "retained"}, at_home]}, {})

    assert 1 == RdsReplicatedBackups().count(ABROAD)


def test_what_cannot_be_read_is_not_taken_for_none(there: Stubber) -> None:
    there.add_client_error(READ, "InvalidParameterValue")

    with pytest.raises(AwsRefused):
        RdsReplicatedBackups().at(ARN)


def test_asks_in_that_region_with_its_key_and_the_retention_of_before(there: Stubber) -> None:
    asked = {"SourceDBInstanceArn": ORDERS.arn, "KmsKeyId": KEY, "BackupRetentionPeriod": 14}
    there.add_response(START, {}, {**asked, "SourceRegion": "eu-central-1"})

    RdsReplicatedBackups().request(ORDERS, ABROAD, KEY, 14)


@pytest.mark.parametrize("code", ["DBInstanceAutomatedBackupQuotaExceeded", "InvalidDBInstanceAutomatedBackupState"])
def test_a_refusal_is_told(there: Stubber, code: str) -> None:
    """Whoever waits has to know why; one that has begun already is seen at the next look."""
    there.add_client_error(START, code)

    with pytest.raises(AwsRefused, match=code):
        RdsReplicatedBackups().request(ORDERS, ABROAD, KEY, 14)


def test_a_key_of_another_region_is_made_there_like_the_one_of_there() -> None:
    """Policy, tags, alias and rotation, by the code that makes the other one; at home nothing changes."""
    kms, alias, ours = client("kms", ABROAD), "alias/rds-rotation/orders/42", our_tags("orders", "42")
    old = str(kms.create_key(Tags=[{"TagKey": "team", "TagValue": "pay"}])["KeyMetadata"]["Arn"])
    kms.enable_key_rotation(KeyId=old)
    before = client("kms").list_keys()["Keys"], client("kms").list_aliases()["Aliases"]
    abroad = AwsKms(ABROAD)

    like = abroad.describe_key(old)
    made = abroad.create_key("orders (5f0e)", ours, like=like, default_policy=False)
    for _ in range(2):
        abroad.complete_key(made, alias, like)

    assert made == abroad.find_key("orders (5f0e)", "42")
    assert ABROAD == made.split(":")[3]
    assert {"team": "pay", **ours} == dict(abroad.describe_key(alias).tags)
    assert kms.get_key_rotation_status(KeyId=made)["KeyRotationEnabled"] is True
    assert before == (client("kms").list_keys()["Keys"], client("kms").list_aliases()["Aliases"])
