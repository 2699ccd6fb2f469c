"""RDS: the API's rules, states that take time, and real servers behind them.

A request checks, changes the books and returns; the work is done by a thread per operation, which holds the virtual
clock while it does something real and lets it pass while RDS would be busy. Refusals are AWS's (errors.py).
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from moto.rds.models import DBParameterGroup, RDSBackend

from sandbox.rds.blue_green import BlueGreen
from sandbox.rds.errors import instance_not_found, invalid_value, refuse, snapshot_not_found
from sandbox.rds.operations import AVAILABLE, Params
from sandbox.rds.parameters import ParameterGroups
from sandbox.rds.resources import Instance, View, matches
from sandbox.rds.settings import DAYS, tags_of

HOUSEKEEPING_SECONDS = 0.5
RECOVERABLE_DAYS = 7


class SandboxRds(ParameterGroups, BlueGreen):
    """Put into moto in place of its own backend by :func:`sandbox.rds.install_rds`, which makes subclasses of it."""

    __module__ = RDSBackend.__module__  # moto finds the URLs of a service by the module of its backend

    started: list[SandboxRds]

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        for kind in self.engines.kinds.values():
            self.db_parameter_groups[kind.parameter_group] = DBParameterGroup(
                self, kind.parameter_group, f"Default parameter group for {kind.family}", kind.family
            )
        self.started.append(self)
        threading.Thread(target=self._keep_house, name="rds housekeeping", daemon=True).start()

    def describe_db_instances(self, db_instance_identifier: str | None = None, filters: Any = None) -> list[Instance]:
        """As moto's own code calls it."""
        if db_instance_identifier:
            return [self.instance(db_instance_identifier)]
        return list(self.databases.values())

    def iter_tagged_resources(self) -> Iterator[Any]:
        """All of one moment: the others go on making and removing some."""
        with self.lock:
            return iter(list(super().iter_tagged_resources()))

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
                        "db-instance-id": [i.name, i.arn],
                        "dbi-resource-id": [i.dbi_resource_id],
                        "engine": [i.engine],
                        "db-cluster-id": [],
                        "domain": [],
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
                        "db-instance-id": [s.instance_name, self.arn_of("db", s.instance_name)],
                        "db-snapshot-id": [s.name],
                        "dbi-resource-id": [s.dbi_resource_id],
                        "snapshot-type": [s.kind],
                        "engine": [s.settings["Engine"]],
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
                    "status": [v["Status"]],
                    "db-instance-id": [v["DBInstanceIdentifier"], v["DBInstanceArn"]],
                    "dbi-resource-id": [v["DbiResourceId"]],
                },
            )
        ]

    # -- tags and groups -----------------------------------------------------------------------------------------------

    def _get_resource_for_tagging(self, arn: str) -> Any:
        with self.lock:
            if arn.split(":")[5:6] == ["auto-backup"]:
                return next((backup for backup in self.backups if backup.arn == arn), None)
            found = super()._get_resource_for_tagging(arn)
        if found is None:
            kind = arn.split(":")[5]
            if kind == "db":
                raise instance_not_found(arn)
            raise snapshot_not_found(arn) if kind == "snapshot" else invalid_value(f"{arn} not found.")
        return found

    def add_tags_to_resource(self, arn: str, tags: list[dict[str, str]]) -> list[dict[str, str]]:
        plain = tags_of({"Tags": tags})  # moto's own mapping spells its keys differently
        resource = self._get_resource_for_tagging(arn)
        with self.lock:
            added: list[dict[str, str]] = resource.add_tags(plain)
            return added

    def describe_option_groups(self, option_group_kwargs: Params) -> list[Any]:
        name = option_group_kwargs.get("OptionGroupName")
        if name is None:
            return list(self.option_groups.values())
        if name not in self.option_groups:
            raise refuse("OptionGroupNotFoundFault", f"Specified OptionGroupName: {name} not found.")
        return [self.option_groups[name]]

    # -- housekeeping --------------------------------------------------------------------------------------------------

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

    def _watch_replica(self, instance: Instance) -> None:
        if instance.source and instance.server and instance.endpoint_visible:
            instance.replicating = instance.server.replication_status() == "replicating"

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
                instance.key_lost_at = self.keys.unusable_since(instance.kms_key_id) or now
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


def _passes(params: Params, facts: Mapping[str, list[str]]) -> bool:
    filters = params.get("Filters") or []
    for wanted in filters:
        if wanted["Name"] not in facts:
            raise invalid_value(f"Unrecognized filter name: {wanted['Name']}")
    return matches(filters, facts)


def _in_weekly_window(window: str, now: dt.datetime) -> bool:

    def minute_of_week(moment: str) -> int:
        day, hour, minute = moment.split(":")
        return DAYS.index(day) * 1440 + int(hour) * 60 + int(minute)

    start, end = (minute_of_week(moment) for moment in window.lower().split("-"))
    current = now.weekday() * 1440 + now.hour * 60 + now.minute
    return (current - start) % 10080 < (end - start) % 10080
