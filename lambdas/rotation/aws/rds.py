"""Amazon RDS: describing instances, and asking for what a rotation needs of them. No SQL here."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from lambdas.rotation import names
from lambdas.rotation.aws import carried_settings, tagged
from lambdas.rotation.aws.client import calls, client, client_that_asks_once, pages, tolerating
from lambdas.rotation.aws.placement import ask_wherever_there_is_room
from lambdas.rotation.aws.tagged import ask_once, refuse_foreign, refuse_to_delete, tag_list, tags_of
from lambdas.rotation.errors import AwsRefused, AwsUnavailable, PromotionFailed, ReplicaKeyRefused
from lambdas.rotation.errors import RetirementRefused as Refused
from lambdas.rotation.ports import ASSOCIATED_ROLES, TAGS, Instance
from lambdas.rotation.state import Database

_KEY_WORDS = ("kms", "encrypt")
_CUT, _MOST_LINES = "[Your log message was truncated]", 10_000
"""RDS gives no more lines of a log at a time, and no more than 1 MB; it says so after the line which that cuts."""
_RESTARTED = "db instance restarted"
"""RDS-EVENT-0006. Other messages may have the word, too, and mean another thing."""
_A_DAY_IN_MINUTES = 24 * 60
"""As long as a write outage may be. What RDS answers to a beginning without an end is not documented."""
_NOT_NOW = ("InvalidDBInstanceState", "InvalidDBSnapshotState")


class AwsRds:
    """`ports.Rds`. Every request describes first, so a repeated one finds what the lost answer was about."""

    # -- instances --

    def describe_instance(self, identifier: str) -> Instance | None:
        try:
            with calls("rds:DescribeDBInstances"):
                found = client("rds").describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"]
        except AwsRefused as refused:
            if refused.code == "DBInstanceNotFound":
                return None
            raise
        return _instance(found[0]) if found else None

    def describe_instance_by_resource_id(self, resource_id: str) -> Instance | None:
        found = pages(
            "rds",
            "describe_db_instances",
            "DBInstances",
            Filters=[{"Name": "dbi-resource-id", "Values": [resource_id]}],
        )
        # Compared again here: an RDS that ignored the filter would lead us to somebody else's database.
        return next((_instance(raw) for raw in found if raw.get("DbiResourceId") == resource_id), None)

    def describe_opted_in(self) -> Sequence[Instance]:
        """One paged call for all instances: RDS has no filter for tags, and its rate limits are not published."""
        instances = (_instance(raw) for raw in pages("rds", "describe_db_instances", "DBInstances"))
        return [instance for instance in instances if instance.tags.get(f"{names.OPT_IN}enabled") == "true"]

    def log_lines(self, identifier: str, words: str, since: datetime) -> Sequence[str]:
        """Lines with these words in them, of the server's logs that were written to since then."""
        files = pages(
            "rds",
            "describe_db_log_files",
            "DescribeDBLogFiles",
            DBInstanceIdentifier=identifier,
            FileLastWritten=int(since.timestamp() * 1000),
        )
        return [line for file in files for line in _log(identifier, file["LogFileName"]) if words in line]

    # -- the target --

    def request_read_replica(
        self,
        source: Instance,
        identifier: str,
        key_arn: str,
        tags: Mapping[str, str],
        *,
        like: Instance | None = None,
    ) -> None:
        """Ask for a replica with every setting of the source that can be given at creation. Does not wait.

        ``like``: the instance whose settings it gets instead. Idempotent: one of that name that carries ``tags`` is
        adopted.

        Raises:
            ReplicaKeyRefused: terminal; RDS does not make this replica under another key. Nothing was created.
            NameTaken: terminal; an instance of that name exists that this rotation did not make.
            AwsUnavailable: retryable; also when the key is so new that RDS does not see it yet.
        """
        like = like or source
        parameters = carried_settings.creation_parameters(like.raw, key_arn) | {
            "DBInstanceIdentifier": identifier,
            "SourceDBInstanceIdentifier": source.database.identifier,
            "KmsKeyId": key_arn,
            "Tags": tag_list(carried_settings.carried_tags(like.tags) | dict(tags)),
        }

        def ask() -> None:
            try:
                ask_wherever_there_is_room(self._create_replica, parameters)
            except AwsRefused as refused:
                if refused.code == "KMSKeyNotAccessible":
                    # A key made a moment ago is not known everywhere at once.
                    raise AwsUnavailable(str(refused)) from refused
                if refused.code.startswith("InvalidParameter") and any(w in str(refused).lower() for w in _KEY_WORDS):
                    raise ReplicaKeyRefused(f"{refused}; choose another strategy (key-rotation:strategy)") from refused
                raise

        ask_once(lambda: self._adopted(identifier, tags), ask, exists="DBInstanceAlreadyExists")

    def _create_replica(self, **parameters: Any) -> None:
        try:
            with calls("rds:CreateDBInstanceReadReplica"):
                client("rds").create_db_instance_read_replica(**parameters)
        except AwsRefused as refused:
            if refused.code != "DBSubnetGroupNotAllowed":
                raise
            # In the same Region RDS places a replica beside its source, and may refuse to be told so where that is
            # named by its identifier (terraform-provider-aws 40426); the comparison sees the result.
            without = {name: value for name, value in parameters.items() if name != "DBSubnetGroupName"}
            with calls("rds:CreateDBInstanceReadReplica"):
                client("rds").create_db_instance_read_replica(**without)

    def request_restore(self, source: Instance, target_identifier: str, snapshot: str, tags: Mapping[str, str]) -> None:
        """Ask for the target of a snapshot, with every setting of the source that can be given then. Does not wait.

        It is under the snapshot's key: the call takes no other (RDS API reference: RestoreDBInstanceFromDBSnapshot).
        Idempotent: a target of that name that carries ``tags`` is adopted.

        Raises:
            NameTaken: terminal; an instance of that name exists that this rotation did not make.
            AwsRefused: terminal; RDS does not make it.
        """
        carried = carried_settings.restoration_parameters(source.raw)
        if source.database.engine.startswith("sqlserver"):
            del carried["MultiAZ"]  # refused where backups are off, which they may be at first; repaired afterwards
        parameters = carried | {
            "DBInstanceIdentifier": target_identifier,
            "DBSnapshotIdentifier": snapshot,
            "Tags": tag_list(carried_settings.carried_tags(source.tags) | dict(tags)),
        }

        @calls("rds:RestoreDBInstanceFromDBSnapshot")
        def ask(**parameters: Any) -> None:
            client("rds").restore_db_instance_from_db_snapshot(**parameters)

        ask_once(
            lambda: self._adopted(target_identifier, tags),
            lambda: ask_wherever_there_is_room(ask, parameters),
            exists="DBInstanceAlreadyExists",
        )

    def request_member(
        self, source: Instance, identifier: str, cluster_identifier: str, key_arn: str, tags: Mapping[str, str]
    ) -> None:
        """Ask for an instance of a cluster, with the settings of another cluster's instance. Does not wait.

        Idempotent: one of that name that carries ``tags`` is adopted. A cluster that takes none now is asked again.

        Raises:
            NameTaken: terminal; an instance of that name exists that this rotation did not make.
            AwsRefused: terminal; RDS does not make it.
        """
        parameters = carried_settings.member_parameters(source.raw, key_arn) | {
            "DBInstanceIdentifier": identifier,
            "DBClusterIdentifier": cluster_identifier,
            "Engine": source.database.engine,
            "Tags": tag_list(carried_settings.carried_tags(source.tags) | dict(tags)),
        }

        @tolerating("InvalidDBClusterState")
        @calls("rds:CreateDBInstance")
        def ask(**parameters: Any) -> None:
            client("rds").create_db_instance(**parameters)

        ask_once(
            lambda: self._adopted(identifier, tags),
            lambda: ask_wherever_there_is_room(ask, parameters),
            exists="DBInstanceAlreadyExists",
        )

    def _adopted(self, identifier: str, tags: Mapping[str, str]) -> bool:
        existing = self.describe_instance(identifier)
        if existing is None:
            return False
        refuse_foreign("database", identifier, existing.tags, tags)
        return True

    def settings_differences(self, source: Instance, target: Instance) -> Mapping[str, tuple[Any, Any]]:
        return carried_settings.differences(source, target, carried_settings.settings_of(source))

    def request_setting_repair(self, source: Instance, target: Instance, differences: Collection[str]) -> Sequence[str]:
        """Ask for what can be repaired, in one ModifyDBInstance applied at once; returns what cannot be.

        An instance that is not ``available`` takes no change: nothing is asked then, and the caller comes again.
        """
        if target.status != "available":
            return ()
        parameters, hopeless = carried_settings.repairs(source, target, differences)
        if parameters:
            self._modify(target.database.identifier, parameters)
        if ASSOCIATED_ROLES in differences:
            self._add_roles(target, carried_settings.missing_roles(source, target))
        if TAGS in differences:
            self.set_tags(target.database.arn, carried_settings.missing_tags(source, target))
        return hopeless

    def _modify(self, identifier: str, parameters: Mapping[str, Any]) -> None:
        # Its status may have changed since it was described: the caller comes again.
        with tolerating(*_NOT_NOW), calls("rds:ModifyDBInstance"):
            client("rds").modify_db_instance(DBInstanceIdentifier=identifier, ApplyImmediately=True, **parameters)

    def _add_roles(self, target: Instance, roles: Sequence[tuple[str, str]]) -> None:
        for arn, feature in roles:
            with tolerating(*_NOT_NOW, "DBInstanceRoleAlreadyExists"), calls("rds:AddRoleToDBInstance"):
                client("rds").add_role_to_db_instance(
                    DBInstanceIdentifier=target.database.identifier, RoleArn=arn, FeatureName=feature
                )

    def last_backup_at(self, resource_id: str) -> datetime | None:
        """When the newest finished automated snapshot of the instance was taken."""
        snapshots = pages(
            "rds", "describe_db_snapshots", "DBSnapshots", DbiResourceId=resource_id, SnapshotType="automated"
        )
        times = [
            snapshot["SnapshotCreateTime"]
            for snapshot in snapshots
            if snapshot.get("DbiResourceId") == resource_id and snapshot.get("Status") == "available"
        ]
        return max(times, default=None)

    def request_promotion(self, target_identifier: str, source: Instance) -> None:
        """Ask RDS to promote the replica, with the source's backups: left out, it would keep them for one day.

        A target that is no replica any more is left as it is. Does not wait.

        Raises:
            PromotionFailed: terminal; RDS refused, or the target is gone. The source is still the truth.
        """
        target = self.describe_instance(target_identifier)
        if target is None:
            raise PromotionFailed(f"{target_identifier} no longer exists")
        if target.replica_of is None:
            return
        window = source.raw.get("PreferredBackupWindow")
        try:
            with calls("rds:PromoteReadReplica"):
                client("rds").promote_read_replica(
                    DBInstanceIdentifier=target_identifier,
                    BackupRetentionPeriod=source.backup_retention_days,
                    **({"PreferredBackupWindow": window} if window else {}),
                )
        except AwsRefused as refused:
            raise PromotionFailed(str(refused)) from refused

    def request_rename(self, instance: Instance, identifier: str) -> None:
        """Ask for another name. Does not wait. One that RDS is at work on, or has a name to come, is left as it is.

        A late repetition renames nothing else: who has the name by then is refused the other one, which is taken.

        Raises:
            AwsRefused: terminal; the name is taken, among others.
        """
        to_come = instance.raw.get("PendingModifiedValues") or {}
        if instance.status == "available" and "DBInstanceIdentifier" not in to_come:
            self._modify(instance.database.identifier, {"NewDBInstanceIdentifier": identifier})

    # -- what an instance is part of --

    def account_quotas(self) -> Mapping[str, tuple[int, int]]:
        with calls("rds:DescribeAccountAttributes"):
            quotas = client("rds").describe_account_attributes()["AccountQuotas"]
        return {quota["AccountQuotaName"]: (int(quota["Used"]), int(quota["Max"])) for quota in quotas}

    def is_orderable(self, engine: str, version: str, instance_class: str) -> bool:
        options = pages(
            "rds",
            "describe_orderable_db_instance_options",
            "OrderableDBInstanceOptions",
            Engine=engine,
            EngineVersion=version,
            DBInstanceClass=instance_class,
        )
        return bool(options)

    def parameters_of(self, group: str) -> Mapping[str, str]:
        found = pages("rds", "describe_db_parameters", "Parameters", DBParameterGroupName=group)
        return {one["ParameterName"]: one["ParameterValue"] for one in found if one.get("ParameterValue") is not None}

    def proxies_of(self, identifier: str) -> Sequence[str]:
        leading: list[str] = []
        for proxy in pages("rds", "describe_db_proxies", "DBProxies"):
            targets = pages("rds", "describe_db_proxy_targets", "Targets", DBProxyName=proxy["DBProxyName"])
            if any(target.get("RdsResourceId") == identifier for target in targets):
                leading.append(proxy["DBProxyName"])
        return leading

    def integrations_of(self, arn: str) -> Sequence[str]:
        # All of the account's: by which filters RDS would look for a source is not documented.
        found = pages("rds", "describe_integrations", "Integrations")
        return [integration["IntegrationName"] for integration in found if integration.get("SourceArn") == arn]

    def pending_maintenance(self, arn: str) -> Sequence[str]:
        found = pages(
            "rds",
            "describe_pending_maintenance_actions",
            "PendingMaintenanceActions",
            Filters=[{"Name": f"db-{'cluster' if ':cluster:' in arn else 'instance'}-id", "Values": [arn]}],
        )
        return [
            f"{action['Action']}: {action.get('Description', '')}".strip(": ")
            for resource in found
            if resource.get("ResourceIdentifier") == arn
            for action in resource.get("PendingMaintenanceActionDetails") or ()
        ]

    def event_subscriptions_of(self, identifier: str) -> Sequence[str]:
        subscriptions = pages("rds", "describe_event_subscriptions", "EventSubscriptionsList")
        return [s["CustSubscriptionId"] for s in subscriptions if identifier in (s.get("SourceIdsList") or ())]

    # -- tags --

    def set_tags(self, arn: str, tags: Mapping[str, str]) -> None:
        tagged.set_tags(arn, tags)

    def remove_tags(self, arn: str, names: Sequence[str]) -> None:
        with calls("rds:RemoveTagsFromResource"):
            client("rds").remove_tags_from_resource(ResourceName=arn, TagKeys=list(names))

    # -- snapshots --

    def describe_snapshot(self, identifier: str) -> Mapping[str, Any] | None:
        try:
            with calls("rds:DescribeDBSnapshots"):
                found = client("rds").describe_db_snapshots(DBSnapshotIdentifier=identifier)["DBSnapshots"]
        except AwsRefused as refused:
            if refused.code == "DBSnapshotNotFound":
                return None
            raise
        snapshot: Mapping[str, Any] | None = found[0] if found else None
        return snapshot

    def snapshots_under(self, key_arn: str, tags: Mapping[str, str]) -> Sequence[str]:
        listed = pages("rds", "describe_db_snapshots", "DBSnapshots", SnapshotType="manual")
        return sorted(
            snapshot["DBSnapshotIdentifier"]
            for snapshot in listed
            if snapshot.get("KmsKeyId") == key_arn and tags.items() <= tags_of(snapshot).items()
        )

    def request_snapshot(self, identifier: str, source_identifier: str, tags: Mapping[str, str]) -> None:
        """Ask for a snapshot, once; one of that name with these tags is adopted. Does not wait."""

        def ask() -> None:
            with tolerating(*_NOT_NOW), calls("rds:CreateDBSnapshot"):
                client("rds").create_db_snapshot(
                    DBSnapshotIdentifier=identifier, DBInstanceIdentifier=source_identifier, Tags=tag_list(tags)
                )

        ask_once(lambda: self._snapshot_adopted(identifier, tags), ask, exists="DBSnapshotAlreadyExists")

    def request_snapshot_copy(self, source: str, copy: str, key_arn: str, tags: Mapping[str, str]) -> None:
        """Ask for a copy under another key, once; one of that name with these tags is adopted. Does not wait."""

        def ask() -> None:
            with tolerating(*_NOT_NOW), calls("rds:CopyDBSnapshot"):
                client("rds").copy_db_snapshot(
                    SourceDBSnapshotIdentifier=source,
                    TargetDBSnapshotIdentifier=copy,
                    KmsKeyId=key_arn,
                    Tags=tag_list(tags),
                    CopyTags=False,
                )

        ask_once(lambda: self._snapshot_adopted(copy, tags), ask, exists="DBSnapshotAlreadyExists")

    def _snapshot_adopted(self, identifier: str, tags: Mapping[str, str]) -> bool:
        existing = self.describe_snapshot(identifier)
        if existing is None:
            return False
        refuse_foreign("snapshot", identifier, tags_of(existing), tags)
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
            raise Refused(f"snapshot {identifier} was not made by a rotation")
        with tolerating(*_NOT_NOW, "DBSnapshotNotFound"), calls("rds:DeleteDBSnapshot"):
            client_that_asks_once("rds").delete_db_snapshot(DBSnapshotIdentifier=identifier)

    # -- the network fence --

    def options_with_groups(self, option_group: str) -> Sequence[str]:
        """Oracle's SSL and OEM, say, are let in by groups of their own (RDS User Guide: controlling access).

        RDS's own option groups are empty, and nobody can change them (RDS User Guide: working with option groups).
        """
        if option_group.startswith("default:"):
            return []
        found = pages("rds", "describe_option_groups", "OptionGroupsList", OptionGroupName=option_group)
        options = [option for group in found for option in group.get("Options") or ()]
        return [option["OptionName"] for option in options if option.get("VpcSecurityGroupMemberships")]

    def request_security_groups(self, identifier: str, groups: Sequence[str]) -> None:
        """They are not deferred; ``ApplyImmediately`` would do what is (RDS User Guide: settings for DB instances)."""
        with tolerating(*_NOT_NOW), calls("rds:ModifyDBInstance"):
            client("rds").modify_db_instance(DBInstanceIdentifier=identifier, VpcSecurityGroupIds=list(groups))

    def request_reboot(self, identifier: str) -> bool:
        """Without a failover, which ends a server abruptly (RDS User Guide: rebooting a DB instance)."""
        with tolerating(*_NOT_NOW, "DBInstanceNotFound"), calls("rds:RebootDBInstance"):
            client("rds").reboot_db_instance(DBInstanceIdentifier=identifier)
            return True
        return False

    def restarted_at(self, identifier: str, since: datetime) -> datetime | None:
        """By RDS's events, which carry no number: by the words of RDS-EVENT-0006 (RDS User Guide: event messages).

        RDS does its best to tell of everything, and promises nothing.
        """
        events = pages(
            "rds",
            "describe_events",
            "Events",
            SourceIdentifier=identifier,
            SourceType="db-instance",
            Duration=_A_DAY_IN_MINUTES,
            EventCategories=["availability"],
        )
        times = [event["Date"] for event in events if _words_of(event) == _RESTARTED]
        return max((moment for moment in times if moment > since), default=None)

    # -- the end of an instance --

    def disable_deletion_protection(self, identifier: str) -> None:
        instance = self.describe_instance(identifier)
        if instance is not None and instance.deletion_protection:
            self._modify(identifier, {"DeletionProtection": False})

    def request_instance_deletion(self, of: Database, *, keep_automated_backups: bool) -> None:
        """Ask for the deletion without a final snapshot, which would hold the old key. Does not wait; repeatable.

        An instance in a state that does not allow it is left for the next visit.

        Raises:
            RetirementRefused: terminal; the instance is another one by now, or neither made by a rotation nor marked
                for removal by one.
        """
        instance = self.describe_instance(of.identifier)
        if instance is None or instance.status == "deleting":
            return
        refuse_to_delete(of, instance)
        with tolerating(*_NOT_NOW, "DBInstanceNotFound"), calls("rds:DeleteDBInstance"):
            client("rds").delete_db_instance(
                DBInstanceIdentifier=of.identifier,
                SkipFinalSnapshot=True,
                DeleteAutomatedBackups=not keep_automated_backups,
            )


