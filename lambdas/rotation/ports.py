"""Everything a step may touch, as protocols, and the one place that chooses the real implementations.

A step gets `Ports` and nothing else: no environment, client, clock or sleep of its own. The real ports are made on
first use, so a function imports neither a database driver nor a service's client that it never calls.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from lambdas.rotation import names
from lambdas.rotation.errors import AwsUnavailable, DatabaseUnreachable, StateIncomplete
from lambdas.rotation.state import (
    Database,
    DatabaseFence,
    EndpointSecret,
    Finding,
    KeyUser,
    ManagedRotation,
    Plan,
    Position,
    ReplicatedBackup,
    Rotation,
    Verdict,
)


class Clock(Protocol):
    """Wall-clock time for records and deadlines; ``pause`` only inside the write outage, briefly."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float:
        """Seconds, for measuring how long something has taken: a brief in-outage poll, a search."""
        ...

    def pause(self, seconds: float) -> None: ...


class Settings(Protocol):
    """What the deployed stack says: the defaults of a plan, and where things are."""

    @property
    def defaults(self) -> Mapping[str, Any]: ...


SECURITY_GROUPS = "security groups"
"""Name of the carried setting that a network fence changes."""

ASSOCIATED_ROLES, KEY_OF_INSIGHTS, TAGS = "associated roles", "Performance Insights key", "tags"
"""Names of those that RDS carries to green in its own way, or not at all."""

ISOLATION_GROUP = "isolation_group"
"""Among the stack's defaults: the id of the security group without inbound rules, where it has made one."""

BACKUP_REGIONS = "backup_regions"
"""Among the stack's defaults: the Regions in which a rotation may begin the replication of automated backups anew."""

GIVEN_UP = ("failed", "incompatible", "restore-error")
"""Beginnings of the states in which RDS has ended what it was doing with an instance."""

UNUSABLE = (*GIVEN_UP, "inaccessible", "insufficient", "storage-full", "deleting")
"""And of those in which it leaves an instance to its owner; with its key or more storage RDS may go on with it."""


@dataclass(frozen=True)
class Instance:
    """What RDS says about one instance, or about one cluster, in our words; ``raw`` is the whole answer."""

    database: Database
    status: str
    tags: Mapping[str, str]
    storage_encrypted: bool
    backup_retention_days: int
    deletion_protection: bool
    replica_of: str | None
    replication_normal: bool
    has_status_infos: bool
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def backup_replications(self) -> dict[str, str]:
        """Region -> ARN of the automated backups that RDS replicates there."""
        shown = self.raw.get("DBInstanceAutomatedBackupsReplications") or ()
        arns = [str(one.get("DBInstanceAutomatedBackupsArn") or "") for one in shown]
        return {names.region_of(arn): arn for arn in arns}

    @property
    def is_unusable(self) -> bool:
        """Waiting for it would be in vain."""
        return self.status.startswith(UNUSABLE)


