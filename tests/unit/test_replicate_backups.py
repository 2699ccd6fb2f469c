"""Backups in another Region are somebody's last resort: the target's have to be there, under a key of their own."""

from dataclasses import replace
from typing import Any

import pytest

from lambdas.notify.handler import notify
from lambdas.preflight.handler import preflight
from lambdas.replicate_backups.handler import replicate_backups
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    BackupsNotReplicated,
    JournalMoved,
    NameTaken,
    PreflightRefused,
)
from lambdas.rotation.names import ROTATION_ID_TAG, TAGS_AT_MOST, key_alias, our_tags
from lambdas.rotation.new_key import INDEXED, SETTLED
from lambdas.rotation.state import Failure, Moment, ReplicatedBackup, Rotation
from lambdas.start_rotation.handler import start_rotation
from tests.fakes import (
    BACKUP_REPLICATIONS,
    EXECUTION,
    RECOVERY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    FakePorts,
    journaled,
    past_grace,
    switched_rotation,
    visit,
)

IRELAND, STOCKHOLM = "eu-west-1", "eu-north-1"
RETENTION = {IRELAND: 14, STOCKHOLM: 9}
ALIAS = key_alias(SOURCE, ROTATION_ID)


def key_in(region: str, name: str = "old") -> str:
    return f"arn:aws:kms:{region}:123456789012:key/{name}"


def replicated(*regions: str, ports: FakePorts | None = None, **defaults: Any) -> FakePorts:
    """The source's backups are replicated to these Regions, all of which the stack lists unless ``defaults`` differ."""
    ports = ports or FakePorts(with_target=False, vpc_ids=["vpc-1"], **{"backup_regions": list(regions)} | defaults)
    for region in regions:
        ports.kms_in(region).add(key_in(region))
        ports.replicated_backups.add(SOURCE, region, key_in(region), retention_days=RETENTION[region])
    return ports


# -- StartRotation and Preflight --


def started(ports: FakePorts, **request: Any) -> Rotation:
    ports.secrets.logins["login"] = ("rotator", "secret")
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[SOURCE].database.address, 300)
    ways = {"LoginSecret": "login", "Connectivity": "dns", "DnsRecord": "Z1/db.example.com"}
    asked = {"DBInstanceIdentifier": SOURCE, **ways, **request}
    return start_rotation(Rotation(schema=1, execution_arn=EXECUTION, request=asked), ports)


def refusals(rotation: Rotation, ports: FakePorts) -> str:
    with pytest.raises(PreflightRefused) as refused:
        preflight(rotation, ports)
    return str(refused.value)


def test_the_plan_says_where_backups_are_replicated_to_and_under_which_keys() -> None:
    """A dry run shows it before anything is made."""
    ports = replicated(IRELAND, STOCKHOLM)

    rotation = preflight(started(ports, DryRun=True), ports)

    assert rotation.plan is not None
    assert [(IRELAND, key_in(IRELAND), 14), (STOCKHOLM, key_in(STOCKHOLM), 9)] == [
        (one.region, one.key_arn, one.retention_days) for one in rotation.plan.replicated_backups
    ]
    notify(journaled(ports, rotation), ports)
    [(moment, _, message)] = ports.notifier.sent
    assert moment == Moment.PLANNED
    assert [IRELAND, STOCKHOLM] == [one["region"] for one in message["plan"]["replicated_backups"]]
    assert (key_in(IRELAND), None) == tuple(message["replicated_backups"][0][name] for name in ("old_key", "new_key"))


def test_a_database_whose_backups_stay_is_asked_about_nothing_abroad() -> None:
    ports = FakePorts(with_target=False, backup_regions=[IRELAND])
    ports.fail("replicated_backups.at", AssertionError("asked"))

    rotation = started(ports)

    assert rotation.plan is not None
    assert () == rotation.plan.replicated_backups


def test_refuses_a_region_that_the_stack_does_not_list() -> None:
    """The functions may do nothing there; the others are no reason to go on."""
    ports = replicated(IRELAND, STOCKHOLM, backup_regions=[IRELAND])

    [line] = refusals(started(ports), ports).splitlines()

    assert line.startswith("BackupsReplicated: ")
    assert ("backup_regions" in line, STOCKHOLM in line, IRELAND in line) == (True, True, False)


