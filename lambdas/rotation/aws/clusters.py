"""Amazon Aurora's clusters: what `rds.py` is for instances, as far as a rotation by blue/green needs it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lambdas.rotation import names
from lambdas.rotation.aws.client import calls, client, pages
from lambdas.rotation.aws.tagged import refuse_foreign, tag_list, tags_of
from lambdas.rotation.errors import AwsRefused, RetirementRefused
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Database

_NOT_NOW = frozenset({"InvalidDBClusterState", "InvalidDBClusterSnapshotState"})

SETTINGS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "engine version": lambda raw: raw.get("EngineVersion"),
    "port": lambda raw: raw.get("Port"),
    "backup retention": lambda raw: raw.get("BackupRetentionPeriod"),
    "backup window": lambda raw: raw.get("PreferredBackupWindow"),
    "maintenance window": lambda raw: raw.get("PreferredMaintenanceWindow"),
    "parameter group": lambda raw: raw.get("DBClusterParameterGroup"),
    "subnet group": lambda raw: raw.get("DBSubnetGroup"),
    "security groups": lambda raw: sorted(one["VpcSecurityGroupId"] for one in raw.get("VpcSecurityGroups") or ()),
    "deletion protection": lambda raw: bool(raw.get("DeletionProtection")),
    "IAM authentication": lambda raw: bool(raw.get("IAMDatabaseAuthenticationEnabled")),
    "log exports": lambda raw: sorted(raw.get("EnabledCloudwatchLogsExports") or ()),
    "copy tags to snapshots": lambda raw: bool(raw.get("CopyTagsToSnapshot")),
    "storage type": lambda raw: raw.get("StorageType"),
    "serverless capacity": lambda raw: raw.get("ServerlessV2ScalingConfiguration"),
}
"""By the names of DescribeDBClusters. RDS gives green all of them but the roles; what is not so ends the rotation."""


class AwsClusters:
    """`ports.Clusters`. Every request describes first, so a repeated one finds what the lost answer was about."""

    def describe(self, identifier: str) -> Instance | None:
        try:
            with calls("rds:DescribeDBClusters"):
                found = client("rds").describe_db_clusters(DBClusterIdentifier=identifier)["DBClusters"]
        except AwsRefused as refused:
            if refused.code == "DBClusterNotFound":
                return None
            raise
        return _cluster(found[0]) if found else None

    def describe_by_resource_id(self, resource_id: str) -> Instance | None:
        found = pages(
            "rds",
            "describe_db_clusters",
            "DBClusters",
            Filters=[{"Name": "db-cluster-resource-id", "Values": [resource_id]}],
        )
        # Compared again here: an RDS that ignored the filter would lead us to somebody else's database.
        return next((_cluster(raw) for raw in found if raw.get("DbClusterResourceId") == resource_id), None)

    def describe_opted_in(self) -> Sequence[Instance]:
        clusters = (_cluster(raw) for raw in pages("rds", "describe_db_clusters", "DBClusters"))
        return [cluster for cluster in clusters if cluster.tags.get(f"{names.OPT_IN}enabled") == "true"]

    def settings_differences(self, source: Instance, target: Instance) -> Mapping[str, tuple[Any, Any]]:
        pairs = {name: (seen(source.raw), seen(target.raw)) for name, seen in SETTINGS.items()}
        return {name: sides for name, sides in pairs.items() if sides[0] != sides[1]}

    def request_missing_roles(self, source: Instance, target: Instance) -> Sequence[str]:
        """Ask for the associated roles that the target lacks, and name them: RDS does not copy them. Repeatable."""
        missing = sorted(_roles(source) - _roles(target))
        for arn, feature in missing:
            try:
                with calls("rds:AddRoleToDBCluster"):
                    client("rds").add_role_to_db_cluster(
                        DBClusterIdentifier=target.database.identifier, RoleArn=arn, FeatureName=feature
                    )
            except AwsRefused as refused:
                if refused.code not in _NOT_NOW | {"DBClusterRoleAlreadyExists"}:
                    raise
        return [f"{feature} by {arn}" for arn, feature in missing]

    def parameter(self, group: str, name: str) -> str | None:
        found = pages("rds", "describe_db_cluster_parameters", "Parameters", DBClusterParameterGroupName=group)
        return next((one.get("ParameterValue") for one in found if one.get("ParameterName") == name), None)

    # -- snapshots --

    def describe_snapshot(self, identifier: str) -> Mapping[str, Any] | None:
        try:
            with calls("rds:DescribeDBClusterSnapshots"):
                found = client("rds").describe_db_cluster_snapshots(DBClusterSnapshotIdentifier=identifier)
        except AwsRefused as refused:
            if refused.code == "DBClusterSnapshotNotFound":
                return None
            raise
        snapshot: Mapping[str, Any] | None = next(iter(found["DBClusterSnapshots"]), None)
        return snapshot

    def snapshots_under(self, key_arn: str, tags: Mapping[str, str]) -> Sequence[str]:
        listed = pages("rds", "describe_db_cluster_snapshots", "DBClusterSnapshots", SnapshotType="manual")
        return sorted(
            snapshot["DBClusterSnapshotIdentifier"]
            for snapshot in listed
            if snapshot.get("KmsKeyId") == key_arn and tags.items() <= tags_of(snapshot).items()
        )

    def request_snapshot(self, identifier: str, source_identifier: str, tags: Mapping[str, str]) -> None:
        """Ask for a snapshot, once; one of that name with these tags is adopted. Does not wait."""
        if self._adopted(identifier, tags):
            return
        try:
            with calls("rds:CreateDBClusterSnapshot"):
                client("rds").create_db_cluster_snapshot(
                    DBClusterSnapshotIdentifier=identifier, DBClusterIdentifier=source_identifier, Tags=tag_list(tags)
                )
        except AwsRefused as refused:
            self._settle(refused, identifier, tags)

    def request_snapshot_copy(self, source: str, copy: str, key_arn: str, tags: Mapping[str, str]) -> None:
        """Ask for a copy under another key, once; one of that name with these tags is adopted. Does not wait."""
        if self._adopted(copy, tags):
            return
        try:
            with calls("rds:CopyDBClusterSnapshot"):
                client("rds").copy_db_cluster_snapshot(
                    SourceDBClusterSnapshotIdentifier=source,
                    TargetDBClusterSnapshotIdentifier=copy,
                    KmsKeyId=key_arn,
                    Tags=tag_list(tags),
                    CopyTags=False,
                )
        except AwsRefused as refused:
            self._settle(refused, copy, tags)

    def _settle(self, refused: AwsRefused, identifier: str, tags: Mapping[str, str]) -> None:
        if refused.code in _NOT_NOW:
            return
        if refused.code == "DBClusterSnapshotAlreadyExists" and self._adopted(identifier, tags):
            return
        raise refused

    def _adopted(self, identifier: str, tags: Mapping[str, str]) -> bool:
        existing = self.describe_snapshot(identifier)
        if existing is None:
            return False
        refuse_foreign("cluster snapshot", identifier, tags_of(existing), tags)
        return True

    def request_snapshot_deletion(self, identifier: str) -> None:
        """Delete a snapshot that a rotation made; an absent one is deleted.

        Raises:
            RetirementRefused: terminal; no rotation made it.
        """
        existing = self.describe_snapshot(identifier)
        if existing is None or existing.get("Status") == "deleting":
            return
        if names.ROTATION_ID_TAG not in tags_of(existing):
            raise RetirementRefused(f"cluster snapshot {identifier} was not made by a rotation")
        try:
            with calls("rds:DeleteDBClusterSnapshot"):
                client("rds").delete_db_cluster_snapshot(DBClusterSnapshotIdentifier=identifier)
        except AwsRefused as refused:
            if refused.code not in _NOT_NOW | {"DBClusterSnapshotNotFound"}:
                raise

    # -- the end of a cluster --

    def disable_deletion_protection(self, identifier: str) -> None:
        cluster = self.describe(identifier)
        if cluster is None or not cluster.deletion_protection:
            return
        try:
            with calls("rds:ModifyDBCluster"):
                client("rds").modify_db_cluster(
                    DBClusterIdentifier=identifier, DeletionProtection=False, ApplyImmediately=True
                )
        except AwsRefused as refused:
            if refused.code not in _NOT_NOW:
                raise

    def request_deletion(self, identifier: str, *, keep_automated_backups: bool) -> None:
        """Ask for the deletion without a final snapshot, which would hold the old key. Does not wait; repeatable.

        A cluster that has instances, or is in a state that does not allow it, is left for the next visit.

        Raises:
            RetirementRefused: terminal; the cluster is neither made by a rotation nor marked for removal by one.
        """
        cluster = self.describe(identifier)
        if cluster is None or cluster.status == "deleting":
            return
        if not {names.ROTATION_ID_TAG, names.DECOMMISSION_TAG} & set(cluster.tags):
            raise RetirementRefused(f"{identifier} was neither made by a rotation nor marked for removal by one")
        try:
            with calls("rds:DeleteDBCluster"):
                client("rds").delete_db_cluster(
                    DBClusterIdentifier=identifier,
                    SkipFinalSnapshot=True,
                    DeleteAutomatedBackups=not keep_automated_backups,
                )
        except AwsRefused as refused:
            if refused.code not in _NOT_NOW | {"DBClusterNotFound"}:
                raise


def _roles(cluster: Instance) -> set[tuple[str, str]]:
    return {(one["RoleArn"], one.get("FeatureName") or "") for one in cluster.raw.get("AssociatedRoles") or ()}


def _cluster(raw: Mapping[str, Any]) -> Instance:
    return Instance(
        database=Database(
            identifier=raw["DBClusterIdentifier"],
            arn=raw["DBClusterArn"],
            resource_id=raw["DbClusterResourceId"],
            engine=raw["Engine"],
            engine_version=raw["EngineVersion"],
            address=raw.get("Endpoint") or "",
            port=int(raw.get("Port") or 0),
            kms_key_arn=raw.get("KmsKeyId") or None,
        ),
        status=raw.get("Status") or "",
        tags=tags_of(raw),
        storage_encrypted=bool(raw.get("StorageEncrypted")),
        backup_retention_days=int(raw.get("BackupRetentionPeriod") or 0),
        deletion_protection=bool(raw.get("DeletionProtection")),
        replica_of=raw.get("ReplicationSourceIdentifier") or None,
        replication_normal=False,
        has_status_infos=False,
        raw=raw,
    )
