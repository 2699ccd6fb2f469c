"""RDS in the Regions that it replicates automated backups to: every call about them is made there."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lambdas.rotation.aws.client import calls, client, pages
from lambdas.rotation.errors import AwsRefused
from lambdas.rotation.names import region_of
from lambdas.rotation.state import Database, ReplicatedBackup

_ENDED = ("retained", "deleting")
"""States of what is left of a replication; RDS begins another one beside it."""


class RdsReplicatedBackups:
    """`ports.ReplicatedBackups`."""

    def at(self, arn: str) -> ReplicatedBackup | None:
        region = region_of(arn)
        found = _shown(region, DBInstanceAutomatedBackupsArn=arn)
        return _first(region, (raw for raw in found if raw.get("DBInstanceAutomatedBackupsArn") == arn))

    def of(self, database: Database, region: str) -> ReplicatedBackup | None:
        found = _shown(region, DbiResourceId=database.resource_id)
        # Compared again here: resource ids are unique to a Region, and instances of this one have some, too.
        return _first(region, (raw for raw in found if raw.get("DBInstanceArn") == database.arn))

    def count(self, region: str) -> int:
        shown = (raw for raw in _shown(region) if region_of(raw["DBInstanceArn"]) != region)
        return sum(raw.get("Status") not in _ENDED for raw in shown)

    def request(self, database: Database, region: str, key_arn: str, retention_days: int) -> None:
        """Repeated where the answer gets lost, and refused then: the next look finds what the first one has begun."""
        with calls("rds:StartDBInstanceAutomatedBackupsReplication"):
            client("rds", region).start_db_instance_automated_backups_replication(
                SourceDBInstanceArn=database.arn,
                KmsKeyId=key_arn,
                BackupRetentionPeriod=retention_days,
                SourceRegion=region_of(database.arn),  # of it the SDK makes what RDS wants in AWS GovCloud only
            )


def _shown(region: str, **by: str) -> Sequence[Mapping[str, Any]]:
    """Whether RDS shows an empty list, or says that there is nothing: its model has an error for the latter."""
    try:
        return list(pages("rds", "describe_db_instance_automated_backups", "DBInstanceAutomatedBackups", region, **by))
    except AwsRefused as refused:
        if refused.code == "DBInstanceAutomatedBackupNotFound":
            return []
        raise


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