@pytest.mark.parametrize("what", ["unlisted", "denied", "gone", "key denied", "key disabled", "key with too many tags"])
def test_what_cannot_be_read_or_begun_anew_refuses(what: str) -> None:
    """After the commit point it would be too late."""
    ports = replicated(IRELAND)
    if what == "unlisted":
        ports.settings.defaults = {"vpc_ids": ["vpc-1"]}
    elif what == "denied":
        ports.fail("replicated_backups.at", AccessRefused("rds:DescribeDBInstanceAutomatedBackups: denied"))
    elif what == "gone":
        ports.replicated_backups.there.clear()
    elif what == "key denied":
        ports.fail("kms.describe_key", AccessRefused("kms:DescribeKey: denied"))
    elif what == "key disabled":
        kms = ports.kms_in(IRELAND)
        kms.keys[key_in(IRELAND)] = replace(kms.keys[key_in(IRELAND)], state="Disabled")
    else:
        kms = ports.kms_in(IRELAND)
        tags = {f"tag-{n}": "" for n in range(TAGS_AT_MOST - 1)}
        kms.keys[key_in(IRELAND)] = replace(kms.keys[key_in(IRELAND)], tags=tags)

    rotation = started(ports)

    [line] = [one for one in refusals(rotation, ports).splitlines() if "ProxyTarget" not in one]
    assert line.startswith("BackupsReplicated: ")
    assert IRELAND in line


@pytest.mark.parametrize(("others", "names"), [(18, []), (19, ["BackupQuota"])])
def test_warns_of_a_quota_that_the_target_would_meet_after_the_cutover(others: int, names: list[str]) -> None:
    ports = replicated(IRELAND)
    ports.replicated_backups.others = others

    rotation = started(ports)

    assert rotation.first_look is not None
    assert names == [warning.name for warning in rotation.first_look.warnings]


def test_refuses_what_has_changed_since_the_start() -> None:
    """Somebody began it in between: nobody has read under which key."""
    ports = replicated(backup_regions=[IRELAND])
    rotation = started(ports)
    replicated(IRELAND, ports=ports)

    assert "has changed since the start" in refusals(rotation, ports)


def test_refuses_by_strategy_blue_green() -> None:
    ports = replicated(IRELAND)
    rotation = started(ports, Strategy="blue-green")

    assert "strategy blue-green does not carry that over" in refusals(rotation, ports)


def test_refuses_a_target_that_would_have_no_backups() -> None:
    """RDS replicates only what has some; the target's retention is the source's."""
    ports = replicated(IRELAND)
    ports.rds.alter(SOURCE, backup_retention_days=0)

    assert "BackupsOff" in refusals(started(ports, Strategy="snapshot", Accept=["downtime"]), ports)


# -- ReplicateBackups --


def cut_over(*regions: str) -> tuple[FakePorts, Rotation]:
    """Verify has run."""
    ports = replicated(*regions, ports=FakePorts())
    rotation = past_grace(ports, switched_rotation(ports))
    assert rotation.plan is not None
    backups = tuple(
        ReplicatedBackup(region=region, arn=f"arn-{region}", key_arn=key_in(region), retention_days=RETENTION[region])
        for region in regions
    )
    return ports, journaled(ports, rotation.having(plan=rotation.plan.having(replicated_backups=backups)))


def of_the_target(ports: FakePorts, region: str) -> ReplicatedBackup | None:
    return ports.replicated_backups.of(ports.rds.instances[TARGET].database, region)


def pending(rotation: Rotation) -> str:
    assert rotation.backup_replication is not None
    assert not rotation.backup_replication.complete
    return "; ".join(rotation.backup_replication.pending)


def test_each_region_gets_a_key_and_the_targets_backups_under_it() -> None:
    ports, rotation = cut_over(IRELAND, STOCKHOLM)

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert done.complete
    for region in (IRELAND, STOCKHOLM):
        key = ports.kms_in(region).keys[done.new_keys[region].arn]
        assert (region, ROTATION_ID) == (key.arn.split(":")[3], key.tags[ROTATION_ID_TAG])
        assert ports.kms_in(region).aliases[ALIAS] == key.arn
        backup = of_the_target(ports, region)
        assert backup is not None
        assert (key.arn, RETENTION[region]) == (backup.key_arn, backup.retention_days)
    assert [] == [call for call in ports.calls if "delet" in call or "disable" in call]
    source = ports.rds.instances[SOURCE].database
    left = [ports.replicated_backups.of(source, region) for region in (IRELAND, STOCKHOLM)]
    assert [key_in(IRELAND), key_in(STOCKHOLM)] == [one and one.key_arn for one in left]


