"""The ledger: the lock, the journal and the history of every database, in one DynamoDB table.

Items are grouped by ``database``, the base name that stays the same over all rotations, and told apart by ``record``:

=========================  =============================================================================================
``lock``                   who works on this database: rotation id and execution. Conditional write; one at a time.
``rotation#<id>``          one rotation: its state as of the last step (the journal), then its outcome (the history).
                           Every write is conditional on the rotation's epoch, so a dead execution's late write fails,
                           and on the revision that its invocation has read, so a second delivery's late write does.
``lineage``                the database that the base name leads to since the last cutover
``decision#<id>``          the verdict on a rotation whose databases nobody logs in to; the first one stands for ever.
=========================  =============================================================================================

Nothing secret is in it. The table and its point-in-time recovery outlive the stack.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

from boto3.dynamodb.conditions import Attr, ConditionBase, Key

from lambdas.rotation.aws.client import calls, table
from lambdas.rotation.errors import EpochSuperseded, JournalMoved, StateIncomplete
from lambdas.rotation.ports import Clock, Entry, Lock
from lambdas.rotation.state import Plan, Rotation, Verdict

LOCK = "lock"
LINEAGE = "lineage"
ROTATION = "rotation#"
DECISION = "decision#"

_OPEN = Attr("record").begins_with(ROTATION) & Attr("closed_at").not_exists()

Item = Mapping[str, Any]


class DynamoLedger:
    """`ports.Ledger` on one DynamoDB table. Consistent reads: a recovery must see the dead execution's last write."""

    def __init__(self, table_name: str, clock: Clock) -> None:
        self._table = table(table_name)
        self._clock = clock
        self._revisions: dict[str, int] = {}
        """Rotation id -> revision of its entry that this invocation has read, or written since."""

    # -- the lock --

    def acquire(self, rotation: Rotation) -> Lock | None:
        """Take the lock of the rotation's database. The holder's own retry gets it again."""
        base_name = _plan(rotation).base_name
        lock = {
            "rotation_id": rotation.rotation_id,
            "execution_arn": rotation.execution_arn,
            "acquired_at": self._now(),
        }
        if self._write(
            base_name, LOCK, lock, Attr("database").not_exists() | Attr("rotation_id").eq(rotation.rotation_id)
        ):
            return None
        holder = self._read(base_name, LOCK)
        if holder is None:  # freed between the two calls: the caller's retry takes it
            return self.acquire(rotation)
        return Lock(str(holder["rotation_id"]), str(holder["execution_arn"]))

    def release_lock(self, rotation: Rotation) -> None:
        """Free the lock if this rotation holds it; a lock that somebody else holds by now stays."""
        with calls("dynamodb:DeleteItem"), suppress(self._table.meta.client.exceptions.ConditionalCheckFailedException):
            self._table.delete_item(
                Key={"database": _plan(rotation).base_name, "record": LOCK},
                ConditionExpression=Attr("rotation_id").eq(rotation.rotation_id),
            )

    # -- the journal --

    def open(self, rotation: Rotation) -> Rotation:
        first = rotation.having(epoch=1)
        self._revisions[rotation.rotation_id] = 0
        if self._journal(first, Attr("database").not_exists(), opened_at=self._now()):
            return first
        return self._begin(rotation)

    def current(self, rotation: Rotation, *, takes_over: bool = False) -> Rotation:
        journal = self._begin(rotation)
        ours = takes_over and journal.execution_arn == rotation.execution_arn
        if journal.epoch != rotation.epoch and not ours:
            raise _superseded(journal)
        return journal

    def record(self, rotation: Rotation) -> None:
        """Write the state down. After this same epoch closed the entry there is nothing left to write."""
        if not self._journal(rotation, self._unmoved(rotation)):
            journal = self._moved(rotation)
            if journal.epoch != rotation.epoch:
                raise _superseded(journal)

    def take_over(self, rotation: Rotation, execution_arn: str) -> Rotation:
        # The epoch alone first: what an older function writes until this moment belongs to the rotation that is taken
        # over (it may be the request of a promotion), and from this moment on it writes nothing.
        raised = {"epoch": rotation.epoch + 1, "execution_arn": execution_arn}
        entry_of = ROTATION + rotation.rotation_id
        if not self._write(_plan(rotation).base_name, entry_of, raised, _open_in(rotation.epoch)):
            journal = _entry(self._existing(rotation)).rotation
            # The SDK repeats a write whose answer got lost: what it finds in its way then is its own.
            if (journal.epoch, journal.execution_arn) != (raised["epoch"], execution_arn):
                raise _superseded(journal)
        return self._begin(rotation)

    def close(self, rotation: Rotation, outcome: str) -> None:
        """Write the outcome: from now on the entry is history, and a recovery of it ends at once. Repeatable."""
        if not self._journal(rotation, self._unmoved(rotation), outcome=outcome, closed_at=self._now()):
            self._moved(rotation)

    # -- the decision --

    def decide(self, rotation_id: str, base_name: str, verdict: Verdict) -> Verdict:
        decision = {"verdict": verdict, "decided_at": self._now()}
        if self._write(base_name, DECISION + rotation_id, decision, Attr("database").not_exists()):
            return verdict
        standing = self.verdict(rotation_id, base_name)
        assert standing is not None, "nothing removes a decision"
        return standing

    def verdict(self, rotation_id: str, base_name: str) -> Verdict | None:
        item = self._read(base_name, DECISION + rotation_id)
        return None if item is None else cast(Verdict, item["verdict"])

    # -- the history --

    def entry(self, base_name: str, rotation_id: str) -> Entry | None:
        item = self._read(base_name, ROTATION + rotation_id)
        return None if item is None else _entry(item)

    def entries(self, base_name: str) -> Sequence[Entry]:
        condition = Key("database").eq(base_name) & Key("record").begins_with(ROTATION)
        return [_entry(item) for item in self._pages("query", KeyConditionExpression=condition)]

    def unfinished(self) -> tuple[Sequence[Entry], Sequence[str]]:
        entries, unreadable = [], []
        for item in self._pages("scan", FilterExpression=_OPEN):
            # One of another release, or one that somebody has edited, must not keep all others from their recovery.
            try:
                entries.append(_entry(item))
            except (StateIncomplete, KeyError, ValueError) as unknown:
                unreadable.append(f"{item['record']} of {item['database']}: {unknown}")
        return entries, unreadable

    def left_by(self, execution_arn: str) -> Entry | None:
        found = self._pages("scan", FilterExpression=_OPEN & Attr("execution_arn").eq(execution_arn))
        return _entry(found[0]) if found else None

    # -- the lineage --

    def successor(self, base_name: str) -> str | None:
        item = self._read(base_name, LINEAGE)
        return None if item is None else str(item["resource_id"])

    def advance(self, rotation: Rotation) -> None:
        target = rotation.synced_target()
        lineage = {
            "resource_id": target.resource_id,
            "identifier": target.identifier,
            "rotation_id": rotation.rotation_id,
            "advanced_at": self._now(),
        }
        self._write(_plan(rotation).base_name, LINEAGE, lineage)

    # -- the table --

    def _journal(self, rotation: Rotation, condition: ConditionBase, **more: str) -> bool:
        """Write the rotation into its entry, with what a person reading the table wants to see beside it."""
        plan, source = rotation.planned()
        revision = self._revisions[rotation.rotation_id] + 1
        columns = {
            "state": rotation.model_dump_json(by_alias=True),
            "revision": revision,
            "epoch": rotation.epoch,
            "execution_arn": rotation.execution_arn,
            "source": source.identifier,
            "target": rotation.target_identifier,
            "old_key": rotation.old_key.arn if rotation.old_key else source.kms_key_arn,
            "new_key": rotation.new_key.arn if rotation.new_key else None,
            "reason": plan.reason,
            "recorded_at": self._now(),
        }
        written = self._write(plan.base_name, ROTATION + rotation.rotation_id, columns | more, condition)
        if not written:
            # The SDK repeats a write whose answer got lost: what it finds in its way then is its own.
            found = self._read(plan.base_name, ROTATION + rotation.rotation_id) or {}
            written = all(found.get(name) == columns[name] for name in ("state", "revision"))
        if written:
            self._revisions[rotation.rotation_id] = revision
        return written

    def _begin(self, rotation: Rotation) -> Rotation:
        """Read the journal; what this invocation writes from here on has to find it as it is now."""
        item = self._existing(rotation)
        self._revisions[rotation.rotation_id] = _revision(item)
        return _entry(item).rotation

    def _unmoved(self, rotation: Rotation) -> ConditionBase:
        revision = self._revisions[rotation.rotation_id]
        same = Attr("revision").eq(revision) if revision else Attr("revision").not_exists()
        return _open_in(rotation.epoch) & same

    def _moved(self, rotation: Rotation) -> Rotation:
        """What was found instead of what had been read. Raises JournalMoved (retryable) for a twin's write."""
        item = self._existing(rotation)
        entry = _entry(item)
        same_holder = entry.rotation.epoch == rotation.epoch and entry.closed_at is None
        if same_holder and _revision(item) != self._revisions[rotation.rotation_id]:
            raise JournalMoved(
                f"another invocation has written the journal of rotation {rotation.rotation_id} meanwhile"
            )
        return entry.rotation

    def _existing(self, rotation: Rotation) -> Item:
        item = self._read(_plan(rotation).base_name, ROTATION + rotation.rotation_id)
        if item is None:
            raise StateIncomplete(f"the ledger has no entry for rotation {rotation.rotation_id}")
        return item

    def _write(
        self, base_name: str, record: str, columns: Mapping[str, Any], condition: ConditionBase | None = None
    ) -> bool:
        """Set these columns, leaving the others of the item as they are; False when the condition does not hold."""
        names = {f"#{index}": name for index, name in enumerate(columns)}
        values = {f":{index}": value for index, value in enumerate(columns.values())}
        conditional = {} if condition is None else {"ConditionExpression": condition}
        with calls("dynamodb:UpdateItem"):
            try:
                self._table.update_item(
                    Key={"database": base_name, "record": record},
                    UpdateExpression="SET " + ", ".join(f"#{index} = :{index}" for index in range(len(columns))),
                    ExpressionAttributeNames=names,
                    ExpressionAttributeValues=values,
                    **conditional,
                )
            except self._table.meta.client.exceptions.ConditionalCheckFailedException:
                return False
        return True

    def _read(self, base_name: str, record: str) -> Item | None:
        with calls("dynamodb:GetItem"):
            answer = self._table.get_item(Key={"database": base_name, "record": record}, ConsistentRead=True)
        item: Item | None = answer.get("Item")
        return item

    def _pages(self, operation: str, **arguments: Any) -> list[Item]:
        items: list[Item] = []
        with calls(f"dynamodb:{operation.capitalize()}"):
            for page in self._table.meta.client.get_paginator(operation).paginate(
                TableName=self._table.name, ConsistentRead=True, **arguments
            ):
                items += page["Items"]
        return items

    def _now(self) -> str:
        return self._clock.now().isoformat()


def _open_in(epoch: int) -> ConditionBase:
    return Attr("epoch").eq(epoch) & Attr("closed_at").not_exists()


def _revision(item: Item) -> int:
    return int(item.get("revision", 0))  # an entry of a version that did not count


def _plan(rotation: Rotation) -> Plan:
    return rotation.planned()[0]


def _entry(item: Item) -> Entry:
    closed_at = item.get("closed_at")
    # The columns win: a takeover raises them before anybody writes the state again.
    holder = {"epoch": int(item["epoch"]), "execution_arn": str(item["execution_arn"])}
    return Entry(
        rotation=Rotation.from_state(json.loads(str(item["state"])) | holder),
        recorded_at=datetime.fromisoformat(str(item["recorded_at"])),
        outcome=item.get("outcome"),
        closed_at=None if closed_at is None else datetime.fromisoformat(str(closed_at)),
    )


def _superseded(journal: Rotation) -> EpochSuperseded:
    return EpochSuperseded(
        f"rotation {journal.rotation_id} was taken over by {journal.execution_arn} (epoch {journal.epoch}); "
        "this step does nothing"
    )
