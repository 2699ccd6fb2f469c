"""The new key is made once, whatever KMS says of it in its first minutes, and goes where it cannot be used.

KMS does not know a key everywhere at once, and what a tag permits counts up to five minutes later.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lambdas.rotation.names import ROTATION_ID_TAG
from tests.rotation.scenarios import ROWS, WRITERS, Scenario, assert_invariants, params, play, sandbox_with, table_line
from tests.rotation.support import Customer


def of_a_new_key(*faults: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return tuple({"function": "create-new-kms-key", **fault} for fault in faults)


def refused(call: str, code: str, times: int, nth: int = 1) -> dict[str, Any]:
    return {"kind": "error-before", "call": call, "code": code, "times": times, "nth": nth}


SCENARIOS = [
    Scenario(
        "key-unsettled",
        of_a_new_key(
            {"kind": "lost-answer", "call": "kms.CreateKey"},
            refused("kms.CreateAlias", "NotFoundException", times=3),
            refused("kms.EnableKeyRotation", "DisabledException", times=2),
            refused("kms.EnableKeyRotation", "AccessDeniedException", times=25, nth=3),
        ),
        ends="forward",
    ),
    Scenario(
        "key-dies",
        of_a_new_key(
            *(
                {"kind": "killed", "call": call, "when": "after"}
                for call in ("kms.CreateKey", "kms.CreateAlias", "kms.EnableKeyRotation")
            ),
            {"kind": "killed", "call": "dynamodb.UpdateItem", "when": "after", "nth": 2},
        ),
        ends="forward",
    ),
    # By the key's own policy, say: after ten minutes it is a denial, and no key is left.
    Scenario(
        "key-denied",
        of_a_new_key({"kind": "denied", "call": "kms.EnableKeyRotation"}),
        ends="back",
        error="AccessRefused",
    ),
]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with(SCENARIOS) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params(SCENARIOS, ("key-unsettled",)))
def test_one_key_and_no_other(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    built, kms = customer.build(scenario.name, rows=ROWS, writers=WRITERS), customer.client("kms")
    kms.enable_key_rotation(KeyId=built.key_arn)  # the new key is to have it, too

    outcome = play(customer, scenario, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    made = {}
    for listed in kms.list_keys()["Keys"]:
        tags = {tag["TagKey"]: tag["TagValue"] for tag in kms.list_resource_tags(KeyId=listed["KeyId"])["Tags"]}
        if tags.get(ROTATION_ID_TAG) == outcome.state["rotation_id"]:
            made[listed["KeyArn"]] = kms.describe_key(KeyId=listed["KeyId"])["KeyMetadata"]["KeyState"]
    assert made == {outcome.state["new_key"]["arn"]: "Enabled" if outcome.went_forward else "PendingDeletion"}
