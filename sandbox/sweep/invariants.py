"""What holds after any rotation, also one with faults: the invariants of the design, one function each.

Each yields a sentence for each way in which it is broken; none, if it holds.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sandbox.demo import flow, inventory
from sandbox.demo.count import CONTROL_DATABASE
from sandbox.demo.customer import Customer
from sandbox.sweep.scenario import Outcome


def broken(customer: Customer, outcome: Outcome) -> list[str]:
    """Every invariant that does not hold, as ``<its name>: <how>``."""
    return [f"{name}: {how}" for name, check in INVARIANTS.items() for how in check(customer, outcome)]


def broken_for_now(customer: Customer, outcome: Outcome) -> list[str]:
    """As `broken`, for a rotation that is not over: it waits for a person, and must not have done harm until then."""
    return [f"{name}: {how}" for name in UNTIL_THE_END for how in INVARIANTS[name](customer, outcome)]


def _nothing_is_lost(customer: Customer, outcome: Outcome) -> Iterator[str]:
    """Every acknowledged commit is present exactly once where the application's name leads."""
    count = outcome.count
    if count.lost or count.duplicated:
        yield f"{count.lost} lost, {count.duplicated} duplicated of {count.acknowledged}: {'; '.join(count.remarks)}"
    if not count.acknowledged:
        yield "nothing was written, so nothing could be lost"


def _one_side_takes_writes(customer: Customer, outcome: Outcome) -> Iterator[str]:
    """Never two databases that accept application writes at once; and one verdict for each rotation."""
    for both in outcome.seen.both_writable:
        yield f"{both} were open at the same time"
    ids = [rotation_id for rotation_id, _ in outcome.seen.verdicts]
    if len(ids) != len(set(ids)):
        yield f"two verdicts: {sorted(outcome.seen.verdicts)}"
    wanted = "release" if outcome.went_forward else "rollback"
    for rotation_id, verdict in outcome.seen.verdicts:
        if verdict != wanted:
            yield f"the verdict of {rotation_id} is {verdict}, and the name leads to {outcome.count.endpoint}"


def _the_name_reaches_a_writable_database(customer: Customer, outcome: Outcome) -> Iterator[str]:
    if not outcome.writes_at_the_end:
        yield f"nothing could be written to {outcome.count.endpoint} at the end"


def _no_key_that_is_in_use_is_disabled(customer: Customer, outcome: Outcome) -> Iterator[str]:
    rds = customer.client("rds")
    keys = {one.get("KmsKeyId"): one["DBInstanceIdentifier"] for one in rds.describe_db_instances()["DBInstances"]}
    keys |= {one.get("KmsKeyId"): one["DBClusterIdentifier"] for one in rds.describe_db_clusters()["DBClusters"]}
    for arn, user in {**keys, outcome.built.key_arn: "its owner"}.items():
        if arn is not None and (state := customer.key_state(arn)) != "Enabled":
            yield f"the key of {user} is {state}"


def _nothing_else_is_gone_and_nothing_is_left(customer: Customer, outcome: Outcome) -> Iterator[str]:
    """What the rotation did not make is there, except for the source; what it made is in use or removed."""
    if not outcome.went_forward:
        yield from _left_after_rollback(outcome)
    elif not outcome.state.get("target"):
        yield f"the last execution ended without a target: {outcome.last.status}"
    else:
        execution, told = outcome.last.arn.rsplit(":", 1)[-1], _told(outcome)
        expected = flow.expected(customer.account, outcome.built, outcome.state, execution)
        for line in inventory.leftovers(outcome.found, expected):
            ttl = line.startswith(f"changed: route53/record/{outcome.built.record}.") and " ttl: " in line
            if _goes_by_itself(line, outcome):
                continue
            if "states/execution" not in line and not (ttl and f"record {outcome.built.record} keeps a TTL" in told):
                yield line
    own = outcome.built.dialect.own_databases
    for name in sorted(set(outcome.count.databases) - own - set(outcome.built.databases)):
        if outcome.went_forward or f"DROP DATABASE {name}" not in _told(outcome):
            yield f"database {name}"
    for one in outcome.count.followed_by:
        if outcome.went_forward or not _is_told(one, _told(outcome)):
            yield one


def _is_told(followed_by: str, told: str) -> bool:
    """By the name of the capture, which is in the command; MariaDB's is a setting.

    >>> _is_told("shop: slot rds_key_rotation_0a1b_16384", "pg_drop_replication_slot … 'rds_key_rotation_0a1b'")
    True
    >>> _is_told("shop: slot rds_key_rotation_0a1b_16384", "DROP DATABASE rds_key_rotation")
    False
    """
    captured = re.search(f"{CONTROL_DATABASE}_[0-9a-f]+", followed_by)
    kept = "binary logs" in followed_by and "binlog retention hours" in told
    return kept or (captured is not None and captured[0] in told)


