"""A state that grows past 256 KB ends its execution past every Catch, and each recovery: with everybody kept out."""

import json
from typing import Any

import pytest

from lambdas.decommission.handler import decommission
from lambdas.pause_application_writes.handler import pause_application_writes
from lambdas.preflight.handler import preflight
from lambdas.resume_writes.handler import resume_writes
from lambdas.rollback.handler import rollback
from lambdas.rotation.errors import MESSAGE_BYTES, FenceIncomplete, PreflightRefused
from lambdas.rotation.state import DatabaseFence, Failure, Fence, Finding, FirstLook, KeyUser, Retirement, Rotation
from lambdas.rotation.state_size import (
    EVIDENCE_BYTES,
    FINDINGS_BYTES,
    LATER_BYTES,
    MOST_BYTES,
    UNTIL_THE_FENCE_BYTES,
    as_findings,
    bytes_of,
    limitation,
)
from lambdas.schedule_key_deletion.handler import _shown
from lambdas.start_rotation.backups import with_replicated_backups
from lambdas.verify.handler import verify
from tests.fakes import (
    OLD_KEY,
    SOURCE,
    START,
    TARGET,
    FakePorts,
    journaled,
    past_grace,
    planned_rotation,
    switched_rotation,
    synced_rotation,
    visit,
)

STEP_FUNCTIONS_BYTES = 262_144
LEDGER_BYTES = 400_000
LONGEST_CAUSE = 32_768
NAME = "db.example.com"


def with_databases(count: int, *, with_target: bool = False) -> FakePorts:
    ports = FakePorts(with_target=with_target, vpc_ids=["vpc-1"])
    source = ports.rds.instances[SOURCE]
    ports.dns.records["Z1", NAME] = (source.database.address, 300)
    ports.secrets.logins["login"] = ("rotator", "secret")
    ports.rds.quotas = {"DBInstances": (3, 40), "AllocatedStorage": (100, 1000), "ManualSnapshots": (0, 100)}
    for number in range(count):
        ports.source_server.own.open[f"customer_{number:06}"] = True
        ports.source_server.own.limit[f"customer_{number:06}"] = -1
    return ports


def is_accepted(count: int, **plan: Any) -> bool:
    ports = with_databases(count)
    rotation = planned_rotation(ports, **plan)
    try:
        return preflight(rotation, ports).preflight is not None
    except PreflightRefused as refused:
        return "FenceTooLarge: " not in str(refused)


def the_most(**plan: Any) -> int:
    """Of databases, that Preflight accepts."""
    accepted, refused = 0, 10_000
    while refused - accepted > 1:
        count = (accepted + refused) // 2
        accepted, refused = (count, refused) if is_accepted(count, **plan) else (accepted, count)
    return accepted


def test_what_thousands_can_connect_to_is_refused_before_anything_is_made() -> None:
    assert is_accepted(1_500)
    assert not is_accepted(5_000, dry_run=True), "a dry run shows it"


def test_the_names_of_what_is_captured_are_listed_once_more() -> None:
    ports = with_databases(the_most())
    rotation = planned_rotation(ports)
    plan, source = rotation.planned()
    fence = ports.engine(source, plan).expected_fence()

    assert limitation(rotation, fence) is None
    found = limitation(rotation.having(plan=plan.having(strategy="catch-up")), fence)

    assert found is not None
    assert "FenceTooLarge" == found.name


def test_what_thousands_are_warned_of_does_not_fill_the_state() -> None:
    """Connections that commit nothing, alarms: one finding each."""
    ports = with_databases(3)
    ports.source_server.worth_a_warning = many("LongTransaction", 2_000)
    rotation = planned_rotation(ports)
    alarms = FirstLook(warnings=tuple(many("AlarmOnInstance", 3_000)))
    rotation = with_replicated_backups(rotation, ports.rds.instances[SOURCE], alarms, ports)
    before = bytes_of(rotation.to_state())
    assert before < FINDINGS_BYTES + 3_000

    seen = preflight(rotation, ports)

    assert bytes_of(seen.to_state()) - before <= UNTIL_THE_FENCE_BYTES
    assert seen.preflight is not None
    assert {"AlarmOnInstance", "LongTransaction", "MoreFindings"} <= {one.name for one in seen.preflight.warnings}


def test_a_refusal_names_every_kind_of_reason_however_many_there_are_of_one() -> None:
    ports = with_databases(3)
    ports.source_server.found = [*many("UnloggedTables", 2_000), *many("LogicalSlots", 1)]

    with pytest.raises(PreflightRefused) as refused:
        preflight(planned_rotation(ports), ports)

    *listed, rest = str(refused.value).split("\n")
    assert {"UnloggedTables", "LogicalSlots"} == {line.partition(":")[0] for line in listed}
    assert rest.startswith(f"MoreFindings: {2001 - len(listed)} more are not listed: ")


def test_of_each_kind_the_first_finding_is_kept_and_the_others_are_counted() -> None:
    found = [*many("AlarmOnInstance", 3_000), *many("LongTransaction", 40), *many("HighTtl", 1)]

    *kept, rest = as_findings(found)

    assert bytes_of([one.model_dump() for one in (*kept, rest)]) <= FINDINGS_BYTES
    assert kept == [one for one in found if one in kept], "in their order"
    assert {"AlarmOnInstance 0", "LongTransaction 0", "HighTtl 0"} <= {one.message for one in kept}
    count = {name: sum(one.name == name for one in kept) for name in ("AlarmOnInstance", "LongTransaction")}
    assert rest.message == (
        f"{3041 - len(kept)} more are not listed: {3000 - count['AlarmOnInstance']} AlarmOnInstance, "
        f"{40 - count['LongTransaction']} LongTransaction"
    )
    assert as_findings(found[:5]) == tuple(found[:5])


