"""The network fence: a database that nobody can connect to, whatever engine it has, an instance or a cluster.

Its security groups are replaced by one without inbound rules, which the stack has made, and its server is restarted, of
a cluster that of each instance: a session that had begun outlives a change of groups (EC2 User Guide: security group
connection tracking). The target is born fenced, because a restore gives it the source's groups. Nobody logs in, so the
decision row is in the ledger, and what happens inside the server without a connection goes on: that is what
``internal-jobs`` accepts.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from lambdas.rotation import names
from lambdas.rotation.databases import by_resource_id, describe_snapshot, parts_of, request_security_groups
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    DatabaseUnreachable,
    DecisionLost,
    StateIncomplete,
)
from lambdas.rotation.limitations import changes_pending, waiting_for_a_restart, ways_around_a_fence
from lambdas.rotation.ports import ISOLATION_GROUP, ControlView, Instance, Lag, Ports, StillClosed
from lambdas.rotation.state import Database, DatabaseFence, Finding, Plan, Position, Verdict

_STOP_JOBS: Mapping[str, str] = {
    "db2": "stop the tasks of the administrative task scheduler",
    "mariadb": "set event_scheduler to OFF, and stop replication from elsewhere, which the target would go on with",
    "mysql": "set event_scheduler to OFF, and stop replication from elsewhere, which the target would go on with",
    "oracle": "set job_queue_processes to 0, or disable the jobs of DBMS_SCHEDULER",
    "postgres": "stop pg_cron's jobs, and disable subscriptions, which the target would go on with",
    "sqlserver": "disable the jobs of SQL Server Agent and Service Broker's activation, and stop CDC's",
}
_UNSEEN: Mapping[str, Mapping[str, str]] = {
    "mariadb": {"memory-tables": "MEMORY tables, which a restart empties"},
    "mysql": {"memory-tables": "MEMORY tables, which a restart empties"},
    "postgres": {
        "logical-slots": "logical replication slots, which no snapshot has",
        "unlogged-tables": "unlogged tables, which are empty after a restore",
    },
    "sqlserver": {"memory-tables": "memory-optimized tables of SCHEMA_ONLY, which a restart empties"},
}
"""By engine, and Aurora's by the one that it is compatible with: the risk, and what nobody looks for who does not log
in."""
IDENTITY = ("Engine", "EngineVersion", "DBName", "DBSystemId", "MasterUsername", "CharacterSetName", "Timezone")
"""What RDS says of an instance that a restore cannot change, and another database would hardly share."""


def groups_of(instance: Instance) -> dict[str, str]:
    """Group id -> RDS's status of it: ``active``, or on its way in or out."""
    return {one["VpcSecurityGroupId"]: one["Status"] for one in instance.raw.get("VpcSecurityGroups") or ()}


def other_groups(parts: Sequence[Instance], group: str | None) -> str | None:
    """Whose security groups are not the isolation group alone, or None: what RDS shows, without a try to connect."""
    for one in parts:
        if (groups := groups_of(one)) != {group: "active"} and not (_is_being_made(one) and not groups):
            shown = ", ".join(f"{name} ({status})" for name, status in sorted(groups.items()))
            whose = "its" if one is parts[0] else f"{one.database.identifier}'s"
            return f"{whose} security groups are {shown}, not {group} alone"
    return None


T = TypeVar("T")


def _of_engine(table: Mapping[str, T], engine: str, otherwise: T) -> T:
    compatible = engine.removeprefix("aurora-")
    return next((value for name, value in table.items() if compatible.startswith(name)), otherwise)


def _is_being_made(one: Instance) -> bool:
    """It has its cluster's groups from the beginning, but RDS may show none yet; who could come in would be seen."""
    return one.status == "creating"


def unavailable(parts: Sequence[Instance]) -> list[str]:
    """As what is waited for."""
    return [
        f"{one.database.identifier} to be available (it is {one.status})" for one in parts if one.status != "available"
    ]


def unmarked(parts: Sequence[Instance]) -> list[str]:
    """Nobody may close them, nor restart them."""
    return [one.database.identifier for one in parts if names.NETWORK_FENCE_TAG not in one.tags]


