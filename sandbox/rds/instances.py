"""Instances: create, replicate, restore, promote, modify, rename, reboot, stop, delete."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable

from moto.core.parse import XFormedDict
from moto.rds.models import MasterUserSecret

from sandbox.rds import storage
from sandbox.rds.backups import Backups
from sandbox.rds.engines import Kind
from sandbox.rds.errors import (
    instance_exists,
    invalid_combination,
    invalid_instance_state,
    invalid_snapshot_state,
    invalid_value,
    refuse,
)
from sandbox.rds.logs import Logs
from sandbox.rds.operations import Params
from sandbox.rds.resources import Instance, Operated, Snapshot, View
from sandbox.rds.servers import Server
from sandbox.rds.settings import check_master_password, check_password, retention_of, tags_of

REPLICAS_PER_SOURCE = 15
# Settings that ModifyDBInstance changes at once, whatever ApplyImmediately says.
AT_ONCE = (
    "AutoMinorVersionUpgrade", "CopyTagsToSnapshot", "DeletionProtection", "MaxAllocatedStorage",
    "PreferredBackupWindow", "PreferredMaintenanceWindow", "PubliclyAccessible", "DatabaseInsightsMode",
    "PerformanceInsightsRetentionPeriod", "EngineLifecycleSupport", "MonitoringInterval", "MonitoringRoleArn",
)  # fmt: skip
# ... and those that wait for the maintenance window unless ApplyImmediately.
DEFERRABLE = (
    "AllocatedStorage", "BackupRetentionPeriod", "CACertificateIdentifier", "DBInstanceClass", "Iops", "MultiAZ",
    "StorageThroughput", "StorageType", "LicenseModel",
)  # fmt: skip


class Instances(Backups, Logs):
    """The life of an instance."""

    def create_db_instance(self, params: Params) -> Instance:
        # CloudFormation passes a plain dictionary with names of another style; this one knows both.
        params = params if isinstance(params, XFormedDict) else XFormedDict(dict(params))
        for required in ("DBInstanceClass", "Engine"):
            if not params.get(required):
                raise refuse("MissingParameter", f"The request must contain the parameter {required}.")
        with self.lock:
            name = self._new_name(params["DBInstanceIdentifier"])
            kind = self._kind(params["Engine"], params.get("EngineVersion"))
            if kind.is_auroras:
                raise invalid_combination(f"{kind.name} DB instances are members of a cluster: name it.")
            chosen = self._chosen(params, kind)
            settings = {**self._defaults(name, kind, chosen), **chosen}
            settings["AllocatedStorage"] = self._storage(params)
            storage.check(chosen, settings)
            settings["DBName"] = self._database(params, kind)
            settings["MasterUsername"] = user = self._master_user(params, kind)
            check_master_password(params)
            instance = Instance(self, name, settings, tags_of(params), self._key_of_new(params))
            password = self._master_password(instance, params)
            self._enter(instance)

        def make() -> Server:
            return self.engines.servers(kind.name).create(
                self._server_name(), master_user=user, master_password=password, database=settings["DBName"]
            )

        self._operate(instance, lambda: self._build(instance, make, self.durations.create))
        return instance

    def _key_of_new(self, params: Params) -> str | None:
        if params.get("KmsKeyId") and not params.get("StorageEncrypted"):
            raise invalid_combination("KmsKeyId requires StorageEncrypted.")
        return self.keys.accept(params.get("KmsKeyId")) if params.get("StorageEncrypted") else None

    def _master_user(self, params: Params, kind: Kind) -> str:
        user = str(params.get("MasterUsername") or "")
        if not user:
            raise invalid_value("The parameter MasterUsername must be provided and must not be blank.")
        if user.lower() in kind.reserved_masters:
            raise invalid_value(f"MasterUsername {user} cannot be used as it is a reserved word used by the engine")
        return user

    def _master_password(self, owner: Operated, params: Params) -> str:
        if params.get("ManageMasterUserPassword"):
            return self._manage_password(owner, params.get("MasterUserSecretKmsKeyId"))
        return str(params["MasterUserPassword"])

    def create_db_instance_read_replica(self, params: Params) -> Instance:
        with self.lock:
            if not params.get("SourceDBInstanceIdentifier"):
                raise invalid_value("The parameter SourceDBInstanceIdentifier must be provided.")
            source = self.instance(params["SourceDBInstanceIdentifier"])
            name = self._new_name(params["DBInstanceIdentifier"])
            if not self._kind(source.engine).has_read_replicas:
                # Of Oracle and SQL Server the enterprise editions have some. RDS's words and code are not known; those
                # of Db2, which has some, are of a kind that the sandbox does not.
                raise invalid_combination(f"Read replicas are not supported for engine {source.engine}.")
            if params.get("DBParameterGroupName"):
                # Those of MySQL in another Region, of Db2, of Oracle, and of a Multi-AZ DB cluster may have one of
                # their own; the sandbox makes none of these.
                raise invalid_combination(
                    "A parameter group can't be specified during Read Replica creation for the following DB engine: "
                    f"{source.engine}"
                )
            if params.get("DatabaseInsightsMode"):  # how RDS refuses what it does not support is not known
                raise invalid_combination("DatabaseInsightsMode isn't supported for a read replica.")
            self._must_be_available(source, "create a read replica of")
            if not source.retention_days:
                raise invalid_instance_state(
                    "Automated backups are not enabled for this database instance. To enable automated backups, use "
                    "ModifyDBInstance to set the backup retention period to a non-zero value."
                )
            if source.backups_since is None:
                raise invalid_instance_state(f"DB instance {source.name} has no backup yet.")
            if source.master_secret:
                raise invalid_combination(
                    "You can't create a read replica of a DB instance whose master password is managed by RDS in "
                    "AWS Secrets Manager."
                )
            if len(source.replicas) >= REPLICAS_PER_SOURCE:
                raise invalid_instance_state(f"DB instance {source.name} has {REPLICAS_PER_SOURCE} read replicas.")
            if source.kms_key_id is None:
                if params.get("KmsKeyId"):
                    raise invalid_combination(
                        "You cannot create an encrypted Read Replica from an unencrypted DB instance."
                    )
                key = None
            else:
                # A replica without KmsKeyId has its source's key, and the caller must be allowed to use that.
                key = self.keys.accept(params.get("KmsKeyId") or source.kms_key_id)
            kind = self._kind(source.engine)
            inherited = (
                "AllocatedStorage", "AutoMinorVersionUpgrade", "DBInstanceClass", "DBName", "EngineVersion", "Iops",
                "LicenseModel", "MasterUsername", "OptionGroup", "ParameterGroup", "Port", "StorageThroughput",
                "StorageType", "SubnetGroup",
            )  # fmt: skip
            chosen = self._chosen(params, kind, source.settings["SubnetGroup"])
            settings = {
                **self._defaults(name, kind, {"SubnetGroup": source.settings["SubnetGroup"], **chosen}),
                **{member: source.settings[member] for member in inherited if member in source.settings},
                **chosen,
                # The API has no member for it. Whoever wants backups of the replica asks for them afterwards.
                "BackupRetentionPeriod": 0,
            }
            storage.check(chosen, settings)
            instance = Instance(self, name, settings, tags_of(params), key)
            instance.source = source
            source.replicas.append(instance)
            self._enter(instance)

        def make() -> Server:
            # One at a time: the checkpoint that a second copy begins with takes away what the first still has to read.
            with source.server_lock:
                assert source.server
                return self.engines.servers(kind.name).replicate(self._server_name(), source.server)

        self._operate(instance, lambda: self._build(instance, make, self.durations.replica))
        return instance

    def restore_db_instance_from_db_snapshot(self, from_snapshot_id: str, params: Params) -> Instance:
        with self.lock:
            name = self._new_name(params["DBInstanceIdentifier"])
            snapshot = self.snapshot(from_snapshot_id)
            if snapshot.status != "available":
                raise invalid_snapshot_state(f"Snapshot {snapshot.name} is not available: {snapshot.status}.")
            key = self.keys.accept(snapshot.key) if snapshot.key else None
            kind = self._kind(snapshot.settings["Engine"])
            assert snapshot.data
            data = snapshot.data.share()
            kept = (
                "AllocatedStorage", "DBName", "EngineVersion", "LicenseModel", "MasterUsername", "Port",
                "DBInstanceClass", "BackupRetentionPeriod", "PreferredBackupWindow",
            )  # fmt: skip
            asked = self._chosen(params, kind)
            chosen = {**{member: snapshot.settings[member] for member in kept if member in snapshot.settings}, **asked}
            settings = {**self._defaults(name, kind, chosen), **chosen}
            storage.check(asked, settings)
            if settings["AllocatedStorage"] < snapshot.settings["AllocatedStorage"]:
                raise invalid_value("The allocated storage size can't be less than the source snapshot or backup size.")
            tags = tags_of(params) if params.get("Tags") else list(snapshot.tags)
            instance = Instance(self, name, settings, tags, key)
            instance.restored_from = snapshot.storage_id
            self._enter(instance)

        def make() -> Server:
            try:
                return self.engines.servers(kind.name).restore(self._server_name(), data.path)
            finally:
                data.release()

        def build() -> None:
            said = ("restoration", f"Restored from snapshot {snapshot.name}")
            self._build(instance, make, self.durations.restore, said)

        self._operate(instance, build, failed="restore-error")
        return instance

    def put_copy_in_place(self, name: str) -> None:
        """Serve the endpoint from a copy of the server; the one that was there runs on, and its replicas follow it."""
        instance = self.instance(name)
        data = self._copy_of(instance)
        instance.server = self.engines.servers(instance.engine).restore(self._server_name(), data.path)
        data.release()
        self.apply_in_force(instance)

    def _enter(self, instance: Instance) -> None:
        self.databases[instance.name] = instance
        self.keys.hold(instance.kms_key_id, instance.storage_id, "instance")

    def _build(
        self,
        instance: Instance,
        make: Callable[[], Server],
        minutes: float,
        said: tuple[str, str] = ("creation", "DB instance created"),
    ) -> None:
        """``said``: category and message of the event that it ends with."""
        since = self.context.clock.time()
        instance.server = make()
        self.turn_log(instance)
        with instance.server_lock:
            self.take_group(instance)
            if instance.server.apply_parameters(instance.parameters):
                instance.server.restart()  # a new instance has its group's parameters from the beginning
        self.keys.used(instance.kms_key_id, "Decrypt")
        self._pass(instance, minutes, since)
        self.apply_in_force(instance)
        self._resolve(instance)
        if instance.source:
            self._watch_replica(instance)
        self.note(instance, *said)
        # Burstable classes are spared; all others load their blocks for a while.
        lazy = not instance.settings["DBInstanceClass"].startswith(("db.t3", "db.t4"))
        if lazy and minutes > self.durations.create:
            self._show(instance, "storage-initialization")
            self._pass(instance, self.durations.storage_initialization)
        self._secure(instance)
        self._show(instance, "available")

    def _secure(self, instance: Instance) -> None:
        """Let the automated backups of something new begin."""
        if instance.retention_days:
            self._first_backup(instance)

    # -- promote -------------------------------------------------------------------------------------------------------

    def promote_read_replica(self, params: Params) -> Instance:
        with self.lock:
            instance = self.instance(params["DBInstanceIdentifier"])
            if instance.source is None:
                raise invalid_instance_state("DB Instance is not a read replica")
            self._must_be_available(instance, "promote")
            retention = params.get("BackupRetentionPeriod")
            # Not the replica's own period: whoever does not pass it gets one day.
            retention = 1 if retention is None else retention_of(retention)
            window = params.get("PreferredBackupWindow")
            if window:
                self._check_windows(instance.settings["PreferredMaintenanceWindow"], window)
        self._operate(instance, lambda: self._promote(instance, retention, window))
        return instance

    def _promote(self, instance: Instance, retention: int, window: str | None) -> None:
        began = time.monotonic()
        # The caller still sees `available` for a moment; whoever believes it looks too early.
        time.sleep(self.durations.stale_status_seconds)
        self._show(instance, "modifying")
        assert instance.server
        self._make_primary(instance)
        self._show(instance, "rebooting")
        self._restart(instance)
        if (left := self.durations.promotion_seconds - (time.monotonic() - began)) > 0:
            time.sleep(left)
        with self.lock:
            had_backups = instance.retention_days > 0
            instance.settings["BackupRetentionPeriod"] = retention
            if window:
                instance.settings["PreferredBackupWindow"] = window
        if retention and not had_backups:
            self._first_backup(instance)
        elif not retention:
            self._drop_backups(instance)
        self._show(instance, "available")

    def _make_primary(self, instance: Instance) -> None:
        """Promote the server, and let the source forget it. The books follow the server, never the other way round."""
        assert instance.server
        instance.server.promote()
        with self.lock:
            source, instance.source = instance.source, None
            instance.replicating = False
            if source and instance in source.replicas:
                source.replicas.remove(instance)
        if source and source.server:
            # A slot that is left would keep WAL and dead rows on the source for ever.
            source.server.forget_replica(instance.server.name)

    # -- modify --------------------------------------------------------------------------------------------------------

    def modify_db_instance(self, db_instance_identifier: str, params: Params) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            self._must_be_available(
                instance, "modify", also=("storage-initialization", "backing-up", "modifying", "storage-full")
            )
            now = bool(params.get("ApplyImmediately"))
            self._check_modification(instance, params)
            chosen = self._chosen(params, self._kind(instance.engine), instance.settings["SubnetGroup"])
            if "PreferredBackupWindow" in chosen or "PreferredMaintenanceWindow" in chosen:
                self._check_windows(
                    chosen.get("PreferredMaintenanceWindow", instance.settings["PreferredMaintenanceWindow"]),
                    chosen.get(
                        "PreferredBackupWindow", (instance.cluster or instance).settings["PreferredBackupWindow"]
                    ),
                )
            busy = False
            wanted = {**instance.settings, **chosen}
            if chosen.get("MaxAllocatedStorage") == wanted["AllocatedStorage"]:
                instance.settings.pop("MaxAllocatedStorage", None)  # autoscaling is switched off so
                del chosen["MaxAllocatedStorage"]
            storage.check_change(chosen, instance.settings)
            storage.check(chosen, wanted)
            if "SecurityGroups" in chosen and chosen["SecurityGroups"] != instance.settings["SecurityGroups"]:
                self._change_groups(instance, chosen["SecurityGroups"])
            for member in (*AT_ONCE, "OptionGroup", "IAMDatabaseAuthenticationEnabled"):
                if member in chosen and chosen[member] != instance.settings.get(member):
                    instance.settings[member] = chosen[member]
                    busy = busy or member in ("IAMDatabaseAuthenticationEnabled", "MonitoringInterval", "OptionGroup")
            busy = self._modify_insights(instance, chosen) or busy
            busy = self._modify_log_exports(instance, params) or busy
            if "ParameterGroup" in chosen and chosen["ParameterGroup"] != instance.settings["ParameterGroup"]:
                instance.settings["ParameterGroup"] = chosen["ParameterGroup"]
                # Another group is in force after a reboot; its dynamic parameters too.
                instance.group_pending_reboot = True
                busy = True
            later = {m: chosen[m] for m in DEFERRABLE if m in chosen and chosen[m] != instance.settings.get(m)}
            if "BackupRetentionPeriod" in later and later["BackupRetentionPeriod"] and instance.retention_days:
                # From one period to another that is not zero: not deferred.
                instance.settings["BackupRetentionPeriod"] = later.pop("BackupRetentionPeriod")
                self._note_retention(instance)
            if password := params.get("MasterUserPassword"):
                later["MasterUserPassword"] = password
            if params.get("NewDBInstanceIdentifier"):
                new = self._new_name(params["NewDBInstanceIdentifier"], renaming=True)
                if new != instance.name:
                    later["DBInstanceIdentifier"] = new
            managed = self._modify_managed_password(instance, params, now)
            instance.pending.update(later)
            work = dict(instance.pending) if now else {}
        if work or busy or managed:
            self._operate(instance, lambda: self._apply(instance, work))
        return instance

    def _check_modification(self, instance: Instance, params: Params) -> None:
        if instance.source and params.get("MasterUserPassword"):
            raise invalid_combination("The master password of a read replica is its source's.")
        stays_managed = instance.master_secret and params.get("ManageMasterUserPassword") is not False
        if stays_managed and params.get("MasterUserPassword"):
            raise invalid_combination("The master password of this DB instance is managed by RDS.")
        if params.get("MasterUserPassword"):
            check_password(params["MasterUserPassword"])
        if params.get("AllocatedStorage") and params["AllocatedStorage"] < instance.settings["AllocatedStorage"]:
            raise invalid_value("Invalid storage size: storage cannot be reduced.")
        days = int(params.get("PerformanceInsightsRetentionPeriod") or 0)
        if params.get("DatabaseInsightsMode") == "advanced" and not (
            params.get("EnablePerformanceInsights") and days >= 465
        ):  # what it has already does not count
            raise invalid_combination(
                "To enable the Advanced mode of Database Insights, modify your instance to enable Performance Insights "
                "and set the retention period for Performance Insights to at least 465 days."
            )
        if params.get("BackupRetentionPeriod") == 0 and instance.replicas:
            raise invalid_combination("Backups cannot be disabled for a DB instance that has read replicas.")

    def _modify_insights(self, owner: Operated, chosen: View) -> bool:
        if "PerformanceInsightsEnabled" not in chosen:
            return False
        before = owner.settings.get("PerformanceInsightsKMSKeyId")
        if before and chosen.get("PerformanceInsightsKMSKeyId") not in (None, before):
            raise invalid_combination("You can't change the KMS key of Performance Insights once it is enabled.")
        changed = chosen["PerformanceInsightsEnabled"] != owner.settings["PerformanceInsightsEnabled"]
        owner.settings.update({m: value for m, value in chosen.items() if m.startswith("PerformanceInsights")})
        return bool(changed)

    def _modify_log_exports(self, owner: Operated, params: Params) -> bool:
        change = params.get("CloudwatchLogsExportConfiguration")
        if not change:
            return False
        before = owner.settings["EnabledCloudwatchLogsExports"]
        after = set(before) | set(change.get("EnableLogTypes") or ())
        owner.settings["EnabledCloudwatchLogsExports"] = sorted(after - set(change.get("DisableLogTypes") or ()))
        return bool(owner.settings["EnabledCloudwatchLogsExports"] != before)

    def _modify_managed_password(self, instance: Instance, params: Params, now: bool) -> bool:
        wanted = params.get("ManageMasterUserPassword")
        if wanted is None or wanted == bool(instance.master_secret):
            return False
        if not now:
            raise invalid_combination("A change of ManageMasterUserPassword is applied immediately or not at all.")
        if wanted and instance.source:
            raise invalid_combination("The master password of a read replica is its source's.")
        if wanted and instance.replicas:
            raise invalid_combination("RDS does not manage the master password of a DB instance with read replicas.")
        if wanted:
            instance.pending["MasterUserPassword"] = self._manage_password(
                instance, params.get("MasterUserSecretKmsKeyId")
            )
        else:
            if not params.get("MasterUserPassword"):
                raise invalid_combination("MasterUserPassword is required to end its management by RDS.")
            instance.master_secret.delete_secret()
            instance.master_secret = None
        return True

    def _manage_password(self, owner: Operated, key: str | None) -> str:
        """Let Secrets Manager hold the master password; returns it."""
        owner.master_secret = ManagedSecret(self, owner, key or "alias/aws/secretsmanager")
        return str(owner.master_secret.password)

    def _apply(self, instance: Instance, work: View) -> None:
        time.sleep(self.durations.stale_status_seconds)
        assert instance.server
        if "MasterUserPassword" in work:
            self._show(instance, "resetting-master-credentials")
            instance.server.set_master_password(instance.settings["MasterUsername"], work["MasterUserPassword"])
        self._show(instance, "modifying")
        # Multi-AZ and storage change while it runs; another class is another host.
        if "DBInstanceClass" in work and instance.server.pid:
            self._restart(instance)
        self._pass(instance, self.durations.modify)
        with self.lock:
            had_backups = instance.retention_days > 0
            for member, value in work.items():
                instance.pending.pop(member, None)
                if member in DEFERRABLE:
                    instance.settings[member] = value
            self._note_retention(instance)
        if not instance.server.pid and "AllocatedStorage" in work:
            instance.server.start()  # it had stopped because its storage was full
            self.note(instance, "availability", "DB instance restarted")
        if instance.retention_days and not had_backups:
            self._first_backup(instance)
        elif had_backups and not instance.retention_days:
            self._drop_backups(instance)
        if "DBInstanceIdentifier" in work:
            self._rename(instance, work["DBInstanceIdentifier"])
        self._show(instance, "available")

    def _rename(self, instance: Instance, new: str) -> None:
        self._show(instance, "renaming")
        self.context.names.remove(instance.endpoint_name)
        self._pass(instance, self.durations.rename)
        with self.lock:
            # The name may have been taken while this waited for its turn.
            if self.databases.get(new) not in (None, instance):
                raise instance_exists()
            del self.databases[instance.name]
            instance.name = new
            self.databases[new] = instance
        self._show(instance, "rebooting")
        self._restart(instance)
        # The address stays with the instance: who has resolved the old name still reaches it, and sees another
        # name in the certificate.
        self._open(instance)
        self._pass(instance, self.durations.rename_until_resolvable)
        self._resolve(instance)

    # -- reboot, stop, start, delete -----------------------------------------------------------------------------------

    def reboot_db_instance(self, db_instance_identifier: str) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            self._must_be_available(instance, "reboot")

        def reboot() -> None:
            self._show(instance, "rebooting")
            with instance.server_lock:
                assert instance.server
                self.take_group(instance)
                instance.server.apply_parameters(instance.parameters)
                self._restart(instance)
                self.apply_in_force(instance)
            self._pass(instance, self.durations.reboot)
            self._show(instance, "available")

        self._operate(instance, reboot)
        return instance

    def stop_db_instance(self, db_instance_identifier: str, db_snapshot_identifier: str | None = None) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            self._must_be_available(instance, "stop")
            if instance.source or instance.replicas:
                raise invalid_instance_state("A read replica, or a DB instance with read replicas, cannot be stopped.")
            if db_snapshot_identifier:
                raise invalid_combination("The sandbox does not take a snapshot with StopDBInstance.")

        def stop() -> None:
            self._show(instance, "stopping")
            assert instance.server
            self.hang_up(instance)
            instance.server.stop()
            self._pass(instance, self.durations.stop)
            self.note(instance, "notification", "DB instance stopped")
            self._show(instance, "stopped")

        self._operate(instance, stop)
        return instance

    def start_db_instance(self, db_instance_identifier: str) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            recoverable = instance.status == "inaccessible-encryption-credentials-recoverable"
            if instance.status != "stopped" and not recoverable:
                raise invalid_instance_state(f"Instance {instance.name} is not stopped, it cannot be started.")
            if instance.kms_key_id and not self.keys.usable(instance.kms_key_id):
                raise refuse("KMSKeyNotAccessibleFault", f"The KMS key {instance.kms_key_id} cannot be used.")

        def start() -> None:
            self._show(instance, "starting")
            assert instance.server
            instance.server.start()
            self.apply_in_force(instance)
            self.keys.used(instance.kms_key_id, "Decrypt")
            self._pass(instance, self.durations.start)
            self.note(instance, "notification", "DB instance started")
            self._show(instance, "available")

        self._operate(instance, start)
        return instance

    def delete_db_instance(
        self,
        db_instance_identifier: str,
        final_db_snapshot_identifier: str | None = None,
        skip_final_snapshot: bool | None = False,
        delete_automated_backups: bool | None = True,
    ) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            if instance.status == "deleting":
                raise invalid_instance_state(f"Instance {instance.name} is already being deleted.")
            if instance.settings["DeletionProtection"]:
                raise invalid_combination(
                    "Cannot delete protected DB Instance, please disable deletion protection and try again."
                )
            if skip_final_snapshot and final_db_snapshot_identifier:
                raise invalid_combination(
                    "FinalDBSnapshotIdentifier cannot be specified when skip final snapshot is enabled."
                )
            if final_db_snapshot_identifier and instance.source:
                raise invalid_combination(
                    "FinalDBSnapshotIdentifier can not be specified when deleting a replica instance"
                )
            if not skip_final_snapshot and not final_db_snapshot_identifier and not instance.source:
                raise invalid_combination(
                    "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified."
                )
            final = None
            if final_db_snapshot_identifier:
                self._must_be_available(instance, "take a final snapshot of", also=("stopped", "failed"))
                name = self._new_snapshot_name(final_db_snapshot_identifier)
                final = self._new_snapshot(instance, name, tags=None)
            instance.status = "deleting"
            instance.doomed.set()
        self._operate(instance, lambda: self._delete(instance, final, delete_automated_backups is not False))
        return instance

    def _delete(self, instance: Instance, final: Snapshot | None, forget_backups: bool) -> None:
        self.context.names.remove(instance.endpoint_name)
        if final and instance.server:
            final.data = self._copy_of(instance)
        # RDS promotes the replicas of a source that is deleted.
        for replica in list(instance.replicas):
            if replica.server and replica.status != "deleting":
                # What is under way there may wait for the clock, so this thread must not hold it meanwhile.
                with self.context.clock.idle():
                    replica.operations.acquire()
                try:
                    if replica.source is instance and not replica.doomed.is_set():
                        self._make_primary(replica)
                finally:
                    replica.operations.release()
        self._end_server(instance)
        if final:
            self._pass(None, self.durations.snapshot)
            final.status = "available"
        self._forget(instance, forget_backups=forget_backups)

    def _end_server(self, instance: Instance) -> None:
        """Nobody reaches it any more, nothing follows it, and it follows nothing; its files are gone."""
        with self.lock:
            source, instance.source = instance.source, None
            if source and instance in source.replicas:
                source.replicas.remove(instance)
            instance.endpoint_visible = False
        self.fronts.close_endpoint(instance.dbi_resource_id)
        self._show_the_way()
        if instance.address:
            self.addresses.give_back(instance.address)
        if instance.server:
            if source and source.server:
                source.server.forget_replica(instance.server.name)
            instance.server.destroy()

    def _forget(self, instance: Instance, *, forget_backups: bool) -> None:
        self._pass(None, self.durations.delete)
        with self.lock:
            self._end_backups(instance, forget=forget_backups)
            if instance.master_secret:
                instance.master_secret.delete_secret()
            self.keys.release(instance.kms_key_id, instance.storage_id, "instance")
            self.databases.pop(instance.name, None)


class DBInstance:
    """What moto's managed secret wants to know of its owner; it spells the name of the class in a tag."""

    resource_type = "db"

    def __init__(self, backend: Instances, arn: str) -> None:
        self.backend = backend
        self.arn = arn


class DBCluster(DBInstance):
    resource_type = "cluster"


class ManagedSecret(MasterUserSecret):  # type: ignore[misc]
    """The master user's secret, with a password of its own; moto gives everybody the same."""

    def __init__(self, backend: Instances, owner: Operated, key: str) -> None:
        self.password = secrets.token_urlsafe(24)
        self._user = owner.settings["MasterUsername"]
        kind = DBCluster if owner.resource_type == DBCluster.resource_type else DBInstance
        super().__init__(kind(backend, owner.arn), key)

    def _generate_secret_string(self) -> str:
        return json.dumps({"username": self._user, "password": self.password})
