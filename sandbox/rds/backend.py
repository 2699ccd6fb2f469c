"""RDS: the API's rules, states that take time, and real servers behind them.

A request checks, changes the books and returns; the work is done by a thread per operation, which holds the virtual clock
while it does something real and lets it pass while RDS would be busy. Refusals are AWS's (errors.py).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from moto.core.parse import XFormedDict
from moto.ec2.models import ec2_backends
from moto.rds.models import DBParameterGroup, MasterUserSecret, RDSBackend
from moto.rds.utils import valid_preferred_maintenance_window

from sandbox.rds.durations import Durations
from sandbox.rds.errors import (
    RdsError,
    instance_exists,
    instance_not_found,
    invalid_combination,
    invalid_instance_state,
    invalid_snapshot_state,
    invalid_value,
    refuse,
    snapshot_not_found,
)
from sandbox.rds.keys import TO_COPY, Keys
from sandbox.rds.resources import DEFAULTS, AutomatedBackup, Data, Instance, Snapshot, Tagged, View, matches
from sandbox.rds.servers import Engine, Server, ServerError
from sandbox.tls_front import AddressBlock, TlsFront

if TYPE_CHECKING:
    from sandbox.context import Context

Params = Mapping[str, Any]

INSTANCE_QUOTA = 40
SNAPSHOT_QUOTA = 100
STORAGE_QUOTA_GIB = 100_000
REPLICAS_PER_SOURCE = 15
HOUSEKEEPING_SECONDS = 0.2
RECOVERABLE_DAYS = 7
IDENTIFIER = re.compile(r"(?!.*--)[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
SNAPSHOT_IDENTIFIER = re.compile(r"(?!.*--)[a-z]([a-z0-9-]{0,253}[a-z0-9])?")
RESERVED_MASTERS = {"rdsadmin", "admin", "rds_superuser", "rds_replication", "rds_password", "rdsrepladmin"}
# States in which the customer's data is there and RDS takes orders.
AVAILABLE = {"available", "storage-optimization"}

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


class _Abandoned(Exception):
    """The instance is being deleted; the operation under way has nothing left to do."""


class SandboxRds(RDSBackend):  # type: ignore[misc]
    """Put into moto in place of its own backend by :func:`sandbox.rds.install_rds`, which makes subclasses of it."""

    __module__ = RDSBackend.__module__  # moto finds the URLs of a service by the module of its backend

    context: Context
    durations: Durations
    engines: dict[str, Engine]
    fronts: TlsFront
    addresses: AddressBlock
    started: list[SandboxRds]

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.lock = threading.RLock()
        self.keys = Keys(self.context, self.durations.key_propagation_seconds)
        self.backups: list[AutomatedBackup] = []
        for engine in self.engines.values():
            family = f"{engine.name}{engine.version.split('.')[0]}"
            self.db_parameter_groups[f"default.{family}"] = DBParameterGroup(
                self, f"default.{family}", f"Default parameter group for {family}", family
            )
        self.failures: list[str] = []
        """Tracebacks of operations that failed; a scenario that did not ask for a failure wants none."""
        self._made = 0
        self._closed = threading.Event()
        self.started.append(self)
        threading.Thread(target=self._keep_house, name="rds housekeeping", daemon=True).start()

    # -- names -----------------------------------------------------------------------------------------------------------

    def arn_of(self, kind: str, name: str) -> str:
        return f"arn:{self.partition}:rds:{self.region_name}:{self.account_id}:{kind}:{name}"

    def endpoint_of(self, name: str) -> str:
        # One label per account and Region, as RDS has it.
        label = hashlib.sha256(f"{self.account_id}{self.region_name}".encode()).hexdigest()[:12]
        return f"{name}.c{label[1:]}.{self.region_name}.rds.amazonaws.com"

    def instance(self, name: str) -> Instance:
        """The instance with this identifier or ARN.

        Raises:
            DBInstanceNotFound
        """
        with self.lock:
            found: Instance | None = self.databases.get(name.rsplit(":", 1)[-1])
            if found is None:
                raise instance_not_found(name)
            return found

    def snapshot(self, name: str) -> Snapshot:
        # The identifier of an automated snapshot has a colon of its own.
        short = name.split(":snapshot:")[-1]
        with self.lock:
            found: Snapshot | None = self.database_snapshots.get(short)
            if found is None:
                raise snapshot_not_found(short)
            return found

    # -- create ----------------------------------------------------------------------------------------------------------

    def create_db_instance(self, params: Params) -> Instance:
        # CloudFormation passes a plain dictionary with names of another style; this one knows both.
        params = params if isinstance(params, XFormedDict) else XFormedDict(dict(params))
        if params.get("DBClusterIdentifier"):
            raise invalid_value("The sandbox has no clusters.")
        for required in ("DBInstanceClass", "Engine"):
            if not params.get(required):
                raise refuse("MissingParameter", f"The request must contain the parameter {required}.")
        with self.lock:
            name = self._new_name(params["DBInstanceIdentifier"])
            engine = self._engine(params["Engine"], params.get("EngineVersion"))
            settings = {**self._defaults(name, engine), **self._chosen(params, engine)}
            settings["AllocatedStorage"] = self._storage(params)
            settings["DBName"] = params.get("DBName")
            user = params.get("MasterUsername")
            if not user:
                raise invalid_value("The parameter MasterUsername must be provided and must not be blank.")
            if user.lower() in RESERVED_MASTERS:
                raise invalid_value(
                    f"MasterUsername {user} cannot be used as it is a reserved word used by the engine"
                )
            settings["MasterUsername"] = user
            managed = bool(params.get("ManageMasterUserPassword"))
            password = params.get("MasterUserPassword")
            if managed and password:
                raise invalid_combination(
                    "You can't specify MasterUserPassword for an instance with ManageMasterUserPassword enabled."
                )
            if not managed:
                _check_password(password)
            if params.get("KmsKeyId") and not params.get("StorageEncrypted"):
                raise invalid_combination("KmsKeyId requires StorageEncrypted.")
            key = self.keys.accept(params.get("KmsKeyId")) if params.get("StorageEncrypted") else None
            instance = Instance(self, name, settings, _tags(params), key)
            if managed:
                password = self._manage_password(instance, params.get("MasterUserSecretKmsKeyId"))
            self._enter(instance)

        def make() -> Server:
            return engine.create(
                self._server_name(), master_user=user, master_password=str(password), database=settings["DBName"]
            )

        self._operate(instance, lambda: self._build(instance, make, self.durations.create))
        return instance

    def create_db_instance_read_replica(self, params: Params) -> Instance:
        with self.lock:
            if not params.get("SourceDBInstanceIdentifier"):
                raise invalid_value("The parameter SourceDBInstanceIdentifier must be provided.")
            source = self.instance(params["SourceDBInstanceIdentifier"])
            name = self._new_name(params["DBInstanceIdentifier"])
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
            engine = self.engines[source.engine]
            inherited = (
                "AllocatedStorage", "AutoMinorVersionUpgrade", "DBInstanceClass", "DBName", "EngineVersion", "Iops",
                "LicenseModel", "MasterUsername", "OptionGroup", "ParameterGroup", "Port", "StorageThroughput",
                "StorageType", "SubnetGroup",
            )  # fmt: skip
            settings = {
                **self._defaults(name, engine),
                **{member: source.settings[member] for member in inherited if member in source.settings},
                **self._chosen(params, engine),
                # The API has no member for it. Whoever wants backups of the replica asks for them afterwards.
                "BackupRetentionPeriod": 0,
            }
            instance = Instance(self, name, settings, _tags(params), key)
            instance.source = source
            source.replicas.append(instance)
            self._enter(instance)

        def make() -> Server:
            assert source.server
            return engine.replicate(self._server_name(), source.server)

        self._operate(instance, lambda: self._build(instance, make, self.durations.replica))
        return instance

    def restore_db_instance_from_db_snapshot(self, from_snapshot_id: str, params: Params) -> Instance:
        with self.lock:
            name = self._new_name(params["DBInstanceIdentifier"])
            snapshot = self.snapshot(from_snapshot_id)
            if snapshot.status != "available":
                raise invalid_snapshot_state(f"Snapshot {snapshot.name} is not available: {snapshot.status}.")
            key = self.keys.accept(snapshot.key) if snapshot.key else None
            engine = self.engines[snapshot.settings["Engine"]]
            assert snapshot.data
            data = snapshot.data.share()
            kept = (
                "AllocatedStorage", "DBName", "EngineVersion", "LicenseModel", "MasterUsername", "Port",
                "DBInstanceClass", "BackupRetentionPeriod", "PreferredBackupWindow",
            )  # fmt: skip
            settings = {
                **self._defaults(name, engine),
                **{member: snapshot.settings[member] for member in kept if member in snapshot.settings},
                **self._chosen(params, engine),
            }
            if settings["AllocatedStorage"] < snapshot.settings["AllocatedStorage"]:
                raise invalid_value("The allocated storage size can't be less than the source snapshot or backup size.")
            tags = _tags(params) if params.get("Tags") else list(snapshot.tags)
            instance = Instance(self, name, settings, tags, key)
            self._enter(instance)

        def make() -> Server:
            try:
                return engine.restore(self._server_name(), data.path)
            finally:
                data.release()

        self._operate(instance, lambda: self._build(instance, make, self.durations.restore), failed="restore-error")
        return instance

    def _build(self, instance: Instance, make: Callable[[], Server], minutes: float) -> None:
        since = self.context.clock.time()
        instance.server = make()
        instance.server.apply_parameters(self._parameters_of(instance))
        self.keys.used(instance.kms_key_id, "Decrypt")
        self._pass(instance, minutes, since)
        self._open(instance)
        self._resolve(instance)
        if instance.source:
            self._watch_replica(instance)
        # Burstable classes are spared; all others load their blocks for a while.
        lazy = not instance.settings["DBInstanceClass"].startswith(("db.t3", "db.t4"))
        if lazy and minutes > self.durations.create:
            self._show(instance, "storage-initialization")
            self._pass(instance, self.durations.storage_initialization)
        if instance.retention_days:
            self._first_backup(instance)
        self._show(instance, "available")

    # -- promote ---------------------------------------------------------------------------------------------------------

    def promote_read_replica(self, params: Params) -> Instance:
        with self.lock:
            instance = self.instance(params["DBInstanceIdentifier"])
            if instance.source is None:
                raise invalid_instance_state("DB Instance is not a read replica")
            self._must_be_available(instance, "promote")
            retention = params.get("BackupRetentionPeriod")
            # Not the replica's own period: whoever does not pass it gets one day.
            retention = 1 if retention is None else _retention(retention)
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
        instance.server.restart()
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

    # -- modify ----------------------------------------------------------------------------------------------------------

    def modify_db_instance(self, db_instance_identifier: str, params: Params) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            self._must_be_available(instance, "modify", also=("storage-initialization", "backing-up"))
            now = bool(params.get("ApplyImmediately"))
            engine = self.engines[instance.engine]
            self._check_modification(instance, params)
            chosen = self._chosen(params, engine)
            if "PreferredBackupWindow" in chosen or "PreferredMaintenanceWindow" in chosen:
                self._check_windows(
                    chosen.get("PreferredMaintenanceWindow", instance.settings["PreferredMaintenanceWindow"]),
                    chosen.get("PreferredBackupWindow", instance.settings["PreferredBackupWindow"]),
                )
            busy = False
            for member in (*AT_ONCE, "SecurityGroups", "OptionGroup", "IAMDatabaseAuthenticationEnabled"):
                if member in chosen and chosen[member] != instance.settings.get(member):
                    instance.settings[member] = chosen[member]
                    busy = busy or member in ("IAMDatabaseAuthenticationEnabled", "MonitoringInterval", "OptionGroup")
            busy = self._modify_insights(instance, chosen) or busy
            busy = self._modify_log_exports(instance, params) or busy
            if "ParameterGroup" in chosen and chosen["ParameterGroup"] != instance.settings["ParameterGroup"]:
                instance.settings["ParameterGroup"] = chosen["ParameterGroup"]
                # Another group is in force after a reboot; its dynamic parameters too.
                instance.parameters_pending_reboot = True
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
        if instance.master_secret and params.get("MasterUserPassword"):
            if params.get("ManageMasterUserPassword") is not False:
                raise invalid_combination("The master password of this DB instance is managed by RDS.")
        if params.get("MasterUserPassword"):
            _check_password(params["MasterUserPassword"])
        if params.get("AllocatedStorage") and params["AllocatedStorage"] < instance.settings["AllocatedStorage"]:
            raise invalid_value("Invalid storage size: storage cannot be reduced.")
        if params.get("BackupRetentionPeriod") == 0 and instance.replicas:
            raise invalid_combination(
                "Backups cannot be disabled for a DB instance that has read replicas."
            )

    def _modify_insights(self, instance: Instance, chosen: View) -> bool:
        if "PerformanceInsightsEnabled" not in chosen:
            return False
        before = instance.settings.get("PerformanceInsightsKMSKeyId")
        if before and chosen.get("PerformanceInsightsKMSKeyId") not in (None, before):
            raise invalid_combination("You can't change the KMS key of Performance Insights once it is enabled.")
        changed = chosen["PerformanceInsightsEnabled"] != instance.settings["PerformanceInsightsEnabled"]
        for member in ("PerformanceInsightsEnabled", "PerformanceInsightsKMSKeyId", "PerformanceInsightsRetentionPeriod"):
            if member in chosen:
                instance.settings[member] = chosen[member]
        return changed

    def _modify_log_exports(self, instance: Instance, params: Params) -> bool:
        change = params.get("CloudwatchLogsExportConfiguration")
        if not change:
            return False
        before = instance.settings["EnabledCloudwatchLogsExports"]
        after = set(before) | set(change.get("EnableLogTypes") or ())
        instance.settings["EnabledCloudwatchLogsExports"] = sorted(after - set(change.get("DisableLogTypes") or ()))
        return bool(instance.settings["EnabledCloudwatchLogsExports"] != before)

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

    def _manage_password(self, instance: Instance, key: str | None) -> str:
        """Let Secrets Manager hold the master password; returns it."""
        instance.master_secret = ManagedSecret(self, instance, key or "alias/aws/secretsmanager")
        return instance.master_secret.password

    def _apply(self, instance: Instance, work: View) -> None:
        time.sleep(self.durations.stale_status_seconds)
        assert instance.server
        if "MasterUserPassword" in work:
            self._show(instance, "resetting-master-credentials")
            instance.server.set_master_password(instance.settings["MasterUsername"], work["MasterUserPassword"])
        self._show(instance, "modifying")
        # Multi-AZ and storage change while it runs; another class is another host.
        if "DBInstanceClass" in work and instance.server.pid:
            instance.server.restart()
        self._pass(instance, self.durations.modify)
        with self.lock:
            had_backups = instance.retention_days > 0
            for member, value in work.items():
                instance.pending.pop(member, None)
                if member in DEFERRABLE:
                    instance.settings[member] = value
            self._note_retention(instance)
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
        assert instance.server
        self._show(instance, "rebooting")
        instance.server.restart()
        # The address stays with the instance: who has resolved the old name still reaches it, and sees another
        # name in the certificate.
        self._open(instance)
        self._pass(instance, self.durations.rename_until_resolvable)
        self._resolve(instance)

    def reboot_db_instance(self, db_instance_identifier: str) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            self._must_be_available(instance, "reboot")

        def reboot() -> None:
            self._show(instance, "rebooting")
            assert instance.server
            instance.server.apply_parameters(self._parameters_of(instance))
            instance.server.restart()
            self._open(instance)
            instance.parameters_pending_reboot = False
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
            instance.server.stop()
            self._pass(instance, self.durations.stop)
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
            self.keys.used(instance.kms_key_id, "Decrypt")
            self._pass(instance, self.durations.start)
            self._show(instance, "available")

        self._operate(instance, start)
        return instance

    # -- delete ----------------------------------------------------------------------------------------------------------

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
                final = self._new_snapshot(instance, final_db_snapshot_identifier, tags=None)
            instance.status = "deleting"
            instance.doomed.set()
        self._operate(instance, lambda: self._delete(instance, final, delete_automated_backups is not False))
        return instance

    def _delete(self, instance: Instance, final: Snapshot | None, forget_backups: bool) -> None:
        self.context.names.remove(instance.endpoint_name)
        server = instance.server
        if final and server:
            final.data = self._copy_of(server, final.name)
        # RDS promotes the replicas of a source that is deleted.
        for replica in list(instance.replicas):
            if replica.server and replica.status != "deleting":
                with replica.operations:
                    self._make_primary(replica)
        with self.lock:
            source, instance.source = instance.source, None
            if source and instance in source.replicas:
                source.replicas.remove(instance)
            instance.endpoint_visible = False
        self.fronts.close_endpoint(instance.dbi_resource_id)
        if instance.address:
            self.addresses.give_back(instance.address)
        if server:
            if source and source.server:
                source.server.forget_replica(server.name)
            server.destroy()
        if final:
            self._pass(None, self.durations.snapshot)
            final.status = "available"
        self._pass(None, self.durations.delete)
        with self.lock:
            for backup in [b for b in self.backups if b.instance is instance]:
                if forget_backups:
                    self._drop_backup(backup)
                else:
                    backup.earliest, backup.instance_name = instance.backups_since, instance.name
                    backup.ended, backup.instance = self.context.clock.now(), None
            if forget_backups:
                self._drop_automated_snapshots(instance.dbi_resource_id)
            if instance.master_secret:
                instance.master_secret.delete_secret()
            self.keys.release(instance.kms_key_id, instance.dbi_resource_id, "instance")
            self.databases.pop(instance.name, None)

    # -- snapshots -------------------------------------------------------------------------------------------------------

    def create_db_snapshot(self, params: Params) -> Snapshot:
        with self.lock:
            instance = self.instance(params["DBInstanceIdentifier"])
            name = self._new_snapshot_name(params["DBSnapshotIdentifier"])
            self._must_be_available(instance, "take a snapshot of", also=("stopped",))
            stopped = instance.status == "stopped"
            snapshot = self._new_snapshot(instance, name, tags=_tags(params) if params.get("Tags") else None)
            instance.status = "backing-up"

        def take() -> None:
            since = self.context.clock.time()
            assert instance.server
            snapshot.data = self._copy_of(instance.server, snapshot.name)
            snapshot.taken = self.context.clock.now()
            self._pass(instance, self.durations.snapshot, since)
            snapshot.status = "available"
            self._show(instance, "stopped" if stopped else "available")

        def failed() -> None:
            snapshot.status = "failed"

        self._operate(instance, take, otherwise=failed)
        return snapshot

    def copy_db_snapshot(self, params: Params) -> Snapshot:
        with self.lock:
            source = self.snapshot(params["SourceDBSnapshotIdentifier"])
            name = self._new_snapshot_name(params["TargetDBSnapshotIdentifier"])
            if source.status != "available":
                raise invalid_snapshot_state(f"Snapshot {source.name} is not available: {source.status}.")
            wanted = params.get("KmsKeyId")
            key = source.key
            if wanted or source.key:
                key = self.keys.accept(wanted or source.key, TO_COPY)
                if source.key and source.key != key:
                    self.keys.accept(source.key, TO_COPY)
            if params.get("Tags"):
                tags = _tags(params)
            else:
                tags = list(source.tags) if params.get("CopyTags") else []
            now = self.context.clock.now()
            copied = Snapshot(
                **{**source.__dict__, "name": name, "kind": "manual", "tags": tags, "key": key, "taken": now,
                   "status": "creating", "copied_from": source.arn, "expires": None, "data": None,
                   "attributes": {"restore": []}},
            )  # fmt: skip
            self.database_snapshots[name] = copied
            self.keys.hold(key, copied.dbi_resource_id, copied.holder)
            self.keys.used(key, "ReEncrypt")
            self.keys.used(source.key, "ReEncrypt")

        def copy() -> None:
            self._pass(None, self.durations.copy)
            with self.lock:
                if self.database_snapshots.get(source.name) is not source or source.data is None:
                    # What is copied must stay until the copy is complete.
                    copied.status = "failed"
                    return
                copied.data = source.data.share()
                copied.taken, copied.status = self.context.clock.now(), "available"

        self._operate(None, copy)
        return copied

    def delete_db_snapshot(self, db_snapshot_identifier: str) -> Snapshot:
        with self.lock:
            snapshot = self.snapshot(db_snapshot_identifier)
            if snapshot.kind != "manual":
                raise invalid_snapshot_state(f"{snapshot.name} is automated and cannot be deleted.")
            if snapshot.status not in ("available", "failed"):
                raise invalid_snapshot_state(f"Cannot delete the snapshot because it is not available: {snapshot.status}.")
            self._drop_snapshot(snapshot)
            snapshot.status = "deleted"
            return snapshot

    def describe_db_snapshot_attributes(self, db_snapshot_identifier: str) -> dict[str, list[str]]:
        return self.snapshot(db_snapshot_identifier).attributes

    def modify_db_snapshot_attribute(
        self,
        db_snapshot_identifier: str,
        attribute_name: str,
        values_to_add: list[str] | None = None,
        values_to_remove: list[str] | None = None,
    ) -> dict[str, list[str]]:
        with self.lock:
            snapshot = self.snapshot(db_snapshot_identifier)
            if attribute_name != "restore":
                raise invalid_value(f"Invalid snapshot attribute {attribute_name}")
            kept = [v for v in snapshot.attributes["restore"] if v not in (values_to_remove or ())]
            snapshot.attributes["restore"] = kept + [v for v in values_to_add or () if v not in kept]
            return snapshot.attributes

    def _new_snapshot(
        self, instance: Instance, name: str, tags: list[dict[str, str]] | None, kind: str = "manual"
    ) -> Snapshot:
        """Enter a snapshot in the books; its data comes later. Without tags of its own it may have the instance's."""
        if kind == "manual":
            name = self._new_snapshot_name(name)
        if tags is None:
            tags = list(instance.tags) if instance.settings["CopyTagsToSnapshot"] else []
        now = self.context.clock.now()
        snapshot = Snapshot(
            **Snapshot.facts(instance), name=name, kind=kind, tags=tags, taken=now, original=now
        )
        self.database_snapshots[name] = snapshot
        self.keys.hold(instance.kms_key_id, instance.dbi_resource_id, snapshot.holder)
        return snapshot

    def _new_snapshot_name(self, name: str) -> str:
        name = name.lower()
        if not SNAPSHOT_IDENTIFIER.fullmatch(name):
            raise invalid_value(f"The snapshot identifier {name} is not a valid identifier.")
        if name in self.database_snapshots:
            raise refuse(
                "DBSnapshotAlreadyExists",
                f"Cannot create the snapshot because a snapshot with the identifier {name} already exists.",
            )
        if sum(s.kind == "manual" for s in self.database_snapshots.values()) >= SNAPSHOT_QUOTA:
            raise refuse(
                "SnapshotQuotaExceeded",
                "The request cannot be processed because it would exceed the maximum number of snapshots.",
            )
        return name

    def _copy_of(self, server: Server, name: str) -> Data:
        with self.lock:
            self._made += 1
            path = self.snapshot_directory / f"s{self._made}"
        server.snapshot(path)
        return Data(path)

    def _drop_snapshot(self, snapshot: Snapshot) -> None:
        self.database_snapshots.pop(snapshot.name, None)
        self.keys.release(snapshot.key, snapshot.dbi_resource_id, snapshot.holder)
        if snapshot.data:
            snapshot.data.release()
            snapshot.data = None

    # -- automated backups -----------------------------------------------------------------------------------------------

    def _first_backup(self, instance: Instance) -> None:
        self._show(instance, "backing-up")
        with self.lock:
            self._note_retention(instance)
        assert instance.server
        data = self._copy_of(instance.server, instance.name)
        self._pass(instance, self.durations.backup)
        with self.lock:
            self._automated_snapshot(instance, self.context.clock.now(), data)
            instance.backups_since = self.context.clock.now()
            instance.last_backup_window = self.context.clock.now()

    def _note_retention(self, instance: Instance) -> None:
        """Keep the automated backup's books in step with the instance's retention."""
        if not instance.retention_days:
            return
        backup = next((b for b in self.backups if b.instance is instance), None)
        if backup is None:
            backup = AutomatedBackup(
                **AutomatedBackup.facts(instance), tags=list(instance.tags),
                retention_days=instance.retention_days, earliest=None, instance=instance,
            )  # fmt: skip
            self.backups.append(backup)
            self.keys.hold(instance.kms_key_id, instance.dbi_resource_id, backup.holder)
        backup.retention_days = instance.retention_days
        for snapshot in self.database_snapshots.values():
            if snapshot.kind == "automated" and snapshot.dbi_resource_id == instance.dbi_resource_id:
                snapshot.expires = snapshot.taken + dt.timedelta(days=instance.retention_days)

    def _automated_snapshot(self, instance: Instance, taken: dt.datetime, data: Data) -> None:
        name = f"rds:{instance.name}-{taken:%Y-%m-%d-%H-%M}"
        if name in self.database_snapshots:
            data.release()
            return
        snapshot = self._new_snapshot(instance, name, tags=list(instance.tags), kind="automated")
        snapshot.data, snapshot.taken, snapshot.original, snapshot.status = data, taken, taken, "available"
        snapshot.expires = taken + dt.timedelta(days=instance.retention_days)

    def _drop_backups(self, instance: Instance) -> None:
        """Backups are switched off: what there is goes at once."""
        with self.lock:
            for backup in [b for b in self.backups if b.instance is instance]:
                self._drop_backup(backup)
            self._drop_automated_snapshots(instance.dbi_resource_id)
            instance.backups_since = instance.last_backup_window = None

    def _drop_backup(self, backup: AutomatedBackup) -> None:
        self.backups.remove(backup)
        self.keys.release(backup.key, backup.dbi_resource_id, backup.holder)

    def _drop_automated_snapshots(self, dbi_resource_id: str) -> None:
        for snapshot in list(self.database_snapshots.values()):
            if snapshot.kind == "automated" and snapshot.dbi_resource_id == dbi_resource_id:
                self._drop_snapshot(snapshot)

    def delete_db_instance_automated_backup(self, params: Params) -> AutomatedBackup:
        with self.lock:
            wanted = params.get("DbiResourceId"), params.get("DBInstanceAutomatedBackupsArn")
            for backup in self.backups:
                if backup.dbi_resource_id == wanted[0] or backup.arn == wanted[1]:
                    if backup.instance:
                        raise refuse("InvalidDBInstanceAutomatedBackupState", "The automated backup is active.")
                    self._drop_backup(backup)
                    self._drop_automated_snapshots(backup.dbi_resource_id)
                    return backup
        raise refuse("DBInstanceAutomatedBackupNotFound", f"No automated backup for {wanted[0] or wanted[1]}.")

    def in_daily_backup(self, instance: Instance) -> bool:
        """Whether now is the time of an instance's daily backup."""
        if not instance.retention_days or not instance.backups_since:
            return False
        now = self.context.clock.now()
        start = _last_start(instance.settings["PreferredBackupWindow"], now)
        return start > instance.backups_since and now < start + dt.timedelta(minutes=self.durations.backup)

    # -- describe --------------------------------------------------------------------------------------------------------

    def describe_db_instances(
        self, db_instance_identifier: str | None = None, filters: Any = None
    ) -> list[Instance]:
        """As moto's own code calls it."""
        if db_instance_identifier:
            return [self.instance(db_instance_identifier)]
        return list(self.databases.values())

    def views_of_instances(self, params: Params) -> list[View]:
        with self.lock:
            self._expire()
            name = params.get("DBInstanceIdentifier")
            instances = [self.instance(name)] if name else list(self.databases.values())
            chosen = [
                i
                for i in instances
                if _passes(
                    params,
                    {
                        "db-instance-id": lambda i=i: [i.name, i.arn],
                        "dbi-resource-id": lambda i=i: [i.dbi_resource_id],
                        "engine": lambda i=i: [i.engine],
                        "db-cluster-id": list,
                        "domain": list,
                    },
                )
            ]
            return [instance.view() for instance in chosen]

    def views_of_snapshots(self, params: Params) -> list[View]:
        with self.lock:
            self._expire()
            kind = params.get("SnapshotType")
            if params.get("DBSnapshotIdentifier"):
                snapshots = [self.snapshot(params["DBSnapshotIdentifier"])]
            else:
                snapshots = list(self.database_snapshots.values())
            if name := params.get("DBInstanceIdentifier"):
                snapshots = [s for s in snapshots if s.instance_name == name.rsplit(":", 1)[-1].lower()]
            if resource := params.get("DbiResourceId"):
                snapshots = [s for s in snapshots if s.dbi_resource_id == resource]
            if kind:
                snapshots = [s for s in snapshots if s.kind == kind]
            return [
                s.view()
                for s in snapshots
                if _passes(
                    params,
                    {
                        "db-instance-id": lambda s=s: [s.instance_name, self.arn_of("db", s.instance_name)],
                        "db-snapshot-id": lambda s=s: [s.name],
                        "dbi-resource-id": lambda s=s: [s.dbi_resource_id],
                        "snapshot-type": lambda s=s: [s.kind],
                        "engine": lambda s=s: [s.settings["Engine"]],
                    },
                )
            ]

    def views_of_backups(self, params: Params) -> list[View]:
        with self.lock:
            self._expire()
            views = [backup.view() for backup in self.backups]
        for member in ("DBInstanceIdentifier", "DbiResourceId", "DBInstanceAutomatedBackupsArn"):
            if value := params.get(member):
                views = [view for view in views if view[member] == value]
        return [
            v
            for v in views
            if _passes(
                params,
                {
                    "status": lambda v=v: [v["Status"]],
                    "db-instance-id": lambda v=v: [v["DBInstanceIdentifier"], v["DBInstanceArn"]],
                    "dbi-resource-id": lambda v=v: [v["DbiResourceId"]],
                },
            )
        ]

    # -- tags ------------------------------------------------------------------------------------------------------------

    def _get_resource_for_tagging(self, arn: str) -> Any:
        with self.lock:
            if arn.split(":")[5:6] == ["auto-backup"]:
                return next((backup for backup in self.backups if backup.arn == arn), None)
            found = super()._get_resource_for_tagging(arn)
        if found is None:
            kind = arn.split(":")[5]
            raise {"db": instance_not_found, "snapshot": snapshot_not_found}.get(
                kind, lambda name: invalid_value(f"{name} not found.")
            )(arn)
        return found

    def add_tags_to_resource(self, arn: str, tags: list[dict[str, str]]) -> list[dict[str, str]]:
        plain = _tags({"Tags": tags})  # moto's own mapping spells its keys differently
        resource = self._get_resource_for_tagging(arn)
        with self.lock:
            added: list[dict[str, str]] = resource.add_tags(plain)
            return added

    # -- parameter groups ------------------------------------------------------------------------------------------------

    def modify_db_parameter_group(
        self, db_parameter_group_name: str, db_parameter_group_parameters: Iterable[dict[str, Any]]
    ) -> Any:
        parameters = list(db_parameter_group_parameters)
        if db_parameter_group_name.startswith("default."):
            raise invalid_value("Default parameter groups cannot be modified.")
        group = super().modify_db_parameter_group(db_parameter_group_name, parameters)
        with self.lock:
            users = [i for i in self.databases.values() if i.settings["ParameterGroup"] == group.name]
        for instance in users:
            self._apply_parameters(instance)
        return group

    def describe_db_parameter_groups(self, db_parameter_group_kwargs: Params) -> list[Any]:
        found: list[Any] = super().describe_db_parameter_groups(db_parameter_group_kwargs)
        if not found and (name := db_parameter_group_kwargs.get("DBParameterGroupName")):
            raise refuse("DBParameterGroupNotFound", f"DBParameterGroup not found: {name}")
        return found

    def describe_option_groups(self, option_group_kwargs: Params) -> list[Any]:
        name = option_group_kwargs.get("OptionGroupName")
        if name is None:
            return list(self.option_groups.values())
        if name not in self.option_groups:
            raise refuse("OptionGroupNotFoundFault", f"Specified OptionGroupName: {name} not found.")
        return [self.option_groups[name]]

    def delete_db_parameter_group(self, db_parameter_group_name: str) -> Any:
        with self.lock:
            if any(i.settings["ParameterGroup"] == db_parameter_group_name for i in self.databases.values()):
                raise refuse(
                    "InvalidDBParameterGroupState",
                    "One or more database instances are still members of this parameter group "
                    f"{db_parameter_group_name}, so the group cannot be deleted",
                )
        return super().delete_db_parameter_group(db_parameter_group_name)

    def _apply_parameters(self, instance: Instance) -> None:
        def apply() -> None:
            # Only dynamic parameters take effect; a group that was attached since the last reboot does not at all.
            if instance.server and instance.server.pid and not instance.parameters_pending_reboot:
                needs_restart = instance.server.apply_parameters(self._parameters_of(instance))
                instance.parameters_pending_reboot = needs_restart
                self._open(instance)

        self._operate(instance, apply)

    def _parameters_of(self, instance: Instance) -> dict[str, str]:
        group = self.db_parameter_groups.get(instance.settings["ParameterGroup"])
        if group is None:
            return {}
        return {
            name: str(value["ParameterValue"])
            for name, value in group.parameters.items()
            if value.get("ParameterValue") is not None
        }

    # -- housekeeping ----------------------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        while not self._closed.wait(HOUSEKEEPING_SECONDS):
            try:
                with self.lock:
                    self._expire()
                    instances = list(self.databases.values())
                for instance in instances:
                    self._watch_replica(instance)
                    self._watch_key(instance)
                    self._daily_backup(instance)
                    self._maintain(instance)
            except Exception:
                self._note_failure()

    def _expire(self) -> None:
        now = self.context.clock.now()
        for backup in [b for b in self.backups if b.expires and b.expires <= now]:
            self._drop_backup(backup)
        for snapshot in [s for s in self.database_snapshots.values() if s.expires and s.expires <= now]:
            self._drop_snapshot(snapshot)

    def _watch_replica(self, instance: Instance) -> None:
        if instance.source and instance.server and instance.endpoint_visible:
            instance.replicating = instance.server.replication_status() == "replicating"

    def _daily_backup(self, instance: Instance) -> None:
        """Make the automated snapshots of the windows that have passed.

        A clock that jumps over several windows leaves one copy of the data for all of them.
        """
        with self.lock:
            now = self.context.clock.now()
            if instance.last_backup_window is None or instance.status != "available" or self.in_daily_backup(instance):
                return
            start = _last_start(instance.settings["PreferredBackupWindow"], now)
            if start <= instance.last_backup_window:
                return
            missed = [start]
            while (earlier := missed[-1] - dt.timedelta(days=1)) > instance.last_backup_window:
                missed.append(earlier)
            missed = [m for m in missed if m > now - dt.timedelta(days=instance.retention_days)]
            instance.last_backup_window = start
        if not missed or not instance.operations.acquire(blocking=False):
            return
        try:
            if instance.doomed.is_set() or instance.server is None or not instance.server.pid:
                return
            with self.context.clock.busy():
                data = self._copy_of(instance.server, instance.name)
            with self.lock:
                for moment in missed:
                    self._automated_snapshot(instance, moment, data.share())
            data.release()
        finally:
            instance.operations.release()

    def _maintain(self, instance: Instance) -> None:
        """Apply what waits for the maintenance window, in the window."""
        with self.lock:
            if not instance.pending or instance.status != "available":
                return
            if not _in_weekly_window(instance.settings["PreferredMaintenanceWindow"], self.context.clock.now()):
                return
            work = dict(instance.pending)
            instance.status = "modifying"
        self._operate(instance, lambda: self._apply(instance, work))

    def _watch_key(self, instance: Instance) -> None:
        with self.lock:
            now = self.context.clock.time()
            if instance.kms_key_id is None or self.keys.usable(instance.kms_key_id):
                instance.key_lost_at = None
                return
            if instance.key_lost_at is None:
                instance.key_lost_at = now
            lost_for = now - instance.key_lost_at
            if instance.status == "inaccessible-encryption-credentials-recoverable":
                if lost_for > RECOVERABLE_DAYS * 86400:
                    instance.status = "inaccessible-encryption-credentials"
                return
            if instance.status not in AVAILABLE or lost_for < self.durations.inaccessible_key * 60:
                return
            # RDS offers a way back only to instances that can be stopped.
            can_stop = bool(instance.retention_days) and not instance.source and not instance.replicas
            instance.status = "inaccessible-encryption-credentials" + ("-recoverable" if can_stop else "")
        with instance.operations:
            if instance.server:
                instance.server.stop()

    # -- operations ------------------------------------------------------------------------------------------------------

    def _operate(
        self,
        instance: Instance | None,
        work: Callable[[], None],
        *,
        failed: str = "failed",
        otherwise: Callable[[], None] = lambda: None,
    ) -> None:
        """Do the work in a thread of its own, after what is under way for this instance.

        The clock does not jump between this call and the beginning of the work, nor while the work is real.
        """
        clock = self.context.clock
        clock.hold()

        def run() -> None:
            with clock.busy():
                clock.let_go()
                lock = instance.operations if instance else threading.Lock()
                if not lock.acquire(blocking=False):
                    with clock.idle():
                        lock.acquire()
                try:
                    work()
                except _Abandoned:
                    otherwise()
                except Exception:
                    self._note_failure()
                    otherwise()
                    if instance and not instance.doomed.is_set():
                        self._show(instance, failed)
                finally:
                    lock.release()

        threading.Thread(target=run, name=f"rds {instance.name if instance else ''}", daemon=True).start()

    def _pass(self, instance: Instance | None, minutes: float, since: float | None = None) -> None:
        """Let RDS be busy for some virtual minutes, counted from ``since``.

        Raises:
            _Abandoned: the instance is being deleted.
        """
        clock = self.context.clock
        began = time.monotonic()
        # Only a deletion's own waits go on when the instance is doomed: they pass None.
        doomed = instance.doomed.is_set if instance else (lambda: False)

        def over() -> bool:
            unattended = clock.executions == 0 and time.monotonic() - began > self.durations.unattended_seconds
            return doomed() or unattended or self._closed.is_set()

        clock.wait_until((clock.time() if since is None else since) + minutes * 60, over)
        if doomed() or self._closed.is_set():
            raise _Abandoned

    def _show(self, instance: Instance, status: str) -> None:
        with self.lock:
            if instance.doomed.is_set():
                raise _Abandoned
            instance.status = status

    def _note_failure(self) -> None:
        # Nobody waits for a background operation, so nobody would hear of its exception.
        self.failures.append(traceback.format_exc())
        print(self.failures[-1], file=sys.stderr)

    def _open(self, instance: Instance) -> None:
        """Serve the instance's endpoint: its own address, a certificate for its name."""
        assert instance.server
        with self.lock:
            if instance.address is None:
                instance.address = self.addresses.take(instance.port)
        name = instance.endpoint_name
        forced = self._parameters_of(instance).get("rds.force_ssl", "1") == "1"
        self.fronts.open(
            instance.dbi_resource_id, instance.address, instance.port, self.context.ca.issue(name),
            instance.server.socket, require_tls=forced,
        )  # fmt: skip

    def _resolve(self, instance: Instance) -> None:
        assert instance.address
        with self.lock:
            if instance.doomed.is_set():
                raise _Abandoned
            self.context.names.set(instance.endpoint_name, instance.address)
            instance.endpoint_visible = True

    def close(self) -> None:
        """Stop the housekeeping and let every operation end."""
        self._closed.set()

    @property
    def snapshot_directory(self) -> Any:
        directory = self.context.work_dir / "rds" / "snapshots"
        return directory

    # -- checks ----------------------------------------------------------------------------------------------------------

    def _enter(self, instance: Instance) -> None:
        self.databases[instance.name] = instance
        self.keys.hold(instance.kms_key_id, instance.dbi_resource_id, "instance")

    def _server_name(self) -> str:
        with self.lock:
            self._made += 1
            return f"i{self._made}"

    def _new_name(self, name: str, *, renaming: bool = False) -> str:
        name = name.lower()
        if not IDENTIFIER.fullmatch(name):
            raise invalid_value(
                "The parameter DBInstanceIdentifier is not a valid identifier. Identifiers must begin with a letter; must "
                "contain only ASCII letters, digits, and hyphens; and must not end with a hyphen or contain two "
                "consecutive hyphens."
            )
        pending = (i.pending.get("DBInstanceIdentifier") for i in self.databases.values())
        if name in self.databases or name in pending:
            raise instance_exists()
        if not renaming and len(self.databases) >= INSTANCE_QUOTA:
            raise refuse("InstanceQuotaExceeded", "The quota of DB instances would be exceeded.")
        return name

    def _must_be_available(self, instance: Instance, what: str, also: tuple[str, ...] = ()) -> None:
        status = instance.shown_status
        if status not in AVAILABLE and status not in also:
            raise invalid_instance_state(
                f"Cannot {what} instance {instance.name}: it is not in available state but {status}."
            )

    def _engine(self, name: str, version: str | None) -> Engine:
        engine = self.engines.get(name)
        if engine is None:
            raise invalid_value(f"Invalid DB engine: {name}. The sandbox has {', '.join(sorted(self.engines))}.")
        if version and version not in (engine.version, engine.version.split(".")[0]):
            raise invalid_combination(f"Cannot find version {version} for {name}")
        return engine

    def _storage(self, params: Params) -> int:
        size = params.get("AllocatedStorage")
        if size is None:
            raise invalid_value("The parameter AllocatedStorage must be provided.")
        if int(size) < 20:
            raise invalid_value(f"Invalid storage size for engine name postgres and storage type gp3: {size}")
        used = sum(i.settings["AllocatedStorage"] for i in self.databases.values())
        if used + int(size) > STORAGE_QUOTA_GIB:
            raise refuse("StorageQuotaExceeded", "The quota of storage would be exceeded.")
        return int(size)

    def _defaults(self, name: str, engine: Engine) -> View:
        # RDS draws the windows at random; drawn from the name, they are the same in every run.
        draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
        start = 20 * 60 + draw % 16 * 30
        day = "mon tue wed thu fri sat sun".split()[draw // 16 % 7]
        other = (start + 240) % 1440
        major = engine.version.split(".")[0]
        return {
            **DEFAULTS,
            "AvailabilityZone": f"{self.region_name}a",
            "Engine": engine.name,
            "EngineVersion": engine.version,
            "LicenseModel": "postgresql-license" if engine.name == "postgres" else "general-public-license",
            "OptionGroup": f"default:{engine.name}-{major}",
            "ParameterGroup": f"default.{engine.name}{major}",
            "Port": engine.port,
            "PreferredBackupWindow": f"{_clock(start)}-{_clock(start + 30)}",
            "PreferredMaintenanceWindow": f"{day}:{_clock(other)}-{day}:{_clock(other + 30)}",
            "SecurityGroups": [self._default_security_group()],
            "SubnetGroup": self._subnet_group(None),
        }

    def _chosen(self, params: Params, engine: Engine) -> View:
        """The settings that a request names, checked."""
        same_name = (
            "AutoMinorVersionUpgrade", "AvailabilityZone", "BackupRetentionPeriod", "CACertificateIdentifier",
            "CopyTagsToSnapshot", "DBInstanceClass", "DatabaseInsightsMode", "DedicatedLogVolume",
            "DeletionProtection", "EngineLifecycleSupport", "Iops", "LicenseModel", "MaxAllocatedStorage",
            "MonitoringInterval", "MonitoringRoleArn", "MultiAZ", "NetworkType", "PerformanceInsightsRetentionPeriod",
            "Port", "PreferredBackupWindow", "PreferredMaintenanceWindow", "PubliclyAccessible", "StorageThroughput",
            "StorageType", "AllocatedStorage",
        )  # fmt: skip
        chosen = {member: params[member] for member in same_name if params.get(member) is not None}
        if "BackupRetentionPeriod" in chosen:
            _retention(chosen["BackupRetentionPeriod"])
        if "MonitoringInterval" in chosen and bool(chosen["MonitoringInterval"]) != bool(chosen.get("MonitoringRoleArn")):
            if chosen["MonitoringInterval"]:
                raise invalid_combination(
                    "A MonitoringRoleARN value is required if you specify a MonitoringInterval value other than 0."
                )
            raise invalid_combination(
                "You must specify a MonitoringInterval value other than 0 when you specify a MonitoringRoleARN value."
            )
        for window in ("PreferredBackupWindow", "PreferredMaintenanceWindow"):
            if window in chosen:
                chosen[window] = str(chosen[window]).lower()
        if "PreferredBackupWindow" in chosen and "PreferredMaintenanceWindow" in chosen:
            self._check_windows(chosen["PreferredMaintenanceWindow"], chosen["PreferredBackupWindow"])
        if (authentication := params.get("EnableIAMDatabaseAuthentication")) is not None:
            chosen["IAMDatabaseAuthenticationEnabled"] = authentication
        if (exports := params.get("EnableCloudwatchLogsExports")) is not None:
            chosen["EnabledCloudwatchLogsExports"] = list(exports)
        if (insights := params.get("EnablePerformanceInsights")) is not None:
            chosen["PerformanceInsightsEnabled"] = insights
            if insights:
                # Not the storage's key: Performance Insights has one of its own.
                chosen["PerformanceInsightsKMSKeyId"] = self.keys.accept(params.get("PerformanceInsightsKMSKeyId"))
                chosen.setdefault("PerformanceInsightsRetentionPeriod", 7)
        if groups := params.get("VpcSecurityGroupIds"):
            known = ec2_backends[self.account_id][self.region_name]
            for group in groups:
                if known.get_security_group_from_id(group) is None:
                    raise invalid_value(f"Invalid security group , groupId= {group}, groupName=.")
            chosen["SecurityGroups"] = list(groups)
        if subnets := params.get("DBSubnetGroupName"):
            chosen["SubnetGroup"] = self._subnet_group(subnets)
        if group := params.get("DBParameterGroupName"):
            group = group.lower()
            if group not in self.db_parameter_groups:
                raise refuse("DBParameterGroupNotFound", f"DBParameterGroup not found: {group}")
            chosen["ParameterGroup"] = group
        if group := params.get("OptionGroupName"):
            if group not in self.option_groups and not group.startswith(f"default:{engine.name}-"):
                raise refuse("OptionGroupNotFoundFault", f"Specified OptionGroupName: {group} not found.")
            chosen["OptionGroup"] = group
        return chosen

    def _check_windows(self, maintenance: str, backup: str) -> None:
        if message := valid_preferred_maintenance_window(maintenance, backup):
            raise invalid_value(message)

    def _default_security_group(self) -> str:
        ec2 = ec2_backends[self.account_id][self.region_name]
        return str(ec2.get_default_security_group(ec2.default_vpc.id).id)

    def _subnet_group(self, name: str | None) -> View:
        if name and name != "default":
            if name not in self.subnet_groups:
                raise refuse("DBSubnetGroupNotFoundFault", f"DB subnet group '{name}' does not exist.")
            group = self.subnet_groups[name]
            return {
                "DBSubnetGroupName": group.name,
                "DBSubnetGroupDescription": group.description,
                "DBSubnetGroupArn": group.arn,
                "VpcId": group.vpc_id,
                "SubnetGroupStatus": "Complete",
                "Subnets": group.subnets,
            }
        ec2 = ec2_backends[self.account_id][self.region_name]
        vpc = ec2.default_vpc
        subnets = [s for zone in ec2.subnets.values() for s in zone.values() if s.vpc_id == vpc.id]
        return {
            "DBSubnetGroupName": "default",
            "DBSubnetGroupDescription": "default",
            "DBSubnetGroupArn": self.arn_of("subgrp", "default"),
            "VpcId": vpc.id,
            "SubnetGroupStatus": "Complete",
            "Subnets": [
                {
                    "SubnetIdentifier": subnet.id,
                    "SubnetAvailabilityZone": {"Name": subnet.availability_zone},
                    "SubnetStatus": "Active",
                }
                for subnet in subnets
            ],
        }


class DBInstance:
    """What moto's managed secret wants to know of its instance; it spells the name of the class in a tag."""

    resource_type = "db"

    def __init__(self, backend: SandboxRds, arn: str) -> None:
        self.backend = backend
        self.arn = arn


class ManagedSecret(MasterUserSecret):  # type: ignore[misc]
    """The master user's secret, with a password of its own; moto gives everybody the same."""

    def __init__(self, backend: SandboxRds, instance: Instance, key: str) -> None:
        self.password = secrets.token_urlsafe(24)
        self._user = instance.settings["MasterUsername"]
        super().__init__(DBInstance(backend, instance.arn), key)

    def _generate_secret_string(self) -> str:
        return json.dumps({"username": self._user, "password": self.password})


def _tags(params: Params) -> list[dict[str, str]]:
    tags = [{"Key": tag["Key"], "Value": tag.get("Value") or ""} for tag in params.get("Tags") or ()]
    _check_tags(tags)
    return tags


def _check_tags(tags: Iterable[Mapping[str, str]]) -> None:
    for tag in tags:
        if tag["Key"].lower().startswith(("aws:", "rds:")):
            raise invalid_value(f"Tag key {tag['Key']} begins with a reserved prefix.")


def _retention(days: int) -> int:
    if not 0 <= int(days) <= 35:
        raise invalid_value(f"Invalid backup retention period: {days}. Must be between 0 and 35.")
    return int(days)


def _check_password(password: str | None) -> None:
    if not password:
        raise invalid_value("The parameter MasterUserPassword must be provided and must not be blank.")
    if not 8 <= len(password) <= 128:
        raise invalid_value(
            "The parameter MasterUserPassword is not a valid password because it is shorter than 8 characters."
        )
    if re.search(r"[/@\" ]|[^ -~]", password):
        raise invalid_value(
            "The parameter MasterUserPassword is not a valid password. Only printable ASCII characters besides "
            "'/', '@', '\"', ' ' may be used."
        )


def _passes(params: Params, facts: dict[str, Callable[[], list[str]]]) -> bool:
    filters = params.get("Filters") or []
    for wanted in filters:
        if wanted["Name"] not in facts:
            raise invalid_value(f"Unrecognized filter name: {wanted['Name']}")
    return matches(filters, facts)


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"


def _last_start(window: str, now: dt.datetime) -> dt.datetime:
    """When a daily window last began."""
    hour, minute = window[:5].split(":")
    start = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    return start if start <= now else start - dt.timedelta(days=1)


def _in_weekly_window(window: str, now: dt.datetime) -> bool:
    days = "mon tue wed thu fri sat sun".split()

    def minute_of_week(moment: str) -> int:
        day, hour, minute = moment.split(":")
        return days.index(day) * 1440 + int(hour) * 60 + int(minute)

    start, end = (minute_of_week(moment) for moment in window.lower().split("-"))
    current = now.weekday() * 1440 + now.hour * 60 + now.minute
    return (current - start) % 10080 < (end - start) % 10080


__all__ = ["RdsError", "SandboxRds", "ServerError", "Tagged"]
