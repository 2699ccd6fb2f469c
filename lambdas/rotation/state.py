"""The rotation's state: what travels through the state machine and, at every step, into the journal.

One immutable document. Each part is written by one step and is absent until that step has run, so a step that needs a
part asks for it by a method that refuses (`StateIncomplete`) when an earlier step has not left it. Nothing secret is in
it. Times are aware UTC, durations seconds, positions opaque outside `engines/`.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NewType, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from lambdas.rotation.errors import StateIncomplete

RECOVER = "Recover"
"""The input field that names the execution whose rotation is to be finished or undone."""

SCHEMA: Final = 1
"""Raised when a running execution's state could no longer be read by newer code; a test replays one of every schema."""

Position = NewType("Position", str)
"""A point in a database's write history: an LSN or a GTID set."""

Verdict = Literal["release", "rollback"]
"""What the decision row of a rotation says; the first one written stands for ever."""


_GONE = frozenset({"key_first_requested_at", "key_requested_at"})
"""What the journals of earlier releases have, and nothing reads any more."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_release(cls, state: Any) -> Any:
        return {name: part for name, part in state.items() if name not in _GONE} if isinstance(state, dict) else state

    def having(self, **parts: Any) -> Self:
        """A copy with these fields replaced, validated (pydantic's ``model_copy`` does not validate)."""
        return type(self).model_validate(dict(self) | parts)


class Database(_Part):
    """One RDS database, an instance or a cluster, by the facts that identify it."""

    identifier: str
    arn: str
    resource_id: str
    engine: str
    engine_version: str
    address: str
    port: int
    kms_key_arn: str | None = None
    vpc_id: str | None = None

    @property
    def is_cluster(self) -> bool:
        return is_cluster(self.resource_id)

    @property
    def is_multi_az_cluster(self) -> bool:
        """A Multi-AZ DB cluster, no cluster of Aurora's: RDS makes its instances with it, and deletes them with it."""
        return self.is_cluster and not self.engine.startswith("aurora")


def is_cluster(resource_id: str) -> bool:
    """By RDS's own prefix, ``cluster-``; that of an instance is ``db-``."""
    return resource_id.startswith("cluster-")


class DnsRecordName(_Part):
    """Where applications look the database up: one simple CNAME in one hosted zone."""

    zone_id: str
    name: str


Strategy = Literal["read-replica", "blue-green", "snapshot", "catch-up", "auto"]


class NotTaken(_Part):
    """A strategy that ``auto`` passed over, and why."""

    strategy: Strategy
    reasons: tuple[str, ...]


class ReplicatedBackup(_Part):
    """Automated backups of an instance that RDS replicates to another Region, as it shows them there."""

    region: str
    arn: str
    key_arn: str | None
    """Of that Region."""
    retention_days: int


class Replica(_Part):
    """A read replica of the source, as it was at the start."""

    identifier: str
    """The name by which its readers find it."""
    arn: str
    resource_id: str
    key_arn: str | None = None
    allocated_gib: int = 0


class Plan(_Part):
    """What this rotation will do: input over tags over the stack's defaults. Written by StartRotation."""

    base_name: str
    strategy: Strategy = "read-replica"
    """``auto`` until Preflight has chosen."""
    fallback: Strategy | None = None
    """What ``auto`` takes, once, if AWS refuses the strategy that Preflight has chosen."""
    not_taken: tuple[NotTaken, ...] = ()
    login_secret: str | None = None
    connectivity: tuple[Literal["dns", "secret", "proxy"], ...] = ()
    dns_record: DnsRecordName | None = None
    endpoint_secret: str | None = None
    proxy: str | None = None
    grace_days: Annotated[float, Field(ge=0, le=300)] = 7
    write_outage_budget_seconds: Annotated[int, Field(ge=5, le=86_400)] = 120
    """`policy` has narrower bounds, by strategy."""
    retire_key: Literal["auto", "true", "false"] = "auto"
    accept: tuple[str, ...] = ()
    pre_copy: bool = False
    """Of ``snapshot``: copy all of it once before the fence."""
    fence: Literal["server", "network"] = "server"
    """How applications are kept out: by a login that closes their databases, or by the source's security groups."""
    replicated_backups: tuple[ReplicatedBackup, ...] = ()
    """The source's. The target gets the like, each under a new key; StartRotation finds them."""
    replicas: tuple[Replica, ...] = ()
    """The source's, of its own Region. But by ``blue-green`` each is made anew after the cutover."""
    dry_run: bool = False
    reason: str | None = None


class Finding(_Part):
    """Something Preflight saw: a reason to refuse, or a warning. ``advice`` says what to do about it."""

    name: str
    message: str
    advice: str


class FirstLook(_Part):
    """What a function outside the VPC asks (Route 53, CloudWatch, other Regions); written by StartRotation, reported by
    Preflight."""

    limitations: tuple[Finding, ...] = ()
    limitations_of_proxy: tuple[Finding, ...] = ()
    limitations_of_backups: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()


class Preflight(_Part):
    """What was known before anything was created. A refusal never gets here: it is an error that lists all reasons."""

    warnings: tuple[Finding, ...] = ()
    monthly_cost_usd: float | None = None
    checked_at: AwareDatetime


class Key(_Part):
    arn: str
    manager: Literal["AWS", "CUSTOMER"]
    alias: str | None = None


class KeyRequest(_Part):
    """Written down before KMS is asked for a key: CreateKey has no client token, and its answer may get lost."""

    token: str
    """In the key's description. Nobody knows it before, and no tag can put it there."""
    began_at: AwareDatetime
    requested_at: AwareDatetime | None
    """The last time; None: KMS has refused it, so there is no key to wait for."""
    complete: bool = False
    """The key has its alias, and rotation of its material."""


class DnsRecord(_Part):
    """The record as it was found, and the TTL that it was lowered to."""

    zone_id: str
    name: str
    value: str
    ttl_seconds: int
    lowered_ttl_seconds: int


class EndpointSecret(_Part):
    """The secret as it was found: applications read the database's address from its fields."""

    arn: str
    version_id: str
    host: str
    port: int | None = None


class ManagedRotation(_Part):
    """The rotation of a secret by Secrets Manager, as it was found switched on: what it takes to switch it on again."""

    secret_arn: str
    function_arn: str | None
    """None where another service rotates the secret; such a rotation cannot be suspended."""
    rules: dict[str, int | str]
    """RotationRules as RotateSecret takes them."""


class Connectivity(_Part):
    """How applications are led to the database. Written down before anything of it is changed."""

    record: DnsRecord | None = None
    secret: EndpointSecret | None = None
    proxy: str | None = None
    """Name of the RDS Proxy that led to the source."""
    managed_rotations: tuple[ManagedRotation, ...] = ()
    """Of the login secret and of the endpoint secret; suspended until applications are where they belong."""
    rotations_suspended_at: AwareDatetime | None = None
    ttl_lowered_at: AwareDatetime | None = None
    switch_requested_at: AwareDatetime | None = None
    change_id: str | None = None
    restored_at: AwareDatetime | None = None
    leftovers: tuple[str, ...] = ()
    """What was found changed by somebody else, or could not be put back."""


class Sync(_Part):
    """One observation of the target catching up. ``waiting_for`` is empty when it is ready."""

    started_at: AwareDatetime
    observed_at: AwareDatetime
    waiting_for: tuple[str, ...] = ()
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    steady_observations: int = 0
    position: Position | None = None
    """The source's position at this observation; the next one expects that the target has replayed it."""
    superuser_databases: tuple[str, ...] = ()
    marked_at: AwareDatetime | None = None
    """When the last part of a source behind a network fence got its mark."""
    ready: bool = False
    look_again_seconds: int = 30


class DatabaseFence(_Part):
    """How one database, or one account, is closed, with the value that re-opens it.

    ``allow-connections``: ``ALLOW_CONNECTIONS false``, proven by the rename probe.
    ``connection-limit``: ``CONNECTION LIMIT 0`` where a superuser's session may not be ended; a weaker proof.
    ``account-lock``: of MariaDB; ``name`` is ``user@host``.
    ``security-groups``: the whole database, whatever engine it has; ``name`` is the base name.
    """

    name: str
    kind: Literal["allow-connections", "connection-limit", "account-lock", "security-groups"]
    connection_limit: int = -1
    security_groups: tuple[str, ...] = ()
    isolation_group: str | None = None
    """What takes their place, as the stack had it then."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """There may be thousands of them, and a state has its limits (`state_size`)."""
        fields = type(self).model_fields
        return {name: part for name, part in serialized(self).items() if getattr(self, name) != fields[name].default}


class Fence(_Part):
    """The enforced inability of the source to commit. Written down (without a position) before it is raised."""

    databases: tuple[DatabaseFence, ...]
    writer: str | None = None
    """Of a cluster that is fenced by a login: the instance that wrote then. Sessions on the others did not end."""
    requested_at: AwareDatetime
    raised_at: AwareDatetime | None = None
    position: Position | None = None


class Isolation(_Part):
    """The way to a network fence. What it needs is written down before RDS is asked for what follows it."""

    closed_at: AwareDatetime | None = None
    """Nobody could begin a session any more. Those that had begun last until the server restarts."""
    restarts_requested_at: dict[str, AwareDatetime | None] = {}
    """Of each instance that may have such sessions, by its resource id: when RDS was asked. None: not accepted yet."""
    asking_since: AwareDatetime | None = None
    """When the last attempt began to ask. It differs by attempt: of two at the same time one finds `JournalMoved`."""
    complete: bool = False
    waiting_for: tuple[str, ...] = ()
    look_again_seconds: int = 10


class Drain(_Part):
    """One observation of the target replaying up to the fence position."""

    complete: bool
    replayed: Position | None = None
    observed_at: AwareDatetime


class Promotion(_Part):
    """Written down before RDS is asked; ``complete`` after RDS and the server both show a standalone primary."""

    requested_at: AwareDatetime
    clean_observations: int = 0
    complete: bool = False
    completed_at: AwareDatetime | None = None


class PreCopy(_Part):
    """A snapshot and its copy under the new key, made while applications write. Nothing is restored from them."""

    started_at: AwareDatetime
    complete: bool = False
    look_again_seconds: int = 60


class Restoration(_Part):
    """The way from the source, fenced or captured, to a target by a snapshot; ``stage`` says what is waited for.

    Written down before RDS is asked for the snapshot, and again before it is asked for the target.
    """

    stage: Literal["snapshot", "copy", "restore", "done"] = "snapshot"
    temporary_snapshot: str
    """Under the old key."""
    kept_snapshot: str
    """Its copy under the new key, of which the target is made; a cluster is made of the other one."""
    requested_at: AwareDatetime | None = None
    """When RDS was about to be asked for the target."""
    waiting_for: tuple[str, ...] = ()
    look_again_seconds: int = 15

    @property
    def complete(self) -> bool:
        """The target is a primary, available, with the source's settings, and the fence stands on it."""
        return self.stage == "done"


class Capture(_Part):
    """What the source keeps for a target that is restored while applications write, and how far the target is with it.

    ``name`` is written down before anything of it exists on the source.
    """

    name: str
    begun_at: AwareDatetime
    databases: tuple[str, ...] = ()
    """Those with a slot; empty until all of them have one."""
    position: Position | None = None
    """No slot reaches back behind it; a snapshot that is taken later ends behind it."""
    applied_from: Position | None = None
    """Where the target's recovery ended, and replication began."""
    ended_at: AwareDatetime | None = None
    """When the target had everything, and stopped applying."""


class TargetCheck(_Part):
    """What the control database of the fenced target showed, once that was a primary."""

    system_identifier: str
    databases: tuple[str, ...] = ()
    """Of earlier releases. There may be too many of them for a state."""
    checked_at: AwareDatetime


class Release(_Part):
    """The commit point: the target's decision row says ``release`` and its databases are open."""

    released_at: AwareDatetime
    write_outage_seconds: float
    open: bool = True
    """Not yet, where RDS has to open it; the release stands all the same."""
    asked_since: AwareDatetime | None = None
    """Since when this execution waits for that; whichever takes it up may wait anew."""


class Member(_Part):
    """One database of a blue/green deployment and its copy; the resource ids stay when RDS exchanges the names."""

    source_identifier: str
    """The name as of the beginning, which the copy has after the switchover."""
    source_arn: str
    source_resource_id: str
    target_resource_id: str | None = None
    target_arn: str | None = None
    """As of the last observation before the switchover."""


class Deployment(_Part):
    """RDS's blue/green deployment. Its name is written down before it is asked for; ``members``: the primary first."""

    name: str
    members: tuple[Member, ...]
    requested_at: AwareDatetime
    marked_at: AwareDatetime | None = None
    """When the last member got a mark: one of blue that of the deployment, one of green that it is no production."""
    accepted: bool = False
    """RDS has taken the request."""
    identifier: str | None = None
    observed_at: AwareDatetime | None = None
    waiting_for: tuple[str, ...] = ()
    ready: bool = False
    look_again_seconds: int = 60
    switchover_requested_at: AwareDatetime | None = None
    switchover_last_asked_at: AwareDatetime | None = None
    """Written down before RDS is asked: from here on only RDS can say which side serves."""
    switched: bool = False

    @property
    def primary(self) -> Member:
        return self.members[0]


class Verification(_Part):
    """What was seen after the cutover. ``pending`` names what has to be looked at again."""

    complete: bool
    pending: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    """Commands for what this step may not do. Decommission does it in its place, and waits until it is done."""
    started_at: AwareDatetime
    observed_at: AwareDatetime
    evidence: dict[str, Any] = {}


class BackupReplication(_Part):
    """The target's automated backups in other Regions."""

    new_keys: dict[str, Key] = {}
    """By Region; written down before RDS is told of it."""
    key_requests: dict[str, KeyRequest] = {}
    pending: tuple[str, ...] = ()
    started_at: AwareDatetime
    """Since when the execution in ``execution_arn`` has tried."""
    execution_arn: str
    complete: bool = False


class Successor(_Part):
    """What takes the place of a replica of the source. ``stage`` is written down before what it stands for is done.

    ``left-out``: the replica was deleted, or promoted, by its owner before it had given its name away.
    """

    stage: Literal["make", "swap", "done", "left-out"] = "make"
    resource_id: str | None = None
    """By which it is known while names change."""


class ReplicaRebuild(_Part):
    """Replicas of the target under the names of the source's."""

    successors: dict[str, Successor] = {}
    """By the resource id of the replica that each takes the place of."""
    pending: tuple[str, ...] = ()
    started_at: AwareDatetime
    """Since when the execution in ``execution_arn`` has waited with nothing moving."""
    refused_since: AwareDatetime | None = None
    execution_arn: str
    complete: bool = False
    look_again_seconds: int = 30


class Decommission(_Part):
    """Progress of removing the source; ``stage`` says what is being waited for."""

    stage: Literal[
        "end-deployment", "early", "snapshot", "copy", "delete-snapshot", "delete-source", "rekey-kept", "done"
    ]
    temporary_snapshot: str | None = None
    kept_snapshot: str | None = None
    started_at: AwareDatetime
    """Since when the execution in ``execution_arn`` has waited for this stage; its patience is counted from here."""
    execution_arn: str = ""
    source_deleted_at: AwareDatetime | None = None
    """When it was first seen to be gone, whoever has deleted it."""
    leftovers: tuple[str, ...] = ()
    """What could not be removed, as the command that would do it. Nothing depends on it."""
    complete: bool = False
    look_again_seconds: int = 60


class KeyUser(_Part):
    """Something that depends on a key, or a question about it that could not be answered (which counts as use)."""

    kind: str
    identifier: str


class Retirement(_Part):
    """What happens to the old key."""

    verdict: Literal["kept", "in-use", "soaking", "scheduled", "gone", "no-key"]
    reason: str
    users: tuple[KeyUser, ...] = ()
    unanswered_since: AwareDatetime | None = None
    """No look has had an answer to every question about them since then. None: the last one had."""
    look_again_at: AwareDatetime | None = None
    started_at: AwareDatetime
    disabled_at: AwareDatetime | None = None
    """Written down before KMS is asked to."""
    disabled: bool = False
    """KMS has done so: whoever finds the key enabled now finds what somebody else did."""
    deletion_at: AwareDatetime | None = None
    complete: bool = False


class Undo(_Part):
    """Progress of a rollback. ``undecided`` keeps both sides fenced and looks again."""

    outcome: Literal["undecided", "decided", "committed", "rolled-back"]
    reason: str = ""
    started_at: AwareDatetime
    not_before: AwareDatetime
    """Before this moment a function of a dead execution may still be running, so nothing is released."""
    replica_seen_at: AwareDatetime | None = None
    """After a promotion was requested: when the target was first seen to be a replica still, with nothing under way."""
    decided_at: AwareDatetime | None = None
    """Since when the target cannot be released any more; the source may still have to wait for the name."""
    ended_at: AwareDatetime | None = None
    """When the rollback was done; until then nothing was removed, however long it took."""
    paged_at: AwareDatetime | None = None
    untold: str | None = None
    """Why the page could not be sent at the last visit; the next one tries again."""
    waiting_for: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    """What could not be undone, as the command that would do it."""
    clean: bool = False
    key_discarded: bool = False
    look_again_seconds: int = 15


class Failure(_Part):
    """Written by the state machine's Catch; the capitals are Step Functions'."""

    Error: str
    Cause: str = ""


class Moment(StrEnum):
    """What a notification is about."""

    REFUSED = "RotationRefused"
    PLANNED = "RotationPlanned"
    ROLLED_BACK = "RotationRolledBack"
    UNDECIDED = "RotationUndecided"
    CUT_OVER = "CutoverCompleted"
    ATTENTION = "AttentionNeeded"
    KEY_DISABLED = "OldKeyDisabled"
    COMPLETED = "RotationCompleted"


class Rotation(_Part):
    """One run moving one database to a new KMS key."""

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    execution_arn: str
    request: dict[str, Any]
    """The execution's input, as given."""
    rotation_id: str = ""
    epoch: int = 0
    route: Literal["", "rotate", "rollback", "verify", "closed"] = ""
    recovery: bool = False
    """A recovery that fails is not recovered again."""
    plan: Plan | None = None
    source: Database | None = None
    first_look: FirstLook | None = None
    preflight: Preflight | None = None
    old_key: Key | None = None
    key_request: KeyRequest | None = None
    new_key: Key | None = None
    target_identifier: str | None = None
    target: Database | None = None
    pre_copy: PreCopy | None = None
    connectivity: Connectivity | None = None
    sync: Sync | None = None
    fence: Fence | None = None
    isolation: Isolation | None = None
    drain: Drain | None = None
    promotion: Promotion | None = None
    capture: Capture | None = None
    restoration: Restoration | None = None
    target_check: TargetCheck | None = None
    deployment: Deployment | None = None
    release: Release | None = None
    verification: Verification | None = None
    backup_replication: BackupReplication | None = None
    replica_rebuild: ReplicaRebuild | None = None
    grace_ends_at: AwareDatetime | None = None
    decommission: Decommission | None = None
    retirement: Retirement | None = None
    undo: Undo | None = None
    failure: Failure | None = None
    notified: tuple[Moment, ...] = ()
    token_answered: bool = False

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Read what the state machine passed. Raises StateIncomplete (terminal), naming fields but never values."""
        try:
            return cls.model_validate(state)
        except ValidationError as error:
            fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise StateIncomplete(f"the state is not a rotation: {fields}") from None

    def to_state(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    def planned(self) -> tuple[Plan, Database]:
        if self.plan is None or self.source is None:
            raise StateIncomplete("needs a plan and a source: StartRotation has not run")
        return self.plan, self.source

    def keyed(self) -> Key:
        if self.new_key is None:
            raise StateIncomplete("needs the new key: CreateNewKMSKey has not run")
        return self.new_key

    def synced_target(self) -> Database:
        if self.target is None:
            raise StateIncomplete("needs a target: no step has seen it yet")
        return self.target

    @property
    def target_or_source(self) -> Database:
        _, source = self.planned()
        return self.target or source

    def fenced_source(self) -> tuple[Fence, Position]:
        """Only a raised fence has a position."""
        if self.fence is None or self.fence.position is None:
            raise StateIncomplete("needs a raised fence: PauseApplicationWrites has not finished")
        return self.fence, self.fence.position

    def fenced(self) -> tuple[Database, Database, Fence, Position]:
        """Source, target, fence and fence position."""
        _, source = self.planned()
        return source, self.synced_target(), *self.fenced_source()

    def captured(self) -> Capture:
        if self.capture is None or not self.capture.databases:
            raise StateIncomplete("needs a capture: BeginCapture has not finished")
        return self.capture

    def restored(self) -> Restoration:
        if self.restoration is None:
            raise StateIncomplete("needs a snapshot: TakeSnapshot has not run")
        return self.restoration

    @property
    def target_stands_alone(self) -> bool:
        """The target was promoted, or restored, and the fence stands on it."""
        if self.capture is not None:
            return self.capture.ended_at is not None
        return any(part is not None and part.complete for part in (self.promotion, self.restoration))

    @property
    def outage_ends_by(self) -> datetime:
        """When the write outage budget is spent; only a fence has begun to spend it."""
        plan, _ = self.planned()
        if self.fence is None:
            raise StateIncomplete("needs a fence: PauseApplicationWrites has not run")
        return self.fence.requested_at + timedelta(seconds=plan.write_outage_budget_seconds)

    def deployed(self) -> Deployment:
        if self.deployment is None:
            raise StateIncomplete("needs a deployment: CreateBlueGreenDeployment has not run")
        return self.deployment

    @property
    def replaced(self) -> tuple[tuple[str, str], ...]:
        """(ARN of before, resource id) of each replica of the source whose name and readers a successor has."""
        if self.deployment is not None:
            return tuple((member.source_arn, member.source_resource_id) for member in self.deployment.members[1:])
        if self.plan is None or self.replica_rebuild is None:
            return ()
        done = {old for old, successor in self.replica_rebuild.successors.items() if successor.stage == "done"}
        return tuple((one.arn, one.resource_id) for one in self.plan.replicas if one.resource_id in done)

    def started_at_or(self, part: Any, now: datetime) -> datetime:
        """When ``part`` (a Sync, Verification, Decommission, …) was first written, or now."""
        return part.started_at if part is not None else now

    @property
    def may_be_closed(self) -> bool:
        """Applications may be unable to write: fenced, or RDS was asked to switch over; and not released, or RDS has
        not opened what was."""
        asked_for = self.deployment is not None and self.deployment.switchover_requested_at is not None
        if self.release is not None:
            return not self.release.open
        return self.fence is not None or asked_for

    @property
    def moment(self) -> Moment:
        """What there is to tell at this point; notifications are derived from the state, not from who sends them."""
        if self.source is None or self.plan is None:
            # A recovery that could not begin leaves what it was for as it is, which may be closed.
            return Moment.ATTENTION if RECOVER in self.request else Moment.REFUSED
        is_on_its_way_back = self.undo is None or self.undo.outcome in ("undecided", "decided")
        if is_on_its_way_back and (self.undo is not None or self.failure is not None):
            return Moment.UNDECIDED if self.may_be_closed else Moment.ATTENTION
        # Not before the last step of the way back: what failed there is unfinished, and has to be taken up.
        if self.undo is not None and self.undo.outcome == "rolled-back" and self.undo.key_discarded:
            return Moment.REFUSED if self.new_key is None else Moment.ROLLED_BACK
        if self.failure is not None:
            is_shut = self.release is not None and self.may_be_closed
            return Moment.UNDECIDED if is_shut else Moment.ATTENTION
        if self.plan.dry_run:
            return Moment.PLANNED
        if self.retirement is not None and self.retirement.complete:
            return Moment.COMPLETED
        return Moment.CUT_OVER