class Rds(Protocol):
    """RDS. ``request_`` starts something slow and returns. All may raise AwsUnavailable, AccessRefused, AwsRefused."""

    def describe_instance(self, identifier: str) -> Instance | None: ...

    def describe_instance_by_resource_id(self, resource_id: str) -> Instance | None:
        """Follow an instance through a rename; None when it no longer exists."""
        ...

    def log_lines(self, identifier: str, words: str, since: datetime) -> Sequence[str]:
        """Lines with these words in them, of the server's logs that were written to since then."""
        ...

    def describe_opted_in(self) -> Sequence[Instance]:
        """Every instance of this account and Region that is tagged ``key-rotation:enabled=true``."""
        ...

    def request_read_replica(
        self,
        source: Instance,
        identifier: str,
        key_arn: str,
        tags: Mapping[str, str],
        *,
        like: Instance | None = None,
    ) -> None:
        """Ask for a replica with every setting of the source, or of ``like``, that can be given at creation.

        Raises: ReplicaKeyRefused, NameTaken, AwsRefused (terminal).
        """
        ...

    def request_restore(self, source: Instance, target_identifier: str, snapshot: str, tags: Mapping[str, str]) -> None:
        """Ask for the target of a snapshot, under that snapshot's key, with the source's settings.

        Raises: NameTaken, AwsRefused (terminal).
        """
        ...

    def request_member(
        self, source: Instance, identifier: str, cluster_identifier: str, key_arn: str, tags: Mapping[str, str]
    ) -> None:
        """Ask for an instance of a cluster, with the settings of another cluster's instance.

        Raises: NameTaken, AwsRefused (terminal).
        """
        ...

    def settings_differences(self, source: Instance, target: Instance) -> Mapping[str, tuple[Any, Any]]:
        """Setting name -> (source's, target's), for every carried setting that differs."""
        ...

    def request_setting_repair(self, source: Instance, target: Instance, differences: Collection[str]) -> Sequence[str]:
        """Ask for the repairs that are possible now; returns the names of the differences that cannot be repaired."""
        ...

    def account_quotas(self) -> Mapping[str, tuple[int, int]]:
        """Quota name (RDS's own word: ``DBInstances``, ``AllocatedStorage``, …) -> (used, maximum)."""
        ...

    def is_orderable(self, engine: str, version: str, instance_class: str) -> bool:
        """Whether RDS makes a new instance of exactly this version, of this class, in this Region."""
        ...

    def parameters_of(self, group: str) -> Mapping[str, str]:
        """Every parameter to which a DB parameter group gives a value."""
        ...

    def proxies_of(self, identifier: str) -> Sequence[str]:
        """Names of the RDS Proxies that lead to this instance or cluster."""
        ...

    def integrations_of(self, arn: str) -> Sequence[str]:
        """Names of the zero-ETL integrations that read from this instance or cluster."""
        ...

    def pending_maintenance(self, arn: str) -> Sequence[str]:
        """What RDS would do to the instance or cluster by itself in its next maintenance window, each as one line."""
        ...

    def event_subscriptions_of(self, identifier: str) -> Sequence[str]:
        """Names of the event subscriptions that name this instance or cluster."""
        ...

    def last_backup_at(self, resource_id: str) -> datetime | None: ...

    def options_with_groups(self, option_group: str) -> Sequence[str]:
        """Names of the options that security groups of their own let clients in to."""
        ...

    def request_security_groups(self, identifier: str, groups: Sequence[str]) -> None:
        """Ask for these groups instead of those that it has; while RDS is busy with it, the next visit asks again."""
        ...

    def request_reboot(self, identifier: str) -> bool:
        """False: RDS is busy with it, or it has just gone, and RDS has not accepted that."""
        ...

    def restarted_at(self, identifier: str, since: datetime) -> datetime | None:
        """When RDS last said, after this moment, that it has restarted the server."""
        ...

    def request_promotion(self, target_identifier: str, source: Instance) -> None:
        """Raises: PromotionFailed (terminal) when RDS refuses."""
        ...

    def request_rename(self, instance: Instance, identifier: str) -> None:
        """Ask for another name, unless RDS is at work on this one. It restarts, and its endpoint has the new name."""
        ...

    def set_tags(self, arn: str, tags: Mapping[str, str]) -> None: ...

    def remove_tags(self, arn: str, names: Sequence[str]) -> None: ...

    def describe_snapshot(self, identifier: str) -> Mapping[str, Any] | None: ...

    def snapshots_under(self, key_arn: str, tags: Mapping[str, str]) -> Sequence[str]:
        """Manual snapshots under this key that carry all these tags."""
        ...

    def request_snapshot(self, identifier: str, source_identifier: str, tags: Mapping[str, str]) -> None: ...

    def request_snapshot_copy(self, source: str, copy: str, key_arn: str, tags: Mapping[str, str]) -> None: ...

    def request_snapshot_deletion(self, identifier: str) -> None: ...

    def disable_deletion_protection(self, identifier: str) -> None: ...

    def request_instance_deletion(self, of: Database, *, keep_automated_backups: bool) -> None:
        """No final snapshot: it would hold the old key. The copy under the new key was made before.

        Refused where its name leads to another instance by now.
        """
        ...


class Clusters(Protocol):
    """Aurora's clusters, by the same words as `Rds`; each of their instances is an instance there, too."""

    def describe(self, identifier: str) -> Instance | None: ...

    def describe_by_resource_id(self, resource_id: str) -> Instance | None: ...

    def describe_opted_in(self) -> Sequence[Instance]: ...

    def settings_differences(self, source: Instance, target: Instance) -> Mapping[str, tuple[Any, Any]]: ...

    def request_restore(
        self, source: Instance, target_identifier: str, snapshot: str, key_arn: str, tags: Mapping[str, str]
    ) -> None:
        """Ask for the target of a snapshot, under this key; it has no instance then.

        Raises: NameTaken, AwsRefused (terminal).
        """
        ...

    def request_setting_repair(
        self, source: Instance, target: Instance, differences: Collection[str]
    ) -> Sequence[str]: ...

    def request_missing_roles(self, source: Instance, target: Instance) -> None:
        """Ask for the associated roles that the target lacks. Repeatable."""
        ...

    def parameters_of(self, group: str) -> Mapping[str, str]:
        """Every parameter to which a DB cluster parameter group gives a value."""
        ...

    def request_security_groups(self, identifier: str, groups: Sequence[str]) -> None:
        """Ask for these groups for all its instances; while RDS is busy with it, the next visit asks again."""
        ...

    def describe_snapshot(self, identifier: str) -> Mapping[str, Any] | None: ...

    def snapshots_under(self, key_arn: str, tags: Mapping[str, str]) -> Sequence[str]: ...

    def request_snapshot(self, identifier: str, source_identifier: str, tags: Mapping[str, str]) -> None: ...

    def request_snapshot_copy(self, source: str, copy: str, key_arn: str, tags: Mapping[str, str]) -> None: ...

    def request_snapshot_deletion(self, identifier: str) -> None: ...

    def disable_deletion_protection(self, identifier: str) -> None: ...

    def request_deletion(self, of: Database, *, keep_automated_backups: bool) -> None:
        """No final snapshot. RDS refuses while the cluster has instances: the next visit asks again.

        Refused where its name leads to another cluster by now.
        """
        ...