def test_a_key_is_written_down_before_rds_is_told_of_it() -> None:
    """Whoever goes on from a journal that does not know the key would not know whose it is."""
    ports, rotation = cut_over(IRELAND)
    ports.fail("replicated_backups.request", AwsUnavailable("lost answer"), when="after")

    replicate_backups(rotation, ports)

    journal = ports.ledger.journal[ROTATION_ID].rotation.backup_replication
    assert journal is not None
    assert journal.new_keys[IRELAND].arn in ports.kms_in(IRELAND).keys
    calls = [call.partition(" ")[0] for call in ports.calls]
    assert [
        *("ledger.record", "kms.create_key", "ledger.record", "kms.complete_key", "ledger.record"),
        "replicated_backups.request",
    ] == calls


@pytest.mark.parametrize("call", ["kms.create_key", "kms.complete_key", "replicated_backups.request", "ledger.record"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_repeats_nothing_that_took_effect(call: str, when: Any) -> None:
    ports, rotation = cut_over(IRELAND)
    ports.fail(call, AwsUnavailable("lost answer"), when=when)
    assert "lost answer" in pending(visit(replicate_backups, rotation, ports))

    ports.clock.advance(INDEXED.total_seconds())
    done = visit(replicate_backups, ports.ledger.journal[ROTATION_ID].rotation, ports).backup_replication

    assert done is not None
    assert done.complete
    assert 1 == sum(one.startswith("kms.create_key") for one in ports.calls)
    assert 1 == sum(one.startswith("replicated_backups.request") for one in ports.calls)
    assert 1 == len([key for key in ports.kms_in(IRELAND).keys.values() if ROTATION_ID_TAG in key.tags])


def test_of_two_deliveries_at_the_same_time_only_one_makes_a_key() -> None:
    """The other one would see neither alias nor tag yet. What the two write differs, or the ledger takes it for one."""
    ports, rotation = cut_over(IRELAND)
    ports.fail("ledger.record", JournalMoved("the twin makes the key"))
    with pytest.raises(JournalMoved):
        replicate_backups(rotation, ports)
    assert [] == ports.calls

    ports.fail("kms.create_key", AwsRefused("not yet"))
    rotation = visit(replicate_backups, rotation, ports)
    written = []
    for _ in range(2):
        ports.fail("kms.create_key", AwsUnavailable("later"))
        replicate_backups(rotation, ports)
        written.append(ports.ledger.journal[ROTATION_ID].rotation.backup_replication)
        ports.clock.advance(0.001)
    assert written[0] != written[1]


def test_each_region_has_a_token_of_its_own_and_a_tag_makes_no_key_the_rotations() -> None:
    """The one of home can be read there, hours or days before; and anybody may tag a key of his own."""
    ports, rotation = cut_over(IRELAND, STOCKHOLM)
    for region in (IRELAND, STOCKHOLM):
        ports.kms_in(region).add(key_in(region, "planted"), tags=our_tags(SOURCE, ROTATION_ID))
        ports.fail("kms.create_key", AwsUnavailable("lost answer"))
    visit(replicate_backups, rotation, ports)
    ports.clock.advance(INDEXED.total_seconds())

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert done.complete
    assert 2 == len({request.token for request in done.key_requests.values()})
    assert not [key for key in done.new_keys.values() if "planted" in key.arn]


def test_a_key_that_kms_does_not_know_everywhere_is_waited_for_and_no_longer() -> None:
    """RDS is asked for nothing under a key without its alias and its rotation."""
    ports, rotation = cut_over(IRELAND)
    denied = AccessRefused("kms:CreateAlias: its tags do not count yet")
    for _ in range(2):
        ports.fail("kms.complete_key", denied)
        assert "does not know the new key everywhere" in pending(visit(replicate_backups, rotation, ports))
    assert of_the_target(ports, IRELAND) is None

    ports.clock.advance(SETTLED.total_seconds() + 1)
    ports.fail("kms.complete_key", denied)
    with pytest.raises(AccessRefused):
        visit(replicate_backups, rotation, ports)

    done = visit(replicate_backups, rotation, ports).backup_replication
    assert done is not None
    assert done.complete
    assert 1 == sum(one.startswith("kms.create_key") for one in ports.calls)


def test_a_second_delivery_changes_nothing() -> None:
    ports, rotation = cut_over(IRELAND)
    visit(replicate_backups, rotation, ports)
    ports.calls.clear()

    visit(replicate_backups, rotation, ports)

    assert ["ledger.record"] == ports.calls


def test_an_unencrypted_source_has_unencrypted_backups_and_its_target_has_not() -> None:
    """There is no key whose policy the new one could have."""
    ports, rotation = cut_over(IRELAND)
    assert rotation.plan is not None
    plain = tuple(one.having(key_arn=None) for one in rotation.plan.replicated_backups)
    rotation = journaled(ports, rotation.having(plan=rotation.plan.having(replicated_backups=plain)))

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert done.complete


def test_waits_for_what_rds_does_not_list_yet() -> None:
    """A key that is written down is not asked for again."""
    ports, rotation = cut_over(IRELAND)
    ports.replicated_backups.slow = True
    assert "eu-west-1: no replicated backup" in pending(visit(replicate_backups, rotation, ports))

    ports.replicated_backups.slow = False
    ports.fail("kms.describe_key", AssertionError("asked"))

    seen = visit(replicate_backups, rotation, ports).backup_replication
    assert seen is not None
    assert seen.complete


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("replicated_backups.request", AwsRefused("the quota is exhausted")),
        ("kms.complete_key", NameTaken("the alias is somebody else's")),
        ("replicated_backups.of", AwsUnavailable("that Region is away")),
    ],
)
def test_a_region_that_refuses_keeps_no_other_waiting(call: str, error: Exception) -> None:
    ports, rotation = cut_over(IRELAND, STOCKHOLM)
    ports.fail(call, error)

    assert f"eu-west-1: {error}" == pending(visit(replicate_backups, rotation, ports))

    assert of_the_target(ports, IRELAND) is None
    assert of_the_target(ports, STOCKHOLM) is not None