def _words_of(event: Mapping[str, Any]) -> str:
    """Of its message, as the guide writes it in one place and another.

    >>> _words_of({"Message": "The DB instance restarted."})
    'db instance restarted'
    """
    return str(event.get("Message", "")).strip().lower().removeprefix("the ").removesuffix(".")


def _log(identifier: str, name: str) -> Iterator[str]:
    """The whole lines of one file.

    Of a line that RDS has cut the rest is not sure to come with the next portion, so the same one is asked for again
    without that line. What is cut all the same has more than 1 MB, and is left out.
    """
    marker, lines, rest = "0", _MOST_LINES, ""
    while True:
        try:
            with calls("rds:DownloadDBLogFilePortion"):
                portion = client("rds").download_db_log_file_portion(
                    DBInstanceIdentifier=identifier, LogFileName=name, Marker=marker, NumberOfLines=lines
                )
        except AwsRefused as refused:
            if refused.code == "DBLogFileNotFound":
                return  # since they were listed; RDS removes the oldest
            raise
        text = portion.get("LogFileData") or ""
        if text.rstrip().endswith(_CUT):
            whole = text.rstrip().removesuffix(_CUT).rstrip(" ").removesuffix("\n").count("\n")
            if 0 < whole < lines:
                lines = whole
                continue
            text = rest = ""
        *complete, rest = (rest + text).split("\n")
        yield from complete
        if not portion.get("AdditionalDataPending"):
            return  # what has no end yet is not all of a line
        marker, lines = portion["Marker"], _MOST_LINES


