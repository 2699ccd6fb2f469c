"""Snapshots and automated backups: copies of real data, under a key, for a time."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import MutableMapping

from sandbox.rds.errors import invalid_snapshot_state, invalid_value, refuse
from sandbox.rds.keys import TO_COPY
from sandbox.rds.operations import Params
from sandbox.rds.resources import AutomatedBackup, Data, Instance, Operated, Snapshot
from sandbox.rds.settings import Settings, tags_of

SNAPSHOT_QUOTA = 100
SNAPSHOT_IDENTIFIER = re.compile(r"(?!.*--)[a-z]([a-z0-9-]{0,253}[a-z0-9])?")


class Backups(Settings):
    """Everything that holds the data of an instance, or of a cluster, outside of it."""

    def snapshots_like(self, owner: Operated | Snapshot) -> MutableMapping[str, Snapshot]:
        """The book of an instance's snapshots; clusters have another one."""
        book: MutableMapping[str, Snapshot] = self.database_snapshots
        return book

    def kinds_of_backups(self, owner: Operated) -> tuple[type[Snapshot], type[AutomatedBackup]]:
        return Snapshot, AutomatedBackup

    def create_db_snapshot(self, params: Params) -> Snapshot:
        with self.lock:
            instance = self.instance(params["DBInstanceIdentifier"])
            name = self._new_snapshot_name(params["DBSnapshotIdentifier"])
            self._must_be_available(instance, "take a snapshot of", also=("stopped",))
            stopped = instance.status == "stopped"
            snapshot = self._new_snapshot(instance, name, tags=tags_of(params) if params.get("Tags") else None)
            instance.status = "backing-up"

        def take() -> None:
            self._take(instance, snapshot)
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
            return self._copy_snapshot(source, name, params)

    def _take(self, owner: Operated, snapshot: Snapshot) -> None:
        since = self.context.clock.time()
        snapshot.data = self._copy_of(owner)
        snapshot.taken = self.context.clock.now()
        self._pass(owner, self.durations.snapshot, since)
        snapshot.status = "available"

    def _copy_snapshot(self, source: Snapshot, name: str, params: Params) -> Snapshot:
        wanted = params.get("KmsKeyId")
        key = source.key
        if wanted or source.key:
            key = self.keys.accept(wanted or source.key, TO_COPY)
            if source.key and source.key != key:
                self.keys.accept(source.key, TO_COPY)
        tags = tags_of(params) or (list(source.tags) if params.get("CopyTags") else [])
        now = self.context.clock.now()
        copied = type(source)(
            **{**source.__dict__, "name": name, "kind": "manual", "tags": tags, "key": key, "taken": now,
               "status": "creating", "copied_from": source.arn, "expires": None, "data": None,
               "attributes": {"restore": []}},
        )  # fmt: skip
        book = self.snapshots_like(source)
        book[name] = copied
        self.keys.hold(key, copied.storage_id, copied.holder)
        self.keys.used(key, "ReEncrypt")
        self.keys.used(source.key, "ReEncrypt")

        def copy() -> None:
            self._pass(None, self.durations.copy)
            with self.lock:
                if book.get(source.name) is not source or source.data is None:
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
            return snapshot.modify_attribute(attribute_name, values_to_add, values_to_remove)

    def _new_snapshot(
        self, owner: Operated, name: str, tags: list[dict[str, str]] | None, kind: str = "manual"
    ) -> Snapshot:
        """Enter a snapshot in the books; its data comes later. Without tags of its own it may have the owner's."""
        if tags is None:
            tags = list(owner.tags) if owner.settings["CopyTagsToSnapshot"] else []
        now = self.context.clock.now()
        make = self.kinds_of_backups(owner)[0]
        snapshot = make(**make.facts(owner), name=name, kind=kind, tags=tags, taken=now, original=now)
        self.snapshots_like(owner)[name] = snapshot
        self.keys.hold(owner.kms_key_id, owner.storage_id, snapshot.holder)
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

    def _copy_of(self, owner: Operated) -> Data:
        with self.lock:
            self._made += 1
            path = self.snapshot_directory / f"s{self._made}"
        with owner.server_lock:
            assert owner.data_server
            owner.data_server.snapshot(path)
        return Data(path)

    def _drop_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots_like(snapshot).pop(snapshot.name, None)
        self.keys.release(snapshot.key, snapshot.storage_id, snapshot.holder)
        if snapshot.data:
            snapshot.data.release()
            snapshot.data = None

    # -- automated backups ---------------------------------------------------------------------------------------------

    def _first_backup(self, instance: Instance) -> None:
        self._show(instance, "backing-up")
        self.note(instance, "backup", "Backing up DB instance")
        with self.lock:
            self._note_retention(instance)
        data = self._copy_of(instance)
        self._pass(instance, self.durations.backup)
        self._begin_backups(instance, data)
        self.note(instance, "backup", "Finished DB instance backup")

    def _begin_backups(self, owner: Operated, data: Data) -> None:
        with self.lock:
            now = self.context.clock.now()
            self._note_retention(owner)
            self._automated_snapshot(owner, now, data)
            owner.backups_since = owner.last_backup_window = now

    def _note_retention(self, owner: Operated) -> None:
        """Keep the automated backup's books in step with the owner's retention."""
        if not owner.retention_days:
            return
        backup = next((b for b in self.backups if b.owner is owner), None)
        if backup is None:
            make = self.kinds_of_backups(owner)[1]
            backup = make(
                **make.facts(owner), tags=list(owner.tags), retention_days=owner.retention_days, earliest=None,
                owner=owner,
            )  # fmt: skip
            self.backups.append(backup)
            self.keys.hold(owner.kms_key_id, owner.storage_id, backup.holder)
        backup.retention_days = owner.retention_days
        for snapshot in self.snapshots_like(owner).values():
            if snapshot.kind == "automated" and snapshot.storage_id == owner.storage_id:
                snapshot.expires = snapshot.taken + dt.timedelta(days=owner.retention_days)

    def _automated_snapshot(self, owner: Operated, taken: dt.datetime, data: Data) -> None:
        name = f"rds:{owner.name}-{taken:%Y-%m-%d-%H-%M}"
        if name in self.snapshots_like(owner):
            data.release()
            return
        snapshot = self._new_snapshot(owner, name, tags=list(owner.tags), kind="automated")
        snapshot.data, snapshot.taken, snapshot.original, snapshot.status = data, taken, taken, "available"
        snapshot.expires = taken + dt.timedelta(days=owner.retention_days)

    def _drop_backups(self, owner: Operated) -> None:
        """Backups are switched off: what there is goes at once."""
        with self.lock:
            for backup in [b for b in self.backups if b.owner is owner]:
                self._drop_backup(backup)
            self._drop_automated_snapshots(owner.storage_id)
            owner.backups_since = owner.last_backup_window = None

    def _end_backups(self, owner: Operated, *, forget: bool) -> None:
        """The owner goes: its automated backups go too, or are retained for as long as they were to be."""
        self.end_replications(owner)
        if forget:
            self._drop_backups(owner)
            return
        for backup in [b for b in self.backups if b.owner is owner]:
            self._retain(backup, owner)

    def _retain(self, backup: AutomatedBackup, owner: Operated) -> None:
        backup.earliest, backup.owner_name = owner.backups_since, owner.name
        backup.ended, backup.owner = self.context.clock.now(), None

    def replications_of(self, owner: Operated) -> list[AutomatedBackup]:
        """Its automated backups in other Regions that RDS goes on to replicate."""
        raise NotImplementedError

    def end_replications(self, owner: Operated) -> None:
        """What there is of them is retained."""
        raise NotImplementedError

    def _drop_backup(self, backup: AutomatedBackup) -> None:
        self.backups.remove(backup)
        self.keys.release(backup.key, backup.storage_id, backup.holder)

    def _drop_automated_snapshots(self, storage_id: str) -> None:
        for snapshot in self._all_snapshots():
            if snapshot.kind == "automated" and snapshot.storage_id == storage_id:
                self._drop_snapshot(snapshot)

    def _all_snapshots(self) -> list[Snapshot]:
        return [*self.database_snapshots.values(), *self.cluster_snapshots.values()]

    def delete_db_instance_automated_backup(self, params: Params) -> AutomatedBackup:
        with self.lock:
            wanted = params.get("DbiResourceId"), params.get("DBInstanceAutomatedBackupsArn")
            for backup in self.backups:
                of_an_instance = backup.resource_type == AutomatedBackup.resource_type
                if of_an_instance and (backup.storage_id == wanted[0] or backup.arn == wanted[1]):
                    if backup.owner:
                        raise refuse("InvalidDBInstanceAutomatedBackupState", "The automated backup is active.")
                    self._drop_backup(backup)
                    self._drop_automated_snapshots(backup.storage_id)
                    return backup
        raise refuse("DBInstanceAutomatedBackupNotFound", f"No automated backup for {wanted[0] or wanted[1]}.")

    def in_daily_backup(self, owner: Operated) -> bool:
        """Whether now is the time of the owner's daily backup."""
        if not owner.retention_days or not owner.backups_since:
            return False
        now = self.context.clock.now()
        start = _last_start(owner.settings["PreferredBackupWindow"], now)
        return start > owner.backups_since and now < start + dt.timedelta(minutes=self.durations.backup)

    def _daily_backup(self, owner: Operated) -> None:
        """Make the automated snapshots of the windows that have passed.

        A clock that jumps over several windows leaves one copy of the data for all of them.
        """
        with self.lock:
            now = self.context.clock.now()
            if owner.last_backup_window is None or owner.status != "available" or self.in_daily_backup(owner):
                return
            start = _last_start(owner.settings["PreferredBackupWindow"], now)
            if start <= owner.last_backup_window:
                return
            missed = [start]
            while (earlier := missed[-1] - dt.timedelta(days=1)) > owner.last_backup_window:
                missed.append(earlier)
            missed = [m for m in missed if m > now - dt.timedelta(days=owner.retention_days)]
            owner.last_backup_window = start
        if not missed or not owner.operations.acquire(blocking=False):
            return
        try:
            with self.context.clock.busy(), owner.server_lock:
                server = owner.data_server
                if owner.doomed.is_set() or server is None or not server.pid:
                    return
                data = self._copy_of(owner)
            with self.lock:
                for moment in missed:
                    self._automated_snapshot(owner, moment, data.share())
            data.release()
        finally:
            owner.operations.release()

    def _expire(self) -> None:
        now = self.context.clock.now()
        for backup in [b for b in self.backups if b.expires and b.expires <= now]:
            self._drop_backup(backup)
        for snapshot in [s for s in self._all_snapshots() if s.expires and s.expires <= now]:
            self._drop_snapshot(snapshot)


def _last_start(window: str, now: dt.datetime) -> dt.datetime:
    """When a daily window last began."""
    hour, minute = window[:5].split(":")
    start = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    return start if start <= now else start - dt.timedelta(days=1)