class NetworkFence:
    """`ports.Engine` of a database that nobody logs in to."""

    def __init__(self, database: Database, plan: Plan, ports: Ports) -> None:
        self._database = database
        self._plan = plan
        self._ports = ports

    # -- before the fence --

    def login_limitations(self) -> Sequence[Finding]:
        return ()

    def limitations(self, accept: Sequence[str]) -> Sequence[Finding]:
        return tuple(self._limitations(accept))

    def _limitations(self, accept: Sequence[str]) -> Iterator[Finding]:
        identifier, engine = self._database.identifier, self._database.engine
        if "internal-jobs" not in accept:
            stop = _of_engine(_STOP_JOBS, engine, "stop them")
            yield Finding(
                name="InternalJobs",
                message=f"the network fence keeps connections out of {identifier}, and nothing else: what a job writes "
                "inside the server after the snapshot is lost",
                advice=f'{stop} for the time of the rotation, then accept what is left: "Accept": ["internal-jobs"]',
            )
        for risk, what in _of_engine(_UNSEEN, engine, {}).items():
            if risk not in accept:
                yield Finding(
                    name="".join(part.title() for part in risk.split("-")),
                    message=f"nobody logs in to {identifier} to look for {what}",
                    advice=f'look for them yourself, then accept it: "Accept": ["{risk}"]',
                )
        group = self._group()
        if group is None:
            yield Finding(
                name="NoIsolationGroup",
                message="the stack has no security group to close a database with",
                advice="deploy it with network_fence: true (config/<env>.yaml)",
            )
        elif rules := self._ports.security_groups.inbound_rules(group):
            yield Finding(
                name="IsolationGroupOpen",
                message=f"the security group {group} has inbound rules: {', '.join(rules)}",
                advice="remove them; this group keeps everybody out of a database that is fenced",
            )
        parts = self._parts()
        live = parts[0]
        for option_group in (one["OptionGroupName"] for one in live.raw.get("OptionGroupMemberships") or ()):
            if options := self._ports.rds.options_with_groups(option_group):
                yield Finding(
                    name="OptionLetsIn",
                    message=f"the options {', '.join(options)} of {option_group} have security groups of their own, "
                    "which the fence would leave open",
                    advice="remove these groups from the options for the time of the rotation",
                )
        yield from ways_around_a_fence(live)
        for one in parts:  # a change of the groups, or the restart, would bring them into force
            yield from changes_pending(one)
        if pending := sorted({group for one in parts for group in waiting_for_a_restart(one)}):
            yield Finding(
                name="ParametersPending",
                message=f"changes of {', '.join(pending)} wait for a restart of {identifier}, which the fence is",
                advice="restart it before the rotation, or take them back",
            )
        if group in groups_of(live):
            yield Finding(
                name="AlreadyIsolated",
                message=f"{identifier} has the security group {group}, which keeps everybody out",
                advice="give it the groups that its applications need",
            )
        elif unreached := [way for way, accepts in self._tried(parts).items() if not accepts]:
            yield Finding(
                name="NotReachable",
                message=f"the functions reach nobody at {', '.join(f'{host}:{port}' for host, port in unreached)}: "
                "whether it is closed could not be told apart from that",
                advice=f"let the functions' security group in on port {unreached[0][1]}",
            )

    def warnings(self) -> Sequence[Finding]:
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[Finding]:
        yield Finding(
            name="NotBornFenced",
            message=f"what is restored from the backups of {self._database.identifier} gets other security groups: "
            "unlike the source itself it is open, with data from before the cutover",
            advice="give it the isolation group when you restore from the time of the fence or later",
        )
        if self._database.engine.startswith("sqlserver"):
            yield Finding(
                name="CdcEnds",
                message="RDS restores no change data capture of SQL Server's",
                advice="where a database has it, enable it on the target after the cutover",
            )

    def ensure_control_database(self) -> None:
        """There is none. A tag is what lets the source be closed, restarted, and opened again."""
        for one in self._parts():
            if names.NETWORK_FENCE_TAG not in one.tags:
                self._ports.rds.set_tags(one.database.arn, {names.NETWORK_FENCE_TAG: self._plan.base_name})

    def claim(self, rotation_id: str, instead_of: str = "") -> str:
        return rotation_id  # nothing there could be asked by two stacks in turn

    def drop_control_database(self, rotation_id: str) -> None:
        live = self._found()
        for one in parts_of(live, self._ports) if live is not None else ():
            if names.NETWORK_FENCE_TAG in one.tags:
                self._ports.rds.remove_tags(one.database.arn, [names.NETWORK_FENCE_TAG])

    def databases_with_superuser_sessions(self) -> Sequence[str]:
        """The restart ends RDS's own sessions, too."""
        return ()

    # -- the fence --

    def plan_fence(
        self, superuser_databases: Sequence[str], besides: Sequence[DatabaseFence] = ()
    ) -> tuple[DatabaseFence, ...]:
        if besides:
            return ()
        groups = tuple(sorted(name for name, status in groups_of(self._live()).items() if status != "removing"))
        name, isolation = self._plan.base_name, self._group()
        return (DatabaseFence(name=name, kind="security-groups", security_groups=groups, isolation_group=isolation),)

    def expected_fence(self) -> tuple[DatabaseFence, ...]:
        return self.plan_fence(())

    def raise_fence(self, rotation_id: str, databases: Sequence[DatabaseFence], within_seconds: float) -> None:
        """Nothing is closed here: a source takes minutes (IsolateSource), a target is restored closed."""
        if (standing := self.verdict(rotation_id)) is not None:
            raise DecisionLost(f"'{standing}' stands: {self._database.identifier} is not closed any more")

    def fence_breach(self, databases: Sequence[DatabaseFence]) -> str | None:
        parts = self._parts()
        (fence,) = databases
        group = fence.isolation_group
        if (other := other_groups(parts, group)) is not None:
            return other
        # Preflight has refused them. Whoever switches one on while the fence stands opens a way that no group closes.
        for way in ways_around_a_fence(parts[0]):
            return way.message
        if rules := self._ports.security_groups.inbound_rules(str(group)):
            return f"its security group {group} has inbound rules: {', '.join(rules)}"
        if open_at := [host for (host, _), accepts in self._tried(parts).items() if accepts]:
            return f"it accepts connections at {', '.join(open_at)}"
        return None

    def is_replica(self) -> bool:
        return self._live().replica_of is not None

    def replayed(self) -> Position:
        """Target: when the snapshot was taken that it, or the copy of an instance's, is made of. Named after it."""
        target = self._database
        named, since = (
            (names.temporary_snapshot, "SnapshotCreateTime")
            if target.is_cluster
            else (names.kept_snapshot, "OriginalSnapshotCreateTime")
        )
        snapshot = describe_snapshot(target, named(target.identifier), self._ports) or {}
        taken_at = snapshot.get(since)
        return position_at(taken_at) if taken_at is not None else Position("nothing")

    def has_replayed(self, position: Position) -> bool:
        """Whether that was after the fence stood."""
        replayed = self.replayed()
        return replayed != "nothing" and datetime.fromisoformat(replayed) >= datetime.fromisoformat(position)

    def control_view(self, rotation_id: str, databases: Sequence[DatabaseFence]) -> ControlView:
        """By RDS's account: nobody looks inside. That the target is made of this source, its snapshot's name says."""
        live = self._live()
        return ControlView(
            system_identifier=" ".join(str(live.raw.get(name)) for name in IDENTITY),
            in_recovery=live.replica_of is not None,
            position=Position("unknown"),
            marker_seen=True,
            databases=tuple(fence.name for fence in databases),
            roles=(),
            fence_breach=self.fence_breach(databases),
            first_database=live.raw.get("DatabaseName"),  # a cluster's; an instance's is in its identity
        )

    # -- the decision --

    def verdict(self, rotation_id: str) -> Verdict | None:
        return self._ports.ledger.verdict(rotation_id, self._plan.base_name)

    def decide(self, rotation_id: str, verdict: Verdict, reopen: Sequence[DatabaseFence]) -> Verdict:
        """The row first, the opening after it: whoever finds the row finishes what it says.

        Raises: DatabaseUnreachable (retryable) before a release of what RDS is busy with: it could not open it.
        """
        if verdict == "release" and self.verdict(rotation_id) is None:
            for one in self._parts()[:2]:  # of a cluster itself and its writer
                if one.status != "available":
                    raise DatabaseUnreachable(f"{one.database.identifier} is {one.status}: RDS would not open it now")
        standing = self._ports.ledger.decide(rotation_id, self._plan.base_name, verdict)
        if standing == verdict:
            for fence in reopen:
                try:
                    self._open(fence, verdict)
                except (AccessRefused, AwsRefused, AwsUnavailable, DatabaseUnreachable) as refused:
                    raise StillClosed(f"{self._database.identifier} cannot be opened: {refused}") from refused
        return standing

    def _open(self, fence: DatabaseFence, verdict: Verdict) -> None:
        """Of a released cluster itself and its writer: a reader keeps nobody waiting, and Verify looks at it.

        Nobody looks at the source's any more, and without their mark nobody may open them.
        """
        parts = self._parts()
        live, isolation = parts[0], fence.isolation_group
        identifier, groups = live.database.identifier, groups_of(live)
        # Groups that somebody else has chosen meanwhile are left as they are. What RDS shows need not be in force.
        wanted = fence.security_groups if isolation in groups else sorted(groups)
        closed = [one for one in parts if isolation in groups_of(one) and one.status != "deleting"]
        if closed:
            request_security_groups(live.database, wanted, self._ports)
        if left := [one for one in closed if verdict == "rollback" or one in parts[:2]]:
            raise StillClosed(f"{left[0].database.identifier} gets its security groups back (it is {left[0].status})")
        if set(groups) == set(fence.security_groups) and not self._accepts(live):
            raise StillClosed(f"{identifier} has its security groups back, and lets nobody in (it is {live.status})")

    def inspect(self) -> Mapping[str, Any]:
        """Target, released: its groups; nothing when it lets nobody in."""
        live = self._live()
        if not self._accepts(live):
            return {}
        return {self._plan.base_name: {"security_groups": sorted(groups_of(live))}}

    # -- what needs a login --

    def logical_slots(self) -> Mapping[str, str]:
        self._needs_login("logical_slots")

    def mark(self, token: str) -> Position:
        self._needs_login("mark")

    def shows_marker(self, token: str) -> bool:
        self._needs_login("shows_marker")

    def lag(self) -> Lag:
        self._needs_login("lag")

    def _needs_login(self, what: str) -> NoReturn:
        raise StateIncomplete(f"{what} needs a login: no step of a network fence asks for it")

    # -- what RDS, and the network, show --

    def _group(self) -> str | None:
        return self._ports.settings.defaults.get(ISOLATION_GROUP)

    def _accepts(self, live: Instance) -> bool:
        """At the address that it has now, a cluster at its writer's; somebody may have given its name to another."""
        return self._ports.network.accepts(live.database.address, live.database.port)

    def _tried(self, parts: Sequence[Instance]) -> dict[tuple[str, int], bool]:
        """Every address at which a session could begin -> whether one could now.

        All at once, because who is kept out waits; of a cluster its endpoints, and that of each instance.
        """
        live, *instances = parts
        ways = [(live.database.address, live.database.port)]
        if reader_endpoint := live.raw.get("ReaderEndpoint"):
            ways.append((reader_endpoint, live.database.port))
        # One that is being made has no address yet, and that of one that is leaving may lead nowhere any more.
        to_instances = {
            (one.database.address, one.database.port): one
            for one in instances
            if one.database.address and one.status != "deleting"
        }
        ways += to_instances

        def accepts(way: tuple[str, int]) -> bool:
            try:
                return self._ports.network.accepts(*way)
            except DatabaseUnreachable:
                if way in to_instances and _is_being_made(to_instances[way]):
                    return False  # its name leads nowhere yet
                raise

        with ThreadPoolExecutor(len(ways)) as pool:
            return dict(zip(ways, pool.map(accepts, ways), strict=True))

    def _found(self) -> Instance | None:
        return by_resource_id(self._database.resource_id, self._ports)

    def _parts(self) -> list[Instance]:
        return parts_of(self._live(), self._ports)

    def _live(self) -> Instance:
        live = self._found()
        if live is None:
            raise DatabaseUnreachable(f"{self._database.identifier} is gone")
        return live


def position_at(moment: datetime) -> Position:
    """Of a network fence: when the server had been restarted behind it; by RDS's clock, as a snapshot's time is."""
    return Position(moment.astimezone(UTC).isoformat())