def refusing(ports: FakePorts, rotation: Rotation, minutes: float) -> Rotation:
    ports.fail("replicated_backups.request", AwsRefused("KMSKeyNotAccessible: key"))
    seen = visit(replicate_backups, rotation, ports)
    ports.clock.advance(60 * minutes)
    ports.fail("replicated_backups.request", AwsRefused("KMSKeyNotAccessible: key"))
    return seen


def test_a_refusal_that_stays_ends_it_after_half_an_hour_and_a_new_start_goes_on() -> None:
    ports, rotation = cut_over(IRELAND)
    rotation = refusing(ports, rotation, minutes=30)
    rotation = visit(replicate_backups, rotation, ports)  # not longer than that
    ports.clock.advance(15)
    ports.fail("replicated_backups.request", AwsRefused("KMSKeyNotAccessible: key"))
    with pytest.raises(BackupsNotReplicated, match="eu-west-1: KMSKeyNotAccessible"):
        visit(replicate_backups, rotation, ports)

    taken = ports.ledger.take_over(ports.ledger.journal[ROTATION_ID].rotation, RECOVERY)
    ports.fail("replicated_backups.request", AwsRefused("KMSKeyNotAccessible: key"))
    again = visit(replicate_backups, taken, ports)  # has its own half hour

    assert "KMSKeyNotAccessible" in pending(again)
    done = visit(replicate_backups, again, ports).backup_replication
    assert done is not None
    assert done.complete
    assert 1 == sum(one.startswith("kms.create_key") for one in ports.calls)


def test_a_denial_ends_it_at_once_when_every_other_region_is_served() -> None:
    """The error names the call; nobody repairs that by waiting."""
    ports, rotation = cut_over(IRELAND, STOCKHOLM)
    ports.fail("replicated_backups.request", AccessRefused("rds:StartDBInstanceAutomatedBackupsReplication: denied"))

    with pytest.raises(AccessRefused, match="StartDBInstanceAutomatedBackupsReplication"):
        replicate_backups(rotation, ports)

    assert of_the_target(ports, STOCKHOLM) is not None


def test_a_region_that_its_owner_has_given_up_since_gets_nothing() -> None:
    """No data goes where somebody has just ended it; and this is the way out of a Region that refuses for good."""
    ports, rotation = cut_over(IRELAND, STOCKHOLM)
    shown = [{"DBInstanceAutomatedBackupsArn": f"arn:aws:rds:{STOCKHOLM}:123456789012:auto-backup:ab-{SOURCE}"}]
    ports.rds.alter(SOURCE, raw={**ports.rds.instances[SOURCE].raw, BACKUP_REPLICATIONS: shown})

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert done.complete
    assert [STOCKHOLM] == list(done.new_keys)
    assert of_the_target(ports, IRELAND) is None


def test_a_region_that_was_begun_since_is_served_too() -> None:
    """The decommission would end it in silence."""
    ports, rotation = cut_over(IRELAND)
    replicated(STOCKHOLM, ports=ports)

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert {IRELAND, STOCKHOLM} == done.new_keys.keys()
    assert of_the_target(ports, STOCKHOLM) is not None