@dataclass(frozen=True)
class BlueGreenDeployment:
    """What DescribeBlueGreenDeployments says about one deployment. ``members``: ARNs of source and target."""

    identifier: str
    name: str
    status: str
    details: str
    tags: Mapping[str, str]
    members: tuple[tuple[str, str], ...]


class BlueGreen(Protocol):
    """RDS's blue/green deployments. ``request_`` starts something slow and returns."""

    def describe(self, name: str) -> BlueGreenDeployment | None: ...

    def deployments_of(self, source_arn: str) -> Sequence[str]:
        """Names of the deployments whose source this is."""
        ...

    def request(self, name: str, members: Sequence[Instance], keys: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Ask for a deployment of the first of ``members``; ``keys``: the key of a member's copy, by its ARN.

        Raises: DeploymentRefused, NameTaken, AwsRefused (terminal).
        """
        ...

    def request_switchover(self, identifier: str, timeout_seconds: int) -> str | None:
        """What RDS says where it refuses, which may be about an earlier request; None where it accepts."""
        ...

    def request_deletion(self, identifier: str, *, with_target: bool) -> bool:
        """Whether RDS has accepted it (or the deployment is gone); not while it is made or switched over."""
        ...


@dataclass(frozen=True)
class KeyFacts:
    arn: str
    manager: str
    state: str
    multi_region: bool
    tags: Mapping[str, str]
    created_at: datetime
    deletion_at: datetime | None = None
    has_replica_keys: bool = False


class Kms(Protocol):
    def describe_key(self, key: str) -> KeyFacts: ...

    def key_state(self, key_arn: str) -> str:
        """``Enabled``, ``Disabled``, ``PendingDeletion``, …; needs less permission than its description."""
        ...

    def created_at(self, key_arn: str) -> datetime:
        """One call, and no more permission than `key_state`: a fleet asks about a thousand keys."""
        ...

    def owners_aliases(self, key_arn: str) -> Sequence[str]:
        """Those of a key of this account that its owner has given it, by which whoever knows them goes on using it."""
        ...

    def create_key(self, description: str, tags: Mapping[str, str], like: KeyFacts | None, default_policy: bool) -> str:
        """The ARN of a new key with the policy and the tags of ``like``; None: there was no key before.

        ``default_policy``: take KMS's own where the old key's cannot be given to it.
        """
        ...

    def complete_key(self, key_arn: str, alias: str, like: KeyFacts | None) -> None:
        """Give it its alias, and rotation of key material as ``like`` has it. Repeatable."""
        ...

    def find_key(self, description: str, rotation_id: str) -> str | None:
        """The ARN of the key with this rotation's tag and this very description, of several the oldest; or None."""
        ...

    def delete_alias(self, alias: str) -> None: ...

    def disable_key(self, key_arn: str) -> None: ...

    def enable_key(self, key_arn: str) -> None: ...

    def schedule_key_deletion(self, key_arn: str, pending_window_days: int) -> datetime: ...


class ReplicatedBackups(Protocol):
    """RDS in other Regions; called only by functions outside the VPC."""

    def at(self, arn: str) -> ReplicatedBackup | None:
        """None when there is none that RDS goes on to replicate."""
        ...

    def of(self, database: Database, region: str) -> ReplicatedBackup | None: ...

    def count(self, region: str) -> int:
        """How many databases have their backups replicated to it."""
        ...

    def request(self, database: Database, region: str, key_arn: str, retention_days: int) -> None:
        """Begin to replicate its automated backups. Does not wait for a copy. One that has begun is left as it is."""
        ...


class KeyUsers(Protocol):
    def users_of(self, key_arn: str) -> Sequence[KeyUser]:
        """Whoever depends on the key, as far as this account and Region can say.

        A question that could not be answered is in the list too (``kind`` "unanswered"): it counts as use.
        """
        ...


@dataclass(frozen=True)
class Watchers:
    """What looks at a database by its identifier."""

    alarms: tuple[str, ...] = ()
    dashboards: tuple[str, ...] = ()
    unseen: int = 0
    """Alarms and dashboards that were not looked at, because that would take too long; at least so many."""


class Dns(Protocol):
    """Route 53; called only by functions outside the VPC."""

    def describe_record(self, zone_id: str, name: str) -> tuple[str, int] | None:
        """Value and TTL (seconds) of the one simple CNAME; raises ConnectivityChanged when it is anything else."""
        ...

    def limitations(self, zone_id: str, name: str, address: str) -> Sequence[Finding]: ...

    def write_record(self, zone_id: str, name: str, value: str, ttl_seconds: int, expected: tuple[str, int]) -> str:
        """Replace the record, only if it is ``expected``; returns the change id. Does not wait for it to spread."""
        ...


@dataclass(frozen=True)
class ProxyTarget:
    """The database that an RDS Proxy leads to, by its own name (`databases.own_name`)."""

    name: str
    unavailable: str | None
    """Why the proxy cannot use it, in RDS's words; None when it does."""


class Proxies(Protocol):
    """RDS Proxies, by name; called for leading them elsewhere only by functions outside the VPC."""

    def limitations(self, proxy: str, database: Database) -> Sequence[Finding]: ...

    def target_of(self, proxy: str) -> ProxyTarget | None:
        """None when it leads nowhere; raises ConnectivityChanged when there is none, or it leads to several."""
        ...

    def lead(self, proxy: str, database: Database, instead_of: Database) -> None:
        """Let it lead to ``database``, only if it leads to ``instead_of``, or nowhere. Does not wait. Repeatable."""
        ...


class Monitoring(Protocol):
    """CloudWatch; called only by functions outside the VPC, which spares an endpoint in it."""

    def watchers_of(self, identifier: str) -> Watchers: ...


class Network(Protocol):
    """The network as a client beside this function meets it."""

    def accepts(self, address: str, port: int) -> bool:
        """Whether a session could begin there now. Raises DatabaseUnreachable (retryable) when that cannot be told."""
        ...


class SecurityGroups(Protocol):
    """EC2's security groups."""

    def inbound_rules(self, group_id: str) -> Sequence[str]:
        """Ids of the rules that let anybody in."""
        ...


class Names(Protocol):
    """The name service as a client beside this function sees it."""

    def addresses(self, name: str) -> frozenset[str]:
        """IP addresses of a host name; empty when it does not exist. Raises AwsUnavailable (retryable)."""
        ...


class Secrets(Protocol):
    def login(self, secret_id: str) -> tuple[str, str]:
        """User name and password. Raises LoginRefused when the secret has no usable fields."""
        ...

    def describe_endpoint(self, secret_id: str) -> EndpointSecret: ...

    def limitations(self, secret_id: str, *, purpose: str) -> Sequence[Finding]: ...

    def write_endpoint(self, secret: EndpointSecret, database: Database) -> None:
        """Change host, port and dbInstanceIdentifier, only if the host is as written down; keep all other fields."""
        ...

    def restore_endpoint(self, secret: EndpointSecret, database: Database) -> None:
        """Put back what was written down, only where the host is that of ``database`` (the target)."""
        ...

    def managed_rotation(self, secret_id: str) -> ManagedRotation | None:
        """The rotation of the secret by Secrets Manager, when it is switched on."""
        ...

    def rotation_under_way(self, secret_id: str) -> str | None:
        """Why the secret's value is about to change at this moment, or None."""
        ...

    def suspend_rotation(self, managed: ManagedRotation) -> None:
        """Switch it off. Repeatable. A rotation that is under way would be cut off: look first."""
        ...

    def restore_rotation(self, managed: ManagedRotation) -> None:
        """Switch it on again as it was, without rotating at once; one that is on is left as it is. Repeatable."""
        ...


class StillClosed(Exception):
    """A verdict stands, and RDS has not yet opened what it opens: the next visit asks again, and looks."""


@dataclass(frozen=True)
class Lag:
    bytes: int | None
    seconds: float | None
    streaming: bool


@dataclass(frozen=True)
class ControlView:
    """What the control database shows without opening any other."""

    system_identifier: str
    in_recovery: bool
    position: Position
    marker_seen: bool
    databases: tuple[str, ...]
    roles: tuple[str, ...]
    fence_breach: str | None
    first_database: str | None = None
    """The one that it was made with; a side need not show it."""


class Engine(Protocol):
    """One database server, spoken to in SQL through its own endpoint, TLS verified.

    All methods may raise DatabaseUnreachable (retryable) and LoginRefused (terminal).
    """

    def login_limitations(self) -> Sequence[Finding]:
        """Why this login cannot run a rotation; a missing right comes with the GRANT that gives it."""
        ...

    def limitations(self, accept: Sequence[str]) -> Sequence[Finding]:
        """What in the databases forbids a rotation (prepared transactions, logical slots, unlogged relations, …)."""
        ...

    def logical_slots(self) -> Mapping[str, str]:
        """Logical replication slots of this server that no rotation has made -> the database of each.

        A replica of PostgreSQL 16 and later may have some of its own.
        """
        ...

    def warnings(self) -> Sequence[Finding]: ...

    def ensure_control_database(self) -> None: ...

    def claim(self, rotation_id: str, instead_of: str = "") -> str:
        """Say that this rotation is at work on this server, unless another one is.

        Returns whoever is by then. ``instead_of``: another one that is known to be over. A claim that came with the
        data, from another server, is nobody's.
        """
        ...

    def drop_control_database(self, rotation_id: str) -> None:
        """Remove it if it is ours, and not another rotation's by its claim. Repeatable."""
        ...

    def databases_with_superuser_sessions(self) -> Sequence[str]: ...

    def plan_fence(
        self, superuser_databases: Sequence[str], besides: Sequence[DatabaseFence] = ()
    ) -> tuple[DatabaseFence, ...]:
        """Which databases to close and how, with what re-opens them. Reads only; call before anything is fenced.

        ``besides`` a fence that stands: what has appeared since, empty when nothing is left unfenced.
        """
        ...

    def expected_fence(self) -> tuple[DatabaseFence, ...]:
        """As `plan_fence`, before there is a control database. Reads only."""
        ...

    def raise_fence(self, rotation_id: str, databases: Sequence[DatabaseFence], within_seconds: float) -> None:
        """Close, terminate in a loop, probe. Repeatable.

        Raises: DecisionLost (terminal) when a verdict of this rotation stands: a late fence closes nothing.
            FenceIncomplete (terminal) when it does not succeed in time; the fence may then stand in part.
        """
        ...

    def fence_breach(self, databases: Sequence[DatabaseFence]) -> str | None:
        """Why the fence does not hold, or None."""
        ...

    def mark(self, token: str) -> Position:
        """Write the marker row (again) and return a position that lies after it and after every earlier commit."""
        ...

    def replayed(self) -> Position: ...

    def has_replayed(self, position: Position) -> bool: ...

    def shows_marker(self, token: str) -> bool: ...

    def is_replica(self) -> bool: ...

    def lag(self) -> Lag: ...

    def control_view(self, rotation_id: str, databases: Sequence[DatabaseFence]) -> ControlView: ...

    def decide(self, rotation_id: str, verdict: Verdict, reopen: Sequence[DatabaseFence]) -> Verdict:
        """Write the verdict and re-open ``reopen`` in one transaction; the verdict that stands is returned.

        A verdict written before is not changed: when it is the same, ``reopen`` is re-opened (again); when it is the
        other, nothing happens.

        Raises: StillClosed where RDS has to open, and has not done so yet; the verdict stands.
        """
        ...

    def verdict(self, rotation_id: str) -> Verdict | None: ...

    def inspect(self) -> Mapping[str, Any]:
        """Per database: relation count, invalid indexes, sequences. Only after the release."""
        ...


@dataclass(frozen=True)
class Delivery:
    """How far a copy is with what its source has captured."""

    slots: int
    position: Position | None
    """Everything before it is durable in the copy."""
    bytes: int
    """Behind that position."""
    seconds: float | None
    """Age of what it applies, where it knows."""
    connected: bool
    lost: bool
    """The source has thrown away what the copy does not have."""


class CatchUpEngine(Engine, Protocol):
    """A server whose commits are captured, or its restored copy that catches up with them (ADR 17, ADR 18).

    ``name`` is that of the capture. What is asked of the source and what of the copy is said where it matters. What is
    replicated by itself is an engine's own unit (``database``): a database, or all of a server.
    """

    def begin_capture(self, name: str) -> tuple[tuple[str, ...], Position]:
        """Source: from now on it keeps what it commits. Repeatable.

        Returns what is replicated by itself, and a position that the copy's recovery cannot end before.

        Raises: PreflightRefused (terminal); applications could no longer change the rows of a table.
        """
        ...

    def leave_a_note(self, rotation_id: str, note: str) -> None:
        """Source: a row that the copy has to show exactly once."""
        ...

    def end_of_recovery(self, begun: Position, log_lines: Callable[[str], Iterable[str]]) -> Position | None:
        """Copy: the last of the source's commits that came with the snapshot; ``begun`` is where the capture began.

        ``log_lines`` finds words in the copy's log. None: it does not say so yet.

        Raises: CatchUpFailed (terminal); nobody can tell, or what came with the snapshot would never let it catch up.
        """
        ...

    def begin_behind(self, name: str, database: str, position: Position) -> None:
        """Source: send what was committed behind the end of the copy's recovery. Repeatable.

        Raises: CatchUpFailed (terminal); the source no longer has all that lies behind it.
        """
        ...

    def delivery(self, name: str, copy: "CatchUpEngine") -> Delivery:
        """Source: how far the copy is. Some know it themselves, others ask the copy.

        Raises: CatchUpFailed (terminal); the copy cannot apply what it was sent.
        """
        ...

    def has_delivered(self, name: str, copy: "CatchUpEngine", slots: int, position: Position) -> bool:
        """Source: whether the copy has made every commit before the position durable."""
        ...

    def witnesses(
        self, rotation_id: str, name: str, databases: Sequence[DatabaseFence]
    ) -> AbstractContextManager[Callable[[], None]]:
        """Source: sessions from before the fence; call what it gives under the fence, before the position is taken.

        Raises: JournalMoved (retryable) when another attempt has testified, or has begun after this one.
            DecisionLost (terminal) when a verdict of this rotation stands. TargetMismatch (terminal) when there is a
            captured database that accepts no connections any more. What it gives, also:
            FenceBroken (terminal) when the fence does not hold; TargetMismatch (terminal) when there is what was never
            captured.
        """
        ...

    def dismiss_senders(self, name: str) -> bool:
        """Source: end what sends; whether all are gone, so that the fence can be proven by its probe."""
        ...

    def keep_closed(self) -> None:
        """Copy: let nobody in, and go on applying."""
        ...

    def is_subscribed(self, name: str, database: str) -> bool: ...

    def subscribe(self, name: str, database: str, source: Database, position: Position) -> None:
        """Copy: apply what the source has committed behind its recovery's end. Repeatable."""
        ...

    def is_untouched(self) -> bool:
        """Copy, before it subscribes: whether nobody has written to a table since it was restored."""
        ...

    def differing_catalogs(self, of_the_source: Mapping[str, str]) -> Sequence[str]:
        """Copy: what is not as it was at the source, which said so by `catalogs`."""
        ...

    def catalogs(self, name: str) -> Mapping[str, str]:
        """Source: database -> digest of what is not replicated. Raises TargetMismatch: a table is not captured."""
        ...

    def has_notes_once(self, rotation_id: str, notes: Sequence[str]) -> bool: ...

    def take_over(self, rotation_id: str, name: str) -> None:
        """Copy: compare with the source's testimony, carry the sequences, stop applying. Repeatable.

        Raises: TargetMismatch (terminal).
        """
        ...

    def end_capture(self, name: str) -> None:
        """Either: remove what captures. Repeatable."""
        ...


class RecoverySchedule(Protocol):
    """The one-time schedule that recovers a rotation whose execution died between fence and release."""

    def is_set(self, rotation: Rotation) -> bool: ...

    def set(self, rotation: Rotation, at: datetime) -> None: ...

    def remove(self, rotation: Rotation) -> None: ...


class Workflow(Protocol):
    """Step Functions, as far as a rotation speaks to it."""

    def is_running(self, execution_arn: str) -> bool: ...

    def stop(self, execution_arn: str, reason: str) -> None: ...

    def start_recovery(self, execution_arn: str, name: str) -> None: ...

    def answer(self, task_token: str, output: Mapping[str, Any] | None, error: str = "", cause: str = "") -> None:
        """Success when ``output`` is given, failure otherwise; an answered or expired token is not an error."""
        ...


class Notifier(Protocol):
    def publish(self, moment: str, subject: str, message: Mapping[str, Any]) -> None: ...

    def describe_topic(self) -> None:
        """Ask SNS for the topic: whoever gets an answer has a way to it. Nobody is told anything."""
        ...


@dataclass(frozen=True)
class Lock:
    rotation_id: str
    execution_arn: str


@dataclass(frozen=True)
class Entry:
    """One rotation in the ledger: its journal while it runs, the history afterwards."""

    rotation: Rotation
    recorded_at: datetime
    """When a step has written it last; a takeover alone does not."""
    outcome: str | None = None
    closed_at: datetime | None = None


class Ledger(Protocol):
    """The lock, the journal and the history of every database (see `ledger.py`)."""

    def acquire(self, rotation: Rotation) -> Lock | None:
        """Take the database's lock; None when it is ours now (or was already), else the holder."""
        ...

    def release_lock(self, rotation: Rotation) -> None: ...

    def open(self, rotation: Rotation) -> Rotation:
        """Make the journal entry (epoch 1); an entry of the same rotation is returned as it stands."""
        ...

    def current(self, rotation: Rotation, *, takes_over: bool = False) -> Rotation:
        """The journal's version of this rotation, which this invocation goes on from.

        Raises EpochSuperseded (terminal) when somebody took it over.

        ``takes_over``: an older epoch is let in when the rotation's execution is still the holder.
        """
        ...

    def record(self, rotation: Rotation) -> None:
        """Write the rotation down.

        Raises EpochSuperseded (terminal); JournalMoved (retryable) when another invocation has written since `current`.
        """
        ...

    def take_over(self, rotation: Rotation, execution_arn: str) -> Rotation:
        """Raise the epoch and hand the rotation to an execution: from now on every older write fails."""
        ...

    def close(self, rotation: Rotation, outcome: str) -> None: ...

    def decide(self, rotation_id: str, base_name: str, verdict: Verdict) -> Verdict:
        """Write the verdict, unless one was written before; the one that stands is returned."""
        ...

    def verdict(self, rotation_id: str, base_name: str) -> Verdict | None: ...

    def entry(self, base_name: str, rotation_id: str) -> Entry | None: ...

    def entries(self, base_name: str) -> Sequence[Entry]: ...

    def unfinished(self) -> tuple[Sequence[Entry], Sequence[str]]:
        """All open entries of all databases (the recovery sweep), and the names of those that cannot be read."""
        ...

    def left_by(self, execution_arn: str) -> Entry | None:
        """The open rotation that this execution holds, or held when it ended."""
        ...

    def successor(self, base_name: str) -> str | None:
        """The resource id of the database that the base name leads to, None before its first rotation."""
        ...

    def advance(self, rotation: Rotation) -> None:
        """Let the base name lead to the target from now on."""
        ...


class Ports(Protocol):
    """The whole container. `AwsPorts` makes each port on first use; tests hand in fakes."""

    @property
    def clock(self) -> Clock: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def rds(self) -> Rds: ...
    @property
    def clusters(self) -> Clusters: ...
    @property
    def blue_green(self) -> BlueGreen: ...
    @property
    def kms(self) -> Kms: ...
    @property
    def replicated_backups(self) -> ReplicatedBackups: ...
    @property
    def key_users(self) -> KeyUsers: ...
    @property
    def dns(self) -> Dns: ...
    @property
    def proxies(self) -> Proxies: ...
    @property
    def monitoring(self) -> Monitoring: ...
    @property
    def names(self) -> Names: ...
    @property
    def network(self) -> Network: ...
    @property
    def security_groups(self) -> SecurityGroups: ...
    @property
    def secrets(self) -> Secrets: ...
    @property
    def recovery(self) -> RecoverySchedule: ...
    @property
    def workflow(self) -> Workflow: ...
    @property
    def notifier(self) -> Notifier: ...
    def kms_in(self, region: str) -> Kms: ...
    def engine(self, database: Database, plan: Plan) -> Engine: ...
    def catching_up(self, database: Database, plan: Plan) -> CatchUpEngine: ...


class SystemClock:
    """Reads ``time.time``, so that one clock serves the whole process."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time(), UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


class SystemNames:
    """The resolver of the machine, for the VPC's view of a name."""

    def addresses(self, name: str) -> frozenset[str]:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise AwsUnavailable(f"the name service did not answer for {name}") from error
            return frozenset()
        except UnicodeError:  # no name at all: an empty label, or one of more than 63 characters
            return frozenset()
        return frozenset(str(address[0]) for *_, address in found)


class SystemNetwork:
    """TCP. What does not answer in time is closed; what has no address may be anything."""

    ANSWER_SECONDS = 3.0
    CLOSED = (TimeoutError, ConnectionRefusedError, ConnectionResetError)
    UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH)

    def accepts(self, address: str, port: int) -> bool:
        try:
            socket.create_connection((address, port), timeout=self.ANSWER_SECONDS).close()
        except self.CLOSED:
            return False
        except OSError as error:
            if error.errno in self.UNREACHABLE:
                return False
            raise DatabaseUnreachable(f"{address}:{port} cannot be tried: {error}") from error
        return True