def _instance(raw: Mapping[str, Any]) -> Instance:
    endpoint = raw.get("Endpoint") or {}
    infos = raw.get("StatusInfos") or []
    replication = [info for info in infos if info.get("StatusType") == "read replication"]
    return Instance(
        database=Database(
            identifier=raw["DBInstanceIdentifier"],
            arn=raw["DBInstanceArn"],
            resource_id=raw["DbiResourceId"],
            engine=raw["Engine"],
            engine_version=raw["EngineVersion"],
            address=endpoint.get("Address") or "",  # RDS gives the endpoint only some time into the creation
            port=int(endpoint.get("Port") or raw.get("DbInstancePort") or 0),
            kms_key_arn=raw.get("KmsKeyId") or None,
            vpc_id=(raw.get("DBSubnetGroup") or {}).get("VpcId"),
        ),
        status=raw.get("DBInstanceStatus") or "",
        tags=tags_of(raw),
        storage_encrypted=bool(raw.get("StorageEncrypted")),
        backup_retention_days=int(raw.get("BackupRetentionPeriod") or 0),
        deletion_protection=bool(raw.get("DeletionProtection")),
        replica_of=raw.get("ReadReplicaSourceDBInstanceIdentifier") or None,
        replication_normal=bool(replication) and all(info.get("Normal") for info in replication),
        has_status_infos=bool(infos),
        raw=raw,
    )
