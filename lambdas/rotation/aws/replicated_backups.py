"""RDS in the Regions that it replicates automated backups to: every call about them is made there."""

from collections.abc import Iterable, Mapping
from typing import Any

from lambdas.rotation.aws.client import calls, client, pages, tolerating
from lambdas.rotation.errors import AwsRefused
from lambdas.rotation.names import region_of
from lambdas.rotation.state import Database, ReplicatedBackup

_ENDED = ("retained", "deleting")
"""States of what is left of a replication; RDS begins another one beside it."""


class RdsReplicatedBackups:
    """`ports.ReplicatedBackups`."""

    def at(self, arn: str) -> ReplicatedBackup | None:
        region = region_of(arn)
        try:
            found = pages(
                "rds",
                "describe_db_instance_automated_backups",
                "DBInstanceAutomatedBackups",
                region,
                DBInstanceAutomatedBackupsArn=arn,
            )
        except AwsRefused as refused:
            if refused.code == "DBInstanceAutomatedBackupNotFound":
                return None
            raise
        return _first(region, (raw for raw in found if raw.get("DBInstanceAutomatedBackupsArn") == arn))

    def of(self, database: Database, region: str) -> ReplicatedBackup | None:
        found = pages(
            "rds",
            "describe_db_instance_automated_backups",
            "DBInstanceAutomatedBackups",
            region,
            DbiResourceId=database.resource_id,
        )
        # Compared again here: resource ids are unique to a Region, and instances of this one have some, too.
        return _first(region, (raw for raw in found if raw.get("DBInstanceArn") == database.arn))

    def request(self, database: Database, region: str, key_arn: str, retention_days: int) -> None:
        """Once: where the answer gets lost, the next request finds the replication that the first one has begun."""
        with (
            tolerating("InvalidDBInstanceAutomatedBackupState"),
            calls("rds:StartDBInstanceAutomatedBackupsReplication"),
        ):
            client("rds", region).start_db_instance_automated_backups_replication(
                SourceDBInstanceArn=database.arn,
                KmsKeyId=key_arn,
                BackupRetentionPeriod=retention_days,
                SourceRegion=region_of(database.arn),  # of it the SDK makes what RDS wants in AWS GovCloud only
            )


def _first(region: str, found: Iterable[Mapping[str, Any]]) -> ReplicatedBackup | None:
    for raw in found:
        if raw.get("Status") not in _ENDED:
            return ReplicatedBackup(
                region=region,
                arn=raw["DBInstanceAutomatedBackupsArn"],
                key_arn=raw.get("KmsKeyId"),
                retention_days=int(raw["BackupRetentionPeriod"]),
            )
    return None