def _left_after_rollback(outcome: Outcome) -> Iterator[str]:
    """What could not be removed may be there if people were told how to; an alias goes with its key."""
    found = outcome.found
    told = _told(outcome)
    expired = {name for name, facts in found.removed.items() if _has_expired(name, facts)}
    for name in found.removed:
        if not (name.startswith((*DAILY, RECOVERY)) or name in expired):
            yield f"removed: {name}"
    backups = {name.rpartition("/")[2] for name in expired}
    for changed, how in found.changed.items():
        if set(how) == {"grants"} and _are_released(*how["grants"], backups):
            continue
        another_has_ended = changed.startswith("states/execution/") and how.get("status", ("",))[0] == "RUNNING"
        # It could not be given back, and people were told.
        ttl = set(how) == {"ttl"} and f"record {outcome.built.record} keeps a TTL" in told
        mark = set(how) == {"tags"} and _is_marked(changed, *how["tags"], told)
        if not (another_has_ended or ttl or mark):
            yield f"changed: {changed}: {dict(how)}"
    for name, facts in found.added.items():
        service, kind, own = name.split("/", 2)
        history = kind == "item" and ("/decision#" in own or ("/rotation#" in own and facts["closed"]))
        discarded = kind == "key" and facts["state"] == "PendingDeletion" and not facts["grants"]
        # By the identifier that the command to remove it has; an automated backup goes with its database.
        called = facts["key"] if kind == "alias" else facts["database"] if kind == "automated-backup" else own
        left_over = service in ("kms", "rds") and str(called).rpartition("/")[2] in told
        daily = (
            kind in ("automated-snapshot", "automated-cluster-snapshot")
            and own.startswith("rds:")
            and facts["key"] is not None
        )
        goes = _goes_by_itself(f"added: {name}", outcome) or (service, kind) == ("states", "execution")
        if not (history or discarded or left_over or daily or goes):
            yield f"added: {name} {dict(facts)}"


def _goes_by_itself(line: str, outcome: Outcome) -> bool:
    """A schedule that recovers a rotation fires once, finds nothing to do, and is gone: another's meanwhile, or that of
    this one, later, where nobody was let remove it."""
    denied = any(fault.get("call") == "scheduler.DeleteSchedule" for fault in outcome.scenario.faults)
    return line.startswith(f"removed: {RECOVERY}") or (denied and line.startswith(f"added: {RECOVERY}"))


def _has_expired(name: str, facts: Mapping[str, Any]) -> bool:
    """In the days that this rotation has waited, others' keys that were scheduled for deletion, and what RDS kept of
    others' databases that are deleted, are gone."""
    is_retained = name.startswith("rds/automated-backup/") and facts.get("status") == "retained"
    return is_retained or facts.get("state") == "PendingDeletion"


def _are_released(before: Iterable[str], after: Iterable[str], backups: Iterable[str]) -> bool:
    """RDS has given a key back with the backups that have expired under it, and has taken none."""
    gone = set(before) - set(after)
    return set(after) < set(before) and all(any(one in grant for one in backups) for grant in gone)


def _is_marked(name: str, before: Mapping[str, str], after: Mapping[str, str], told: str) -> bool:
    """Tags were added, nothing else, and people know the command that takes them off."""
    added = " ".join(sorted(after.keys() - before.keys()))
    return before.items() <= after.items() and f":{name.rpartition('/')[2]} --tag-keys {added}" in told


def _told(outcome: Outcome) -> str:
    """What people know to be left over."""
    # A fleet's report has none.
    return " ".join(command for moment in outcome.moments for command in json.loads(moment).get("leftovers", ()))


def _the_next_rotation_can_start(customer: Customer, outcome: Outcome) -> Iterator[str]:
    if "lock" in outcome.ledger:
        yield "the lock is held"
    for record, closed in outcome.ledger.items():
        if record != "lock" and not inventory.stands_for_ever(record) and not closed:
            yield f"{record} is open"


def _no_secret_is_told(customer: Customer, outcome: Outcome) -> Iterator[str]:
    told = [str(message) for message in outcome.messages]
    told += [str(outcome.first.cause), str(outcome.last.cause), str(outcome.last.output)]
    for login in (outcome.built.master, outcome.built.app):
        if any(login.password in text for text in told):
            yield f"the password of {login.user}"


INVARIANTS: dict[str, Callable[[Customer, Outcome], Iterator[str]]] = {
    "nothing is lost": _nothing_is_lost,
    "one side takes writes": _one_side_takes_writes,
    "the name reaches a writable database": _the_name_reaches_a_writable_database,
    "no key that is in use is disabled": _no_key_that_is_in_use_is_disabled,
    "nothing else is gone, nothing is left": _nothing_else_is_gone_and_nothing_is_left,
    "the next rotation can start": _the_next_rotation_can_start,
    "no secret is told": _no_secret_is_told,
}
DAILY = ("rds/automated-snapshot/rds:", "rds/automated-cluster-snapshot/rds:")
"""They come and go by themselves."""
RECOVERY = "scheduler/schedule/rds-key-rotation-recovery/"
"""They go by themselves."""

UNTIL_THE_END = (
    "nothing is lost", "the name reaches a writable database", "no key that is in use is disabled", "no secret is told",
)  # fmt: skip
