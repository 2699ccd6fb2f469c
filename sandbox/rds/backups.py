"""Snapshots and automated backups: copies of real data, under a key, for a time."""

from __future__ import annotations

import datetime as dt
import re

from sandbox.rds.errors import invalid_snapshot_state, invalid_value, refuse
from sandbox.rds.keys import TO_COPY
from sandbox.rds.operations import Params
from sandbox.rds.resources import AutomatedBackup, Data, Instance, Snapshot
from sandbox.rds.servers import Server
from sandbox.rds.settings import Settings, tags_of

SNAPSHOT_QUOTA = 100
SNAPSHOT_IDENTIFIER = re.compile(r"(?!.*--)[a-z]([a-z0-9-]{0,253}[a-z0-9])?")


class Backups(Settings):
    """Everything that holds an instance's data outside the instance."""

    def create_db_snapshot(self, params: Params) -> Snapshot:
        with self.lock:
            instance = self.instance(params["DBInstanceIdentifier"])
            name = self._new_snapshot_name(params["DBSnapshotIdentifier"])
            self._must_be_available(instance, "take a snapshot of", also=("stopped",))
            stopped = instance.status == "stopped"
            snapshot = self._new_snapshot(instance, name, tags=tags_of(params) if params.get("Tags") else None)
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
            tags = tags_of(params) or (list(source.tags) if params.get("CopyTags") else [])
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
                raise invalid_snapshot_state(
                    f"Cannot delete the snapshot because it is not available: {snapshot.status}."
                )
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
        snapshot = Snapshot(**Snapshot.facts(instance), name=name, kind=kind, tags=tags, taken=now, original=now)
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

    # -- automated backups ---------------------------------------------------------------------------------------------

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

    def _expire(self) -> None:
        now = self.context.clock.now()
        for backup in [b for b in self.backups if b.expires and b.expires <= now]:
            self._drop_backup(backup)
        for snapshot in [s for s in self.database_snapshots.values() if s.expires and s.expires <= now]:
            self._drop_snapshot(snapshot)


def _last_start(window: str, now: dt.datetime) -> dt.datetime:
    """When a daily window last began."""
    hour, minute = window[:5].split(":")
    start = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    return start if start <= now else start - dt.timedelta(days=1)