def test_a_source_that_is_gone_was_replicated_as_at_the_start() -> None:
    ports, rotation = cut_over(IRELAND)
    del ports.rds.instances[SOURCE]

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert done.complete
    assert of_the_target(ports, IRELAND) is not None


def test_a_key_that_is_gone_leaves_nothing_to_inherit_and_keeps_nobody_waiting() -> None:
    ports, rotation = cut_over(IRELAND)
    ports.fail("kms.describe_key", AwsRefused("kms:DescribeKey: NotFoundException", code="NotFoundException"))

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert done.complete


def test_a_new_key_inherits_the_old_ones_tags_there() -> None:
    ports, rotation = cut_over(IRELAND)
    kms = ports.kms_in(IRELAND)
    kms.keys[key_in(IRELAND)] = replace(kms.keys[key_in(IRELAND)], tags={"owner": "pay"})

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert "pay" == kms.keys[done.new_keys[IRELAND].arn].tags["owner"]


def test_what_is_complete_stays_so_whatever_becomes_of_the_target() -> None:
    ports, rotation = cut_over(IRELAND)
    done = visit(replicate_backups, rotation, ports)
    del ports.rds.instances[TARGET]

    assert visit(replicate_backups, done, ports).backup_replication == done.backup_replication


def test_the_patience_of_a_resumed_execution_ends() -> None:
    """It counts from that execution's first look, not from each."""
    ports, rotation = cut_over(IRELAND)
    refusing(ports, rotation, minutes=31)
    taken = ports.ledger.take_over(ports.ledger.journal[ROTATION_ID].rotation, RECOVERY)

    taken = refusing(ports, visit(replicate_backups, taken, ports), minutes=31)

    with pytest.raises(BackupsNotReplicated):
        visit(replicate_backups, taken, ports)


def test_what_comes_late_is_complete_all_the_same() -> None:
    ports, rotation = cut_over(IRELAND)
    ports.replicated_backups.slow = True
    rotation = visit(replicate_backups, rotation, ports)
    ports.clock.advance(31 * 60)
    ports.replicated_backups.slow = False

    done = visit(replicate_backups, rotation, ports).backup_replication

    assert done is not None
    assert done.complete


def test_backups_under_another_key_are_not_called_done() -> None:
    """Somebody has begun it by hand. It is theirs: it is left as it is."""
    ports, rotation = cut_over(IRELAND)
    ports.replicated_backups.add(TARGET, IRELAND, key_in(IRELAND))

    assert "somebody else has begun it" in pending(visit(replicate_backups, rotation, ports))
    assert [] == [call for call in ports.calls if call.startswith("replicated_backups")]


def test_a_target_that_is_gone_has_nothing_to_replicate() -> None:
    ports, rotation = cut_over(IRELAND)
    del ports.rds.instances[TARGET]

    with pytest.raises(BackupsNotReplicated, match="no longer exists"):
        replicate_backups(rotation, ports)


def test_people_are_told_both_keys_of_each_region() -> None:
    """The old one is kept: who wants it gone has to know which it is."""
    ports, rotation = cut_over(IRELAND)
    rotation = visit(replicate_backups, rotation, ports)

    notify(rotation, ports)

    [(_, _, message)] = ports.notifier.sent
    assert rotation.backup_replication is not None
    new = rotation.backup_replication.new_keys[IRELAND].arn
    expected = {"region": IRELAND, "retention_days": 14, "old_key": key_in(IRELAND), "new_key": new}
    assert [expected] == message["replicated_backups"]


def test_a_failure_is_told_with_applications_on_the_target() -> None:
    _, rotation = cut_over(IRELAND)

    assert rotation.having(failure=Failure(Error="BackupsNotReplicated")).moment == Moment.ATTENTION


def test_the_next_rotation_begins_with_what_this_one_has_made() -> None:
    ports, rotation = cut_over(IRELAND)
    done = visit(replicate_backups, rotation, ports).backup_replication
    assert done is not None
    ports.settings.defaults = {"backup_regions": [IRELAND]}
    ports.ledger.close(rotation, "rotated")
    ports.ledger.release_lock(rotation)

    second = EXECUTION.replace(":first", ":second")
    request = {"DBInstanceIdentifier": SOURCE}
    following = start_rotation(Rotation(schema=1, execution_arn=second, request=request), ports)

    assert following.plan is not None
    assert TARGET == (following.source and following.source.identifier)
    [found] = following.plan.replicated_backups
    assert done.new_keys[IRELAND].arn == found.key_arn
    assert [{"DBInstanceAutomatedBackupsArn": found.arn}] == ports.rds.instances[TARGET].raw[BACKUP_REPLICATIONS]
