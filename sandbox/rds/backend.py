"""RDS: the API's rules, states that take time, and real servers behind them.

A request checks, changes the books and returns; the work is done by a thread per operation, which holds the virtual
clock while it does something real and lets it pass while RDS would be busy. Refusals are AWS's (errors.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from moto.rds.models import DBParameterGroup, OptionGroup, RDSBackend

from sandbox.rds.cluster_parameters import ClusterParameterGroups
from sandbox.rds.cluster_resources import ClusterBackup
from sandbox.rds.errors import (
    RdsError,
    cluster_not_found,
    cluster_snapshot_not_found,
    instance_not_found,
    invalid_value,
    refuse,
    snapshot_not_found,
)
from sandbox.rds.filters import passes
from sandbox.rds.operations import AVAILABLE, Params
from sandbox.rds.proxies import Proxies
from sandbox.rds.replicated_backups import ReplicatedBackups
from sandbox.rds.resources import Instance, Operated, Tagged, View
from sandbox.rds.settings import tags_of
from sandbox.rds.windows import in_weekly_window

HOUSEKEEPING_SECONDS = 0.5
RECOVERABLE_DAYS = 7
NOT_FOUND: dict[str, Callable[[str], RdsError]] = {
    "cluster": cluster_not_found,
    "cluster-snapshot": cluster_snapshot_not_found,
    "db": instance_not_found,
    "snapshot": snapshot_not_found,
}
"""By the kind in the ARN."""


class SandboxRds(ClusterParameterGroups, Proxies, ReplicatedBackups):
    """Put into moto in place of its own backend by :func:`sandbox.rds.install_rds`, which makes subclasses of it."""

    __module__ = RDSBackend.__module__  # moto finds the URLs of a service by the module of its backend

    started: list[SandboxRds]

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        for kind in self.engines.kinds.values():
            self.db_parameter_groups[kind.parameter_group] = DBParameterGroup(
                self, kind.parameter_group, f"Default parameter group for {kind.family}", kind.family
            )
            self.option_groups[kind.option_group] = OptionGroup(
                self, kind.option_group, kind.name, kind.major, f"Default option group for {kind.name} {kind.major}"
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
                if passes(
                    params,
                    {
                        "db-instance-id": [i.name, i.arn],
                        "dbi-resource-id": [i.dbi_resource_id],
                        "engine": [i.engine],
                        "db-cluster-id": [i.cluster.name, i.cluster.arn] if i.cluster else [],
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
                snapshots = [s for s in snapshots if s.owner_name == name.rsplit(":", 1)[-1].lower()]
            if resource := params.get("DbiResourceId"):
                snapshots = [s for s in snapshots if s.storage_id == resource]
            if kind:
                snapshots = [s for s in snapshots if s.kind == kind]
            return [
                s.view()
                for s in snapshots
                if passes(
                    params,
                    {
                        "db-instance-id": [s.owner_name, self.arn_of("db", s.owner_name)],
                        "db-snapshot-id": [s.name],
                        "dbi-resource-id": [s.storage_id],
                        "snapshot-type": [s.kind],
                        "engine": [s.settings["Engine"]],
                    },
                )
            ]

    def views_of_backups(self, params: Params) -> list[View]:
        with self.lock:
            self._expire()
            views = [backup.view() for backup in self.backups if not isinstance(backup, ClusterBackup)]
        for member in ("DBInstanceIdentifier", "DbiResourceId", "DBInstanceAutomatedBackupsArn"):
            if value := params.get(member):
                views = [view for view in views if view[member] == value]
        return [
            v
            for v in views
            if passes(
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
            if arn.split(":")[5:6] in (["auto-backup"], ["cluster-auto-backup"]):
                return next((backup for backup in self.backups if backup.arn == arn), None)
            found = super()._get_resource_for_tagging(arn)
        if found is None:
            missing = NOT_FOUND.get(arn.split(":")[5])
            raise missing(arn) if missing else invalid_value(f"{arn} not found.")
        return found

    def add_tags_to_resource(self, arn: str, tags: list[dict[str, str]]) -> list[dict[str, str]]:
        plain = tags_of({"Tags": tags})  # moto's own mapping spells its keys differently
        resource = self._get_resource_for_tagging(arn)
        with self.lock:
            if isinstance(resource, Tagged):
                resource.change_tags_at(self.context.clock.time())
            added: list[dict[str, str]] = resource.add_tags(plain)
            return added

    def remove_tags_from_resource(self, arn: str, tag_keys: list[str]) -> None:
        resource = self._get_resource_for_tagging(arn)
        with self.lock:
            if isinstance(resource, Tagged):
                resource.change_tags_at(self.context.clock.time())
            resource.remove_tags(tag_keys)

    def tags_for_permissions(self, arn: str) -> list[dict[str, str]]:
        resource = self._get_resource_for_tagging(arn)
        with self.lock:
            now = self.context.clock.time()
            tags: list[dict[str, str]] = (
                resource.tags_for_permissions(now) if isinstance(resource, Tagged) else resource.get_tags()
            )
            return tags

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
                    instances, clusters = list(self.databases.values()), list(self.clusters.values())
                for instance in instances:
                    self._watch_replica(instance)
                    self.turn_log(instance)
                    if instance.cluster is None:
                        self._watch_key(instance, [instance])
                    self._daily_backup(instance)
                    if self._has_to_be_maintained(instance):
                        self._maintain(instance)
                for cluster in clusters:
                    self._watch_key(cluster, cluster.members)
                    self._daily_backup(cluster)
                    if self._has_to_be_maintained(cluster):
                        self._maintain_cluster(cluster)
            except Exception:
                self._note_failure()

    def _watch_replica(self, instance: Instance) -> None:
        if instance.source and instance.server and instance.endpoint_visible:
            instance.replicating = instance.server.replication_status() == "replicating"

    def _has_to_be_maintained(self, owner: Operated) -> bool:
        """Something waits for the maintenance window, and this is it."""
        with self.lock:
            return (
                bool(owner.pending)
                and owner.status == "available"
                and in_weekly_window(owner.settings["PreferredMaintenanceWindow"], self.context.clock.now())
            )

    def _maintain(self, instance: Instance) -> None:
        with self.lock:
            work = dict(instance.pending)
            instance.status = "modifying"
        self._operate(instance, lambda: self._apply(instance, work))

    def _watch_key(self, owner: Operated, instances: list[Instance]) -> None:
        """Let an instance, or a cluster with its instances, be out of reach when the key has been lost for a while."""
        with self.lock:
            now = self.context.clock.time()
            if owner.kms_key_id is None or self.keys.usable(owner.kms_key_id):
                owner.key_lost_at = None
                return
            if owner.key_lost_at is None:
                owner.key_lost_at = self.keys.unusable_since(owner.kms_key_id) or now
            lost_for = now - owner.key_lost_at
            if owner.status == "inaccessible-encryption-credentials-recoverable":
                if lost_for > RECOVERABLE_DAYS * 86400:
                    self._show_all(owner, instances, "inaccessible-encryption-credentials")
                return
            if owner.status not in AVAILABLE or lost_for < self.durations.inaccessible_key * 60:
                return
            recoverable = "-recoverable" if _can_stop(owner) else ""
            self._show_all(owner, instances, "inaccessible-encryption-credentials" + recoverable)
        for instance in instances:
            with instance.operations:
                if instance.server:
                    instance.server.stop()

    def _show_all(self, owner: Operated, instances: list[Instance], status: str) -> None:
        owner.status = status
        for instance in instances:
            if not instance.doomed.is_set():
                instance.status = status


def _can_stop(owner: Operated) -> bool:
    """RDS offers a way back only to what can be stopped."""
    if isinstance(owner, Instance):
        return bool(owner.retention_days) and not owner.source and not owner.replicas
    return True