class Environment:
    """The function's environment variables: the only place that reads them."""

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        loaded: dict[str, Any] = json.loads(os.environ["ROTATION_DEFAULTS"])
        return loaded

    def __getitem__(self, name: str) -> str:
        return os.environ[name]


class AwsPorts:
    """The real ports of one function; nothing is imported or connected before it is needed."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.settings = Environment()
        self.names = SystemNames()
        self.network = SystemNetwork()

    @cached_property
    def ledger(self) -> Ledger:
        from lambdas.rotation.ledger import DynamoLedger

        return DynamoLedger(self.settings["LEDGER_TABLE"], self.clock)

    @cached_property
    def rds(self) -> Rds:
        from lambdas.rotation.aws.rds import AwsRds

        return AwsRds()

    @cached_property
    def clusters(self) -> Clusters:
        from lambdas.rotation.aws.clusters import AwsClusters

        return AwsClusters()

    @cached_property
    def blue_green(self) -> BlueGreen:
        from lambdas.rotation.aws.blue_green import AwsBlueGreen

        return AwsBlueGreen()

    @cached_property
    def kms(self) -> Kms:
        from lambdas.rotation.aws.kms import AwsKms

        return AwsKms()

    def kms_in(self, region: str) -> Kms:
        from lambdas.rotation.aws.kms import AwsKms

        return AwsKms(region)

    @cached_property
    def replicated_backups(self) -> ReplicatedBackups:
        from lambdas.rotation.aws.replicated_backups import RdsReplicatedBackups

        return RdsReplicatedBackups()

    @cached_property
    def key_users(self) -> KeyUsers:
        from lambdas.rotation.aws.key_users import AwsKeyUsers

        return AwsKeyUsers(self.clock)

    @cached_property
    def dns(self) -> Dns:
        from lambdas.rotation.aws.dns import Route53

        return Route53()

    @cached_property
    def proxies(self) -> Proxies:
        from lambdas.rotation.aws.proxies import RdsProxies

        return RdsProxies()

    @cached_property
    def monitoring(self) -> Monitoring:
        from lambdas.rotation.aws.cloudwatch import CloudWatch

        return CloudWatch()

    @cached_property
    def security_groups(self) -> SecurityGroups:
        from lambdas.rotation.aws.security_groups import Ec2SecurityGroups

        return Ec2SecurityGroups()

    @cached_property
    def secrets(self) -> Secrets:
        from lambdas.rotation.aws.secrets import SecretsManager

        return SecretsManager(self.clock)

    @cached_property
    def recovery(self) -> RecoverySchedule:
        from lambdas.rotation.aws.scheduler import SchedulerRecovery

        return SchedulerRecovery(
            group=self.settings["RECOVERY_GROUP"],
            state_machine_arn=self.settings["ROTATE_KEY_ARN"],
            role_arn=self.settings["RECOVERY_ROLE_ARN"],
            dead_letter_arn=self.settings["RECOVERY_DLQ_ARN"],
        )

    @cached_property
    def workflow(self) -> Workflow:
        from lambdas.rotation.aws.step_functions import StepFunctions

        return StepFunctions(self.settings["ROTATE_KEY_ARN"])

    @cached_property
    def notifier(self) -> Notifier:
        from lambdas.rotation.aws.sns import SnsNotifier

        return SnsNotifier(self.settings["TOPIC_ARN"])

    def engine(self, database: Database, plan: Plan) -> Engine:
        from lambdas.rotation.engines import engine_for

        if plan.fence == "network":
            from lambdas.rotation.network_fence import NetworkFence

            return NetworkFence(database, plan, self)
        if plan.strategy == "catch-up":
            return self.catching_up(database, plan)
        return engine_for(
            database,
            self._login(plan),
            ca_bundle=self.settings["CA_BUNDLE"],
            clock=self.clock,
            replicates=plan.strategy in ("read-replica", "blue-green"),
        )

    def catching_up(self, database: Database, plan: Plan) -> CatchUpEngine:
        from lambdas.rotation.engines import catch_up_engine_for

        return catch_up_engine_for(database, self._login(plan), ca_bundle=self.settings["CA_BUNDLE"], clock=self.clock)

    def _login(self, plan: Plan) -> tuple[str, str]:
        if plan.login_secret is None:
            raise StateIncomplete("needs a login secret: Preflight refuses a plan without one")
        return self.secrets.login(plan.login_secret)


class Step(Protocol):
    """What every handler module offers: a Rotation in, a Rotation out."""

    def __call__(self, rotation: Rotation, ports: Ports) -> Rotation: ...
