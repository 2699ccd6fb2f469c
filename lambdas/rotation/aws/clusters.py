"""Clusters, Aurora's and Multi-AZ DB clusters: what `rds.py` is for instances."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lambdas.rotation import names
from lambdas.rotation.aws import carried_settings
from lambdas.rotation.aws.carried_cluster_settings import settings_of
from lambdas.rotation.aws.client import calls, client, client_that_asks_once, pages, tolerating
from lambdas.rotation.aws.placement import ask_wherever_there_is_room
from lambdas.rotation.aws.tagged import ask_once, refuse_foreign, refuse_to_delete, set_tags, tag_list, tags_of
from lambdas.rotation.errors import AwsRefused, RetirementRefused
from lambdas.rotation.ports import ASSOCIATED_ROLES, TAGS, Instance
from lambdas.rotation.state import Database

_NOT_NOW = ("InvalidDBClusterState", "InvalidDBClusterSnapshotState", "InvalidDBInstanceState")
_EXISTS = "DBClusterSnapshotAlreadyExists"


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

    # -- the target --

    def request_restore(
        self, source: Instance, target_identifier: str, snapshot: str, key_arn: str, tags: Mapping[str, str]
    ) -> None:
        """Ask for a cluster of a snapshot, under this key, with the source's settings. Aurora's has no instance yet.

        Idempotent: a cluster of that name that carries ``tags`` is adopted. Does not wait.

        Raises:
            NameTaken: terminal; a cluster of that name exists that this rotation did not make.
            AwsRefused: terminal; RDS does not make it.
        """
        parameters = carried_settings.restoration_parameters(source.raw, settings_of(source)) | {
            "DBClusterIdentifier": target_identifier,
            "SnapshotIdentifier": snapshot,
            "Engine": source.database.engine,
            "KmsKeyId": key_arn,
            "Tags": tag_list(carried_settings.carried_tags(source.tags) | dict(tags)),
        }

        def adopted() -> bool:
            existing = self.describe(target_identifier)
            if existing is not None:
                refuse_foreign("cluster", target_identifier, existing.tags, tags)
            return existing is not None

        @calls("rds:RestoreDBClusterFromSnapshot")
        def ask(**parameters: Any) -> None:
            client("rds").restore_db_cluster_from_snapshot(**parameters)

        ask_once(adopted, lambda: ask_wherever_there_is_room(ask, parameters), exists="DBClusterAlreadyExists")

    def settings_differences(self, source: Instance, target: Instance) -> Mapping[str, tuple[Any, Any]]:
        return carried_settings.differences(source, target, settings_of(source))

    def request_setting_repair(self, source: Instance, target: Instance, differences: Collection[str]) -> Sequence[str]:
        """Ask for what can be repaired, in one ModifyDBCluster applied at once; returns what cannot be.

        A cluster that is not ``available`` takes no change: nothing is asked then, and the caller comes again.
        """
        if target.status != "available":
            return ()
        identifier = target.database.identifier
        parameters, hopeless = carried_settings.repairs(source, target, differences, settings_of(source))
        if parameters:
            with tolerating(*_NOT_NOW), calls("rds:ModifyDBCluster"):
                client("rds").modify_db_cluster(DBClusterIdentifier=identifier, ApplyImmediately=True, **parameters)
        if ASSOCIATED_ROLES in differences:
            self.request_missing_roles(source, target)
        if TAGS in differences:
            set_tags(target.database.arn, carried_settings.missing_tags(source, target))
        return hopeless

    def request_missing_roles(self, source: Instance, target: Instance) -> None:
        for arn, feature in carried_settings.missing_roles(source, target):
            with tolerating(*_NOT_NOW, "DBClusterRoleAlreadyExists"), calls("rds:AddRoleToDBCluster"):
                client("rds").add_role_to_db_cluster(
                    DBClusterIdentifier=target.database.identifier,
                    RoleArn=arn,
                    **carried_settings.when(feature, FeatureName=feature),
                )

    def parameters_of(self, group: str) -> Mapping[str, str]:
        found = pages("rds", "describe_db_cluster_parameters", "Parameters", DBClusterParameterGroupName=group)
        return {one["ParameterName"]: one["ParameterValue"] for one in found if one.get("ParameterValue") is not None}

    # -- the network fence --

    def request_security_groups(self, identifier: str, groups: Sequence[str]) -> None:
        """At once: whether they would wait for the maintenance window, the API reference leaves open (ModifyDBCluster).

        A cluster that other changes wait for is not rotated (``ChangesPending``).
        """
        with tolerating(*_NOT_NOW), calls("rds:ModifyDBCluster"):
            client("rds").modify_db_cluster(
                DBClusterIdentifier=identifier, VpcSecurityGroupIds=list(groups), ApplyImmediately=True
            )

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

        def ask() -> None:
            with tolerating(*_NOT_NOW), calls("rds:CreateDBClusterSnapshot"):
                client("rds").create_db_cluster_snapshot(
                    DBClusterSnapshotIdentifier=identifier, DBClusterIdentifier=source_identifier, Tags=tag_list(tags)
                )

        ask_once(lambda: self._adopted(identifier, tags), ask, exists=_EXISTS)

    def request_snapshot_copy(self, source: str, copy: str, key_arn: str, tags: Mapping[str, str]) -> None:
        """Ask for a copy under another key, once; one of that name with these tags is adopted. Does not wait."""

        def ask() -> None:
            with tolerating(*_NOT_NOW), calls("rds:CopyDBClusterSnapshot"):
                client("rds").copy_db_cluster_snapshot(
                    SourceDBClusterSnapshotIdentifier=source,
                    TargetDBClusterSnapshotIdentifier=copy,
                    KmsKeyId=key_arn,
                    Tags=tag_list(tags),
                    CopyTags=False,
                )

        ask_once(lambda: self._adopted(copy, tags), ask, exists=_EXISTS)

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
        with tolerating(*_NOT_NOW, "DBClusterSnapshotNotFound"), calls("rds:DeleteDBClusterSnapshot"):
            client_that_asks_once("rds").delete_db_cluster_snapshot(DBClusterSnapshotIdentifier=identifier)

    # -- the end of a cluster --

    def disable_deletion_protection(self, identifier: str) -> None:
        cluster = self.describe(identifier)
        if cluster is None or not cluster.deletion_protection:
            return
        with tolerating(*_NOT_NOW), calls("rds:ModifyDBCluster"):
            client("rds").modify_db_cluster(
                DBClusterIdentifier=identifier, DeletionProtection=False, ApplyImmediately=True
            )

    def request_deletion(self, of: Database, *, keep_automated_backups: bool) -> None:
        """Ask for the deletion without a final snapshot, which would hold the old key. Does not wait; repeatable.

        A cluster that has instances, or is in a state that does not allow it, is left for the next visit.

        Raises:
            RetirementRefused: terminal; the cluster is another one by now, or neither made by a rotation nor marked
                for removal by one.
        """
        cluster = self.describe(of.identifier)
        if cluster is None or cluster.status == "deleting":
            return
        refuse_to_delete(of, cluster)
        with tolerating(*_NOT_NOW, "DBClusterNotFound"), calls("rds:DeleteDBCluster"):
            client("rds").delete_db_cluster(
                DBClusterIdentifier=of.identifier,
                SkipFinalSnapshot=True,
                DeleteAutomatedBackups=not keep_automated_backups,
            )


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
