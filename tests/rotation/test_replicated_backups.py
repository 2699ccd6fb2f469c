"""Rotations of a database whose backups are replicated to another Region: the target's are, under a key of their own.

Whoever dies on the way must not leave two keys behind, or a replication under a key that nobody knows.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lambdas.rotation.names import ROTATION_ID_TAG, key_alias
from sandbox.demo.progress import Run
from sandbox.demo.world import World, replicate_backups
from sandbox.sweep.scenario import executions
from tests.rotation.scenarios import (
    ROWS,
    WRITERS,
    Scenario,
    assert_invariants,
    params,
    play,
    sandbox_with,
    table_line,
)
from tests.rotation.support import Customer

ABROAD = "eu-west-1"
RETENTION_DAYS = 14
START = "rds.StartDBInstanceAutomatedBackupsReplication"
READ = "rds.DescribeDBInstanceAutomatedBackups"


def killed_after(*calls: str) -> tuple[dict[str, Any], ...]:
    """One invocation after the other: the next one goes on from what each of them has left."""
    return tuple({"kind": "killed", "function": "replicate-backups", "call": call, "when": "after"} for call in calls)


SCENARIOS = [
    Scenario("rb-plain", ends="forward"),
    Scenario(
        "rb-dies-after-writes",
        (
            *killed_after("kms.CreateKey", "kms.CreateAlias", "kms.EnableKeyRotation", START),
            # The first one has written down that it is about to make the key; this one which it is.
            {**killed_after("dynamodb.UpdateItem")[0], "nth": 2},
        ),
        ends="forward",
    ),
    Scenario(
        "rb-dies-after-reads",
        killed_after("dynamodb.GetItem", "rds.DescribeDBInstances", "kms.DescribeKey", "kms.ListResourceTags", READ),
        ends="forward",
    ),
    Scenario(
        "rb-dies-after-questions",
        killed_after(
            "resourcegroupstaggingapi.GetResources",
            "kms.GetKeyPolicy",
            "kms.GetKeyRotationStatus",
            "dynamodb.UpdateItem",
        ),
        ends="forward",
    ),
    Scenario(
        "rb-lost-answers",
        tuple(
            {"kind": "lost-answer", "function": "replicate-backups", "call": call} for call in ("kms.CreateKey", START)
        ),
        ends="forward",
    ),
    # KMS does not know the key everywhere yet, and then not what its tag permits.
    Scenario(
        "rb-unsettled",
        tuple(
            {"kind": "error-before", "function": "replicate-backups", **where}
            for where in (
                {"call": "kms.CreateAlias", "code": "NotFoundException", "times": 3},
                {"call": "kms.EnableKeyRotation", "code": "AccessDeniedException", "times": 20},
            )
        ),
        ends="forward",
    ),
    Scenario("rb-twice", ({"kind": "twice", "function": "replicate-backups"},), ends="forward"),
    Scenario(
        "rb-denied",
        ({"kind": "denied", "function": "replicate-backups", "call": START},),
        ends="forward",
        error="AccessRefused",
    ),
    # RDS says so of a key that its caller may not lend, too, and goes on saying so.
    Scenario(
        "rb-refused",
        (
            {
                "kind": "error-before",
                "function": "replicate-backups",
                "call": START,
                "code": "KMSKeyNotAccessibleFault",
                "times": 130,
            },
        ),
        ends="forward",
        error="BackupsNotReplicated",
    ),
]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with(SCENARIOS) as customer:
        yield customer


def there(customer: Customer) -> dict[str, Any]:
    """Everything of the other Region, by ARN; what may be under a key comes and goes, and is not told of the key."""
    kms, rds = customer.client("kms", ABROAD), customer.client("rds", ABROAD)
    found: dict[str, Any] = {}
    for key in kms.list_keys()["Keys"]:
        facts = kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
        tags = kms.list_resource_tags(KeyId=key["KeyId"])["Tags"]
        policy = kms.get_key_policy(KeyId=key["KeyId"], PolicyName="default")["Policy"]
        rotation = kms.get_key_rotation_status(KeyId=key["KeyId"])
        found[facts["Arn"]] = {
            "state": facts["KeyState"],
            "tags": {tag["TagKey"]: tag["TagValue"] for tag in tags},
            "policy": json.loads(policy),
            "rotates": [rotation["KeyRotationEnabled"], rotation.get("RotationPeriodInDays")],
        }
    for alias in kms.list_aliases()["Aliases"]:
        found[alias["AliasArn"]] = alias.get("TargetKeyId")
    for backup in rds.describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"]:
        found[backup["DBInstanceAutomatedBackupsArn"]] = {
            "of": backup["DbiResourceId"],
            "key": backup["KmsKeyId"],
            "retention_days": backup["BackupRetentionPeriod"],
            "status": "retained" if backup["Status"] == "retained" else "replicated",
        }
    assert not rds.describe_db_instances()["DBInstances"]
    return found


def assert_begun_anew(
    customer: Customer, built: World, state: Mapping[str, Any], before: Mapping[str, Any], old: str
) -> str:
    """One key, its alias and one replicated backup more; nothing else is another. Returns the key."""
    now, source, target = there(customer), state["source"], state["target"]
    new = str(state["backup_replication"]["new_keys"][ABROAD]["arn"])
    alias = key_alias(built.identifier, state["rotation_id"])
    [backup] = [facts for facts in now.values() if isinstance(facts, dict) and facts.get("of") == target["resource_id"]]
    expected = {"of": target["resource_id"], "key": new, "retention_days": RETENTION_DAYS, "status": "replicated"}
    assert backup == expected
    added = {arn: facts for arn, facts in now.items() if arn not in before}
    [backup_arn] = [arn for arn in added if ":auto-backup:" in arn]
    assert set(added) == {new, f"arn:aws:kms:{ABROAD}:123456789012:{alias}", backup_arn}
    assert now[new]["tags"][ROTATION_ID_TAG] == state["rotation_id"]
    ours = ("state", "policy", "rotates")
    assert [now[new][fact] for fact in ours] == [now[old][fact] for fact in ours]
    assert now[new]["tags"]["owner"] == now[old]["tags"]["owner"]
    for arn, facts in before.items():
        if ":auto-backup:" not in arn:
            assert now[arn] == facts
        elif facts["of"] == source["resource_id"]:
            assert now[arn] == facts | {"status": "retained"}, "what was replicated of the source stays, under its key"
    shown = customer.instance(target["identifier"])
    assert shown is not None
    assert [{"DBInstanceAutomatedBackupsArn": backup_arn}] == shown["DBInstanceAutomatedBackupsReplications"]
    return new


@pytest.mark.parametrize("scenario", params(SCENARIOS, ("rb-dies-after-writes",)))
def test_the_targets_backups_are_replicated_under_a_new_key(
    customer: Customer, tmp_path: Path, scenario: Scenario
) -> None:
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS)
    old = replicate_backups(customer.account, scenario.name, ABROAD, RETENTION_DAYS)
    before, earlier = there(customer), set(executions(customer))

    def somebody_repairs(first: Run) -> None:
        """Nobody's denial goes by itself: its recovery has failed, too, when the database is started again."""
        if scenario.error == "AccessRefused":
            customer.until(
                lambda: ["FAILED"] * 2 == [now for arn, now in executions(customer).items() if arn not in earlier]
            )
            assert START.partition(".")[2] in str(first.cause)
            assert [arn for arn, facts in there(customer).items() if before.get(arn, facts) != facts] == []
            customer.rotated({**built.request, "GraceDays": 0})

    outcome = play(customer, scenario, tmp_path / "acks", built=built, afterwards=somebody_repairs)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.last.status == "SUCCEEDED", outcome.story
    new = assert_begun_anew(customer, built, outcome.state, before, old)
    [told] = [one for one in map(json.loads, outcome.moments) if one["moment"] == "CutoverCompleted"][-1:]
    keys = {"region": ABROAD, "retention_days": RETENTION_DAYS, "old_key": old, "new_key": new}
    assert [keys] == told["replicated_backups"]


@pytest.mark.proof
def test_the_next_rotation_goes_on_from_what_this_one_has_made(customer: Customer) -> None:
    built = customer.build("rb-again", rows=ROWS, writers=WRITERS)
    key = replicate_backups(customer.account, built.identifier, ABROAD, RETENTION_DAYS)

    for _ in range(2):
        before = there(customer)
        # The key at home is retired weeks later, when backups have expired.
        run = customer.rotated({**built.request, "GraceDays": 0, "RetireKey": "false"})
        key = assert_begun_anew(customer, built, run.output, before, key)


@pytest.mark.proof
def test_a_dry_run_shows_what_is_replicated_and_changes_nothing(customer: Customer) -> None:
    built = customer.build("rb-dry", rows=ROWS, writers=WRITERS)
    key = replicate_backups(customer.account, built.identifier, ABROAD, RETENTION_DAYS)
    before = there(customer)

    run = customer.rotated({**built.request, "DryRun": True})

    [shown] = run.output["plan"]["replicated_backups"]
    assert (ABROAD, key, RETENTION_DAYS) == (shown["region"], shown["key_arn"], shown["retention_days"])
    assert before == there(customer)