def many(name: str, count: int) -> list[Finding]:
    return [Finding(name=name, message=f"{name} {number}", advice="wait" * 20) for number in range(count)]


def test_what_came_up_since_preflight_is_refused_with_nothing_closed() -> None:
    ports = with_databases(5_000, with_target=True)
    rotation = synced_rotation(ports)

    with pytest.raises(PreflightRefused, match="the fence would list 5002 "):
        pause_application_writes(rotation, ports)

    assert [] == ports.calls
    assert ports.source_server.accepts_applications()


def test_the_largest_rotation_that_preflight_accepts_fits_at_every_step() -> None:
    count = the_most()
    ports = with_databases(count, with_target=True)
    sizes = {}

    def seen(step: str, rotation: Rotation) -> Rotation:
        sizes[step] = bytes_of(rotation.to_state())
        return rotation

    seen("fence", visit(pause_application_writes, synced_rotation(ports), ports))
    ports = with_databases(count, with_target=True)
    rotation = seen("check", switched_rotation(ports))
    failure = Failure(Error="TargetMismatch", Cause="x" * LONGEST_CAUSE)
    undone = seen("rollback", visit(rollback, rotation.having(failure=failure), ports, takes_over=True))
    assert undone.failure == failure
    ports = with_databases(count, with_target=True)
    rotation = seen("release", visit(resume_writes, switched_rotation(ports), ports))
    ports.dns.records["Z1", NAME] = (ports.rds.instances[TARGET].database.address, 5)
    rotation = seen("verify", visit(verify, rotation, ports))
    assert rotation.verification is not None
    assert rotation.verification.evidence["databases_left_out"] > 0
    left = past_grace(ports, rotation).having(verification=rotation.verification, release=rotation.release)
    rotation = seen("decommission", visit(decommission, journaled(ports, left), ports))
    users = [KeyUser(kind="automated backups", identifier=f"{OLD_KEY}/{number:050}") for number in range(1000)]
    retirement = Retirement(verdict="in-use", reason="x" * 1000, users=_shown(users), started_at=START)
    seen("retire", rotation.having(retirement=retirement))

    assert count > 2_000
    with_a_cause = sizes.pop("rollback")
    assert max(sizes.values()) <= MOST_BYTES, sizes
    assert with_a_cause <= MOST_BYTES + LONGEST_CAUSE < STEP_FUNCTIONS_BYTES < LEDGER_BYTES
    assert sizes["retire"] - sizes["fence"] <= LATER_BYTES
    assert sizes["fence"] > MOST_BYTES - LATER_BYTES - UNTIL_THE_FENCE_BYTES, "no less is accepted than fits"


def test_evidence_that_is_too_much_says_what_it_leaves_out() -> None:
    ports = with_databases(2_000, with_target=True)
    rotation = visit(resume_writes, switched_rotation(ports), ports)

    verification = visit(verify, rotation, ports).verification

    assert verification is not None
    kept = verification.evidence["databases"]
    assert bytes_of(kept) <= EVIDENCE_BYTES
    assert len(ports.target_server.own.open) == len(kept) + verification.evidence["databases_left_out"]


def test_a_fence_says_nothing_of_what_stands_in_for_nothing() -> None:
    """There may be thousands of them; and what an earlier release has written down is read as it was."""
    plain = DatabaseFence(name="shop@%", kind="account-lock")
    limited = DatabaseFence(name="shop", kind="connection-limit", connection_limit=17)
    walled = DatabaseFence(name="o", kind="security-groups", security_groups=("sg-1",), isolation_group="sg-2")
    fence = Fence(databases=(plain, limited, walled), requested_at=START)

    written = fence.model_dump(mode="json")

    assert [
        {"name": "shop@%", "kind": "account-lock"},
        {"name": "shop", "kind": "connection-limit", "connection_limit": 17},
        {"name": "o", "kind": "security-groups", "security_groups": ["sg-1"], "isolation_group": "sg-2"},
    ] == written["databases"]
    assert fence == Fence.model_validate(json.loads(json.dumps(written)))
    nothing = {"connection_limit": -1, "security_groups": [], "isolation_group": None}
    assert plain == DatabaseFence.model_validate({"name": "shop@%", "kind": "account-lock", **nothing})


@pytest.mark.parametrize(
    "session", ["Query of app (connection 4711)", "Query of m\N{GREEK SMALL LETTER MU}ller\U0001f511"]
)
def test_a_message_that_lists_every_session_is_no_longer_than_a_cause(session: str) -> None:
    said = str(FenceIncomplete("sessions that do not end: " + ", ".join([session] * 5_000)))

    assert MESSAGE_BYTES // 2 < len(json.dumps(said)) <= MESSAGE_BYTES + len(json.dumps("\N{HORIZONTAL ELLIPSIS}"))
    assert said.startswith(f"sessions that do not end: {session}, ")
    assert said.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert str(FenceIncomplete(session)) == session
