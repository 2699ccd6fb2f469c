"""Automated backups that RDS replicates to another Region: the calls are made there.

Known from AWS's documentation (RDS User Guide, "Replicating automated backups to another AWS Region" and
"Troubleshooting stopped cross-Region automated backups"), from the SDK's model, which names the codes, and from
hashicorp/terraform-provider-aws (46687, 33362): the instance is ``modifying`` for a while after either call, and a
replicated backup ``pending`` before its first copy is there. What RDS does with the replication of an instance that is
deleted is in the SDK's model only: ``retained`` is a backup of a deleted instance.
"""

from __future__ import annotations

from dataclasses import dataclass

from moto.rds.models import rds_backends

from sandbox.rds.backups import Backups
from sandbox.rds.errors import invalid_combination, invalid_instance_state, invalid_value, refuse
from sandbox.rds.operations import Params
from sandbox.rds.resources import AutomatedBackup, Instance, Operated, View
from sandbox.rds.settings import tags_of

REPLICATION_QUOTA = 20
RETENTION_DAYS = 7
"""Of a request that does not say (Terraform's documentation; RDS's does not)."""
LONGEST_RETENTION_DAYS = 35


@dataclass(eq=False)
class ReplicatedBackup(AutomatedBackup):
    """``backend`` is that of the Region that it is in, ``key`` one of there."""

    home: Backups | None = None
    """RDS in the instance's Region."""
    copied: bool = False
    """The first copy is there."""

    @property
    def status(self) -> str:
        if self.owner is None:
            return "retained"
        return "replicating" if self.copied else "pending"

    def view(self) -> View:
        assert self.home is not None
        return {
            **super().view(),
            "DBInstanceArn": self.home.arn_of("db", self.name_now),
            "Region": self.home.region_name,
        }


class ReplicatedBackups(Backups):
    """RDS in the Region that backups are replicated to; and in the one that they come from."""

    started: list[ReplicatedBackups]

    def start_replication(self, params: Params) -> ReplicatedBackup:
        home, arn = self._home_of(params)
        days = int(params.get("BackupRetentionPeriod") or RETENTION_DAYS)
        if not 1 <= days <= LONGEST_RETENTION_DAYS:
            raise invalid_value(f"Invalid backup retention period: {days}. Must be between 1 and 35.")
        with home.lock, self.lock:
            instance: Instance = home.instance(arn)
            if instance.cluster:
                raise invalid_value(f"{instance.name} belongs to a cluster, whose backups are not replicated.")
            if not instance.retention_days:
                raise invalid_instance_state(f"Automated backups are not enabled for DB instance {instance.name}.")
            home._must_be_available(instance, "replicate the automated backups of")
            if any(one in self.backups for one in home.replications_of(instance)):
                raise refuse(
                    "InvalidDBInstanceAutomatedBackupState",
                    f"The automated backups of {instance.name} are replicated to {self.region_name} already.",
                )
            if sum(isinstance(one, ReplicatedBackup) and one.owner is not None for one in self.backups) >= (
                REPLICATION_QUOTA
            ):
                raise refuse(
                    "DBInstanceAutomatedBackupQuotaExceeded",
                    f"{REPLICATION_QUOTA} automated backups are replicated to {self.region_name}.",
                )
            key = self._key_of_replication(instance, params)
            backup = ReplicatedBackup(
                **{**ReplicatedBackup.facts(instance), "backend": self, "key": key}, tags=tags_of(params),
                retention_days=days, earliest=None, owner=instance, home=home,
            )  # fmt: skip
            self.backups.append(backup)
            self.keys.hold(key, backup.storage_id, backup.holder)

        def copy() -> None:
            self._pass(None, self.durations.copy)
            backup.copied = True

        self._operate(None, copy)
        home.change_replications(instance)
        return backup

    def stop_replication(self, params: Params) -> ReplicatedBackup:
        home, arn = self._home_of(params)
        with home.lock, self.lock:
            instance = home.instance(arn)
            found = [one for one in home.replications_of(instance) if one in self.backups]
            if not found:
                # In RDS's words (terraform-provider-aws has them).
                raise invalid_instance_state(f"{instance.name} is not replicating to the current region.")
            backup = found[0]
            self._retain(backup, instance)
        home.change_replications(instance)
        assert isinstance(backup, ReplicatedBackup)
        return backup

    def replications_of(self, owner: Operated) -> list[AutomatedBackup]:
        return [
            one for region in self.started if region is not self for one in list(region.backups) if one.owner is owner
        ]

    def end_replications(self, owner: Operated) -> None:
        for backup in self.replications_of(owner):
            self._retain(backup, owner)

    def change_replications(self, instance: Instance) -> None:
        """RDS is at work on the instance for a while."""

        def work() -> None:
            if instance.status != "available":
                return
            self._show(instance, "modifying")
            self._pass(instance, self.durations.modify)
            self._show(instance, "available")

        self._operate(instance, work)

    def _home_of(self, params: Params) -> tuple[ReplicatedBackups, str]:
        arn = str(params.get("SourceDBInstanceArn") or "")
        fields = arn.split(":")
        if len(fields) != 7 or fields[2] != "rds" or fields[5] != "db" or fields[4] != self.account_id:
            raise invalid_value(f"Invalid SourceDBInstanceArn: {arn}")
        if fields[3] == self.region_name:
            raise invalid_value("The source and the destination Region must be different.")
        return rds_backends[self.account_id][fields[3]], arn

    def _key_of_replication(self, instance: Instance, params: Params) -> str | None:
        named = params.get("KmsKeyId")
        if instance.kms_key_id is None:
            if named:
                raise invalid_combination("KmsKeyId is of encrypted DB instances.")
            return None
        if not named:
            raise invalid_combination(f"{instance.name} is encrypted: KmsKeyId has to be a key of {self.region_name}.")
        return self.keys.accept(named)
