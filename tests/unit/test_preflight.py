"""Preflight must say everything that stands against a rotation at once, and change nothing."""

from dataclasses import replace
from typing import Any

import pytest

from lambdas.preflight.handler import preflight
from lambdas.rotation.errors import (
    AccessRefused,
    AwsUnavailable,
    ConnectivityChanged,
    DatabaseUnreachable,
    LoginRefused,
    PreflightRefused,
    StateIncomplete,
)
from lambdas.rotation.names import RELEASED_TAG, our_tags
from lambdas.rotation.state import EndpointSecret, Finding, FirstLook, ManagedRotation, Replica, Rotation
from tests.fakes import NEW_KEY, OLD_KEY, ROTATION_ID, SOURCE, FakePorts, journaled, planned_rotation

NAME = "db.example.com"


def ready(**plan: Any) -> tuple[FakePorts, Rotation]:
    ports = FakePorts(with_target=False, vpc_ids=["vpc-1"])
    source = ports.rds.instances[SOURCE]
    ports.dns.records["Z1", NAME] = (source.database.address, 300)
    ports.secrets.logins["login"] = ("rotator", "secret")
    ports.rds.quotas = {"DBInstances": (3, 40), "AllocatedStorage": (100, 1000), "ManualSnapshots": (0, 100)}
    return ports, planned_rotation(ports, **plan)


def refusal(ports: FakePorts, rotation: Rotation) -> list[str]:
    """The names of the reasons; each line also has a message and an advice."""
    with pytest.raises(PreflightRefused) as refused:
        preflight(rotation, ports)
    lines = str(refused.value).splitlines()
    assert all(": " in line and " — " in line for line in lines)
    assert ports.calls == []
    return [line.split(":")[0] for line in lines]


def test_a_fit_database_passes_with_its_warnings() -> None:
    ports, rotation = ready()
    ports.rds.event_subscriptions[SOURCE] = ["ops"]

    passed = preflight(rotation, ports)

    assert passed.preflight is not None
    assert ["EventSubscription"] == [warning.name for warning in passed.preflight.warnings]
    assert ports.calls == []


@pytest.mark.parametrize(
    ("raw", "name", "words"),
    [
        ({"IAMDatabaseAuthenticationEnabled": True}, "ResourceIdChanges", "db-ORDERS"),
        ({"AwsBackupRecoveryPointArn": "arn:aws:backup:rp"}, "AwsBackup", SOURCE),
    ],
)
def test_warns_of_what_does_not_follow_to_the_target(raw: dict[str, Any], name: str, words: str) -> None:
    ports, rotation = ready()
    ports.rds.alter(SOURCE, raw=raw)

    passed = preflight(rotation, ports)

    assert passed.preflight is not None
    [warning] = passed.preflight.warnings
    assert (name, True) == (warning.name, words in warning.message)


def test_warnings_that_were_seen_outside_the_vpc_come_first() -> None:
    ports, rotation = ready()
    ports.rds.event_subscriptions[SOURCE] = ["ops"]
    seen = Finding(name="HighTtl", message="m", advice="a")
    rotation = journaled(ports, rotation.having(first_look=FirstLook(warnings=(seen,))))

    passed = preflight(rotation, ports)

    assert passed.preflight is not None
    assert ["HighTtl", "EventSubscription"] == [warning.name for warning in passed.preflight.warnings]


RAW: dict[str, dict[str, Any]] = {
    "ManagedMasterPassword": {"MasterUserSecret": {"SecretArn": "arn"}},
    "ClusterMember": {"DBClusterIdentifier": "c"},
    "BackupsReplicated": {"DBInstanceAutomatedBackupsReplications": [{}]},
    "InDirectory": {"DomainMemberships": [{"Domain": "d-1"}]},
    "IsReplica": {"ReadReplicaSourceDBClusterIdentifier": "c"},
    "TdeKeyStore": {"TdeCredentialArn": "arn:aws:cloudhsm:eu-central-1:123456789012:hapg-1"},
    "ActivityStream": {"ActivityStreamStatus": "started"},
    "ChangesPending": {"PendingModifiedValues": {"DBInstanceClass": "db.r6g.large"}},
}


@pytest.mark.parametrize("name", RAW)
def test_refuses_what_a_replica_cannot_be_or_carry(name: str) -> None:
    ports, rotation = ready()
    ports.rds.alter(SOURCE, raw=RAW[name])

    assert [name] == refusal(ports, rotation)


@pytest.mark.parametrize("strategy", ["read-replica", "snapshot", "catch-up", "blue-green"])
@pytest.mark.parametrize(
    "raw", [{"BackupTarget": "outposts"}, {"BackupTarget": "local"}, {"CustomerOwnedIpEnabled": True}]
)
def test_refuses_what_is_not_in_the_region_itself(strategy: str, raw: dict[str, Any]) -> None:
    """Left out, RDS would keep the target's backups elsewhere, and give it no address on its owner's premises."""
    ports, rotation = ready(strategy=strategy, accept=("downtime",))
    ports.rds.alter(SOURCE, raw=raw)

    assert ["OnOutposts"] == refusal(ports, rotation)


def test_warns_of_capacity_that_is_reserved_for_the_source_or_what_follows_it() -> None:
    ports, rotation = ready(strategy="snapshot", accept=("downtime", "replicas-away"))
    ports.rds.alter(SOURCE, raw={"DBCapacityReservationIdentifier": "dbcr-1"})

    passed = preflight(rotation, ports)

    assert passed.preflight is not None
    (warning,) = (one for one in passed.preflight.warnings if one.name == "CapacityReservation")
    assert f"{SOURCE} has capacity of the reservation dbcr-1" in warning.message


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("NotAvailable", {"status": "backing-up"}),
        ("Unencrypted", {"storage_encrypted": False}),
        ("BackupsOff", {"backup_retention_days": 0}),
        ("IsReplica", {"replica_of": "main"}),
    ],
)
def test_refuses_by_the_sources_state(name: str, facts: dict[str, Any]) -> None:
    ports, rotation = ready()
    ports.rds.alter(SOURCE, **facts)

    assert [name] == refusal(ports, rotation)


@pytest.mark.parametrize(("engine", "version"), [("oracle-ee", "19"), ("postgres", "13.22")])
def test_refuses_engines_that_the_strategy_does_not_know(engine: str, version: str) -> None:
    """By this name: that there is nobody to log in with must not come first."""
    ports, rotation = ready()
    database = ports.rds.instances[SOURCE].database.having(engine=engine, engine_version=version)
    ports.rds.alter(SOURCE, database=database)
    rotation = journaled(ports, rotation.having(source=database))
    if engine != "postgres":
        ports.fail("engine.login_limitations", StateIncomplete("no engine"))

    assert ["EngineNotSupported"] == refusal(ports, rotation)


def test_there_has_to_be_room_for_every_volume() -> None:
    """RDS counts the additional ones of Oracle and SQL Server, and says so when it is asked for the target."""
    ports, rotation = ready(strategy="snapshot", accept=("downtime",))
    ports.rds.quotas["AllocatedStorage"] = (700, 1000)
    volumes = [{"VolumeName": f"rdsdbdata{n}", "AllocatedStorage": 100} for n in (2, 3)]
    ports.rds.alter(SOURCE, raw={"AllocatedStorage": 100})
    preflight(rotation, ports)

    ports.rds.alter(SOURCE, raw={"AllocatedStorage": 101, "AdditionalStorageVolumes": volumes})

    assert ["QuotaExhausted"] == refusal(ports, rotation)


@pytest.mark.parametrize("strategy", ["read-replica", "snapshot", "catch-up"])
@pytest.mark.parametrize(("limit", "refused"), [(1000, True), (1099, True), (1100, False), (None, False)])
def test_refuses_a_limit_of_storage_that_rds_would_refuse_the_target(
    strategy: str, limit: int | None, refused: bool
) -> None:
    """By snapshot under the fence, after hours."""
    ports, rotation = ready(strategy=strategy, accept=("downtime",))
    ports.rds.quotas.pop("AllocatedStorage", None)
    ports.rds.alter(SOURCE, raw={"AllocatedStorage": 1000, "MaxAllocatedStorage": limit})

    if refused:
        assert ["StorageLimit"] == refusal(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


def test_refuses_by_its_surroundings() -> None:
    ports, rotation = ready()
    ports.rds.proxies[SOURCE] = ["pool"]
    ports.rds.alter(SOURCE, tags={"aws:cloudformation:stack-name": "shop"})
    ports.rds.add(f"{SOURCE}-rot-{ROTATION_ID}", key_arn=OLD_KEY)

    assert ["ProxyTarget", "IacOwned", "TargetNameTaken"] == refusal(ports, rotation)


@pytest.mark.parametrize("strategy", ["read-replica", "blue-green", "snapshot", "catch-up"])
def test_refuses_an_integration_that_reads_from_the_source(strategy: str) -> None:
    """RDS switches over with none; by any other strategy the warehouse would stay at the cutover, without a word."""
    ports, rotation = ready(strategy=strategy, accept=("downtime",))
    ports.rds.integrations[ports.rds.instances[SOURCE].database.arn] = ["to-the-warehouse"]

    assert ["ZeroEtlIntegration"] == refusal(ports, rotation)


@pytest.mark.parametrize(
    ("plan", "reasons"),
    [
        ({"connectivity": ("dns", "proxy"), "proxy": "pool"}, ()),
        ({"connectivity": ("dns", "proxy"), "proxy": "other"}, ("ProxyTarget",)),
        ({"connectivity": ("dns",), "proxy": "pool"}, ("ProxyTarget",)),
        ({"connectivity": ("proxy",), "proxy": "pool", "strategy": "blue-green"}, ("ProxyTarget",)),
    ],
)
def test_a_proxy_is_led_elsewhere_only_by_its_name(plan: dict[str, Any], reasons: tuple[str, ...]) -> None:
    ports, rotation = ready(**plan)
    ports.rds.proxies[SOURCE] = ["pool"]

    if reasons:
        assert list(reasons) == refusal(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


def test_a_named_risk_can_be_accepted() -> None:
    ports, rotation = ready(accept=("iac-owned",))
    ports.rds.alter(SOURCE, tags={"aws:cloudformation:stack-name": "shop"})

    assert preflight(rotation, ports).preflight is not None


def test_refuses_a_vpc_that_the_functions_are_not_in() -> None:
    ports, rotation = ready()
    ports.settings.defaults = {"vpc_ids": ["vpc-other"]}

    assert ["VpcNotReachable"] == refusal(ports, rotation)


@pytest.mark.parametrize(("window", "refused"), [("fri:02:00-fri:03:00", True), ("mon:02:00-mon:03:00", False)])
def test_pending_maintenance_counts_when_its_window_is_near(window: str, refused: bool) -> None:
    """The fakes' clock stands at a Friday, 00:00."""
    ports, rotation = ready()
    source = ports.rds.instances[SOURCE]
    ports.rds.alter(SOURCE, raw={"PreferredMaintenanceWindow": window})
    ports.rds.maintenance[source.database.arn] = ["system-update: new minor version"]

    if refused:
        assert ["MaintenancePending"] == refusal(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


@pytest.mark.parametrize(
    ("quota", "used"), [("DBInstances", (40, 40)), ("AllocatedStorage", (990, 1000)), ("ManualSnapshots", (99, 100))]
)
def test_refuses_when_there_is_no_room(quota: str, used: tuple[int, int]) -> None:
    ports, rotation = ready()
    ports.rds.quotas[quota] = used
    ports.rds.alter(SOURCE, raw={"AllocatedStorage": 20})

    assert ["QuotaExhausted"] == refusal(ports, rotation)


@pytest.mark.parametrize(("used", "refused"), [(96, False), (97, True)])
def test_a_copy_ahead_takes_room_for_two_snapshots_more(used: int, refused: bool) -> None:
    """They are there when the two under the fence are made: no moment to find that out."""
    ports, rotation = ready()
    plan, _ = rotation.planned()
    rotation = journaled(ports, rotation.having(plan=plan.having(strategy="snapshot", pre_copy=True)))
    ports.rds.quotas["ManualSnapshots"] = (used, 100)

    assert refused == ("QuotaExhausted" in refusal(ports, rotation))


def test_without_a_copy_ahead_room_for_two_snapshots_suffices() -> None:
    ports, rotation = ready()
    ports.rds.quotas["ManualSnapshots"] = (98, 100)

    assert preflight(rotation, ports).preflight is not None


def test_refuses_a_source_whose_key_is_disabled() -> None:
    ports, rotation = ready()
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], state="Disabled")

    assert ["OldKeyUnusable"] == refusal(ports, rotation)


def test_names_the_aliases_by_which_the_owner_goes_on_using_the_old_key() -> None:
    """Terraform, or a bucket's default: the rotation moves none, and new things would get under the old key."""
    ports, rotation = ready()
    ports.kms.aliases |= {"alias/prod-db": OLD_KEY, "alias/of-another": NEW_KEY, "alias/rds-rotation/orders/1": OLD_KEY}

    passed = preflight(rotation, ports).preflight

    assert passed is not None
    [warning] = passed.warnings
    assert "AliasOfOldKey" == warning.name
    assert "alias/prod-db leads" in warning.message


def test_aliases_of_another_accounts_key_are_theirs() -> None:
    ports, rotation = ready()
    theirs = OLD_KEY.replace("123456789012", "999999999999")
    ports.kms.add(theirs)
    ports.rds.alter(SOURCE, database=ports.rds.instances[SOURCE].database.having(kms_key_arn=theirs))
    ports.kms.aliases["alias/prod-db"] = theirs

    passed = preflight(rotation, ports).preflight

    assert passed is not None
    assert () == passed.warnings


def test_refuses_a_source_whose_tags_leave_no_room() -> None:
    """Verify sets the last of ours after the commit point. Neither AWS's own tags count, nor ours that are there."""
    ports, rotation = ready()
    of_a_target = our_tags(SOURCE, "00000000") | {RELEASED_TAG: "00000000"}
    as_many = {f"t{at}": "" for at in range(46)} | {"aws:cloudformation:logical-id": "Orders"} | of_a_target

    ports.rds.alter(SOURCE, tags=as_many)
    assert preflight(rotation, ports).preflight is not None
    ports.rds.alter(SOURCE, tags=as_many | {"one": "more"})
    assert ["TooManyTags"] == refusal(ports, rotation)


def test_refuses_a_key_whose_tags_leave_no_room() -> None:
    ports, rotation = ready()
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], tags={f"t{at}": "" for at in range(49)})

    assert ["TooManyTags"] == refusal(ports, rotation)


# -- connectivity --


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ({"connectivity": ()}, "NoConnectivity"),
        ({"dns_record": None}, "NoDnsRecord"),
        ({"connectivity": ("secret",)}, "NoEndpointSecret"),
        ({"connectivity": ("proxy",)}, "NoProxy"),
        ({"login_secret": None}, "NoLoginSecret"),
    ],
)
def test_refuses_a_plan_with_a_hole(plan: dict[str, Any], name: str) -> None:
    ports, rotation = ready(**plan)

    assert [name] == refusal(ports, rotation)


def test_reports_what_was_seen_outside_the_vpc() -> None:
    ports, rotation = ready()
    seen = Finding(name="RecordMissing", message="m", advice="a")
    rotation = journaled(ports, rotation.having(first_look=FirstLook(limitations=(seen,))))

    assert ["RecordMissing"] == refusal(ports, rotation)


def test_a_proxys_reason_hides_no_reason_of_the_record() -> None:
    ports, rotation = ready(connectivity=("dns", "proxy"), proxy="pool")
    seen = Finding(name="ProxyNotAllowed", message="m", advice="a")
    rotation = journaled(ports, rotation.having(first_look=FirstLook(limitations_of_proxy=(seen,))))
    ports.names.private[NAME] = "nowhere"

    assert ["NameLeadsElsewhere", "ProxyNotAllowed"] == refusal(ports, rotation)


@pytest.mark.parametrize("address", ["nowhere", "other.abc123.eu-central-1.rds.amazonaws.com"])
def test_refuses_a_name_that_leads_elsewhere_inside_the_vpc(address: str) -> None:
    """A private zone of the same name: Route 53's API shows the right record, and no client here uses it."""
    ports, rotation = ready()
    ports.rds.add("other", key_arn=OLD_KEY)
    ports.names.private[NAME] = address

    assert ["NameLeadsElsewhere"] == refusal(ports, rotation)


@pytest.mark.parametrize(
    ("connectivity", "listed", "names"),
    [
        ("dns", {"record_names": ["orders.example.com"]}, ["RecordNotAllowed"]),
        ("dns", {"record_names": ["*.example.com"]}, []),
        ("secret", {"endpoint_secret_names": ["orders"]}, ["SecretNotAllowed"]),
        ("secret", {"endpoint_secret_names": ["orders/end*"]}, []),
    ],
)
def test_refuses_what_it_may_read_and_not_change(connectivity: str, listed: dict[str, Any], names: list[str]) -> None:
    """It would be seen when applications are kept out already."""
    ports, rotation = ready(connectivity=(connectivity,), endpoint_secret="endpoint")
    ports.settings.defaults = {"vpc_ids": ["vpc-1"], **listed}
    arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders/endpoint-AbCdEf"
    address = ports.rds.instances[SOURCE].database.address
    ports.secrets.endpoints["endpoint"] = EndpointSecret(arn=arn, version_id="v", host=address)

    if names:
        assert names == refusal(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


# -- the login --


def test_refuses_a_login_secret_that_is_about_to_change() -> None:
    ports, rotation = ready()
    ports.secrets.found["login"] = [Finding(name="SecretAboutToRotate", message="m", advice="a")]

    assert ["SecretAboutToRotate"] == refusal(ports, rotation)


MANAGED = ManagedRotation(secret_arn="arn:login", function_arn="arn:f:rotate", rules={"AutomaticallyAfterDays": 30})


@pytest.mark.parametrize(("allowed", "refused"), [([], True), (["arn:f:other"], True), (["arn:f:rot*"], False)])
@pytest.mark.parametrize("secret", ["login", "endpoint"])
def test_refuses_a_rotation_of_a_secret_that_it_could_not_switch_on_again(
    secret: str, allowed: list[str], refused: bool
) -> None:
    ports, rotation = ready(connectivity=("dns", "secret"), endpoint_secret="endpoint")
    ports.settings.defaults = {"vpc_ids": ["vpc-1"], "secret_rotation_function_arns": allowed}
    address = ports.rds.instances[SOURCE].database.address
    ports.secrets.endpoints["endpoint"] = EndpointSecret(arn="arn:endpoint", version_id="v", host=address)
    ports.secrets.endpoints["login"] = EndpointSecret(arn="arn:login", version_id="v", host="db.example.com")
    ports.secrets.managed[secret] = MANAGED

    if refused:
        assert ["RotationFunctionNotAllowed"] == refusal(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


@pytest.mark.parametrize(
    ("host", "endpoint_secret", "refused"),
    [("source", None, True), ("source", "login-by-arn", False), ("source", "other", True), (NAME, None, False)],
)
def test_refuses_a_rotated_login_that_would_stay_with_the_source(
    host: str, endpoint_secret: str | None, refused: bool
) -> None:
    """Its function would go on changing the password of the database that was left behind."""
    words = ("dns", "secret") if endpoint_secret else ("dns",)
    ports, rotation = ready(connectivity=words, endpoint_secret=endpoint_secret)
    ports.settings.defaults = {"vpc_ids": ["vpc-1"], "secret_rotation_function_arns": ["*"]}
    address = ports.rds.instances[SOURCE].database.address
    login = EndpointSecret(arn="arn:login", version_id="v", host=address if host == "source" else host)
    ports.secrets.endpoints = {"login": login, "login-by-arn": login, "other": login.having(arn="arn:other")}
    ports.secrets.managed["login"] = MANAGED

    if refused:
        assert ["LoginSecretNamesSource"] == refusal(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


class OthersHaveNoHost(dict[str, EndpointSecret]):
    def __missing__(self, name: str) -> EndpointSecret:
        raise ConnectivityChanged(f"{name} has no field host")


def test_an_endpoint_secret_that_cannot_be_read_is_a_reason_beside_the_login() -> None:
    """It is asked for twice, and refused once: by its name, together with what is wrong with the login's secret."""
    ports, rotation = ready(connectivity=("secret",), endpoint_secret="endpoint")
    ports.settings.defaults = {"vpc_ids": ["vpc-1"], "secret_rotation_function_arns": ["*"]}
    address = ports.rds.instances[SOURCE].database.address
    ports.secrets.endpoints = OthersHaveNoHost(login=EndpointSecret(arn="arn:login", version_id="v", host=address))
    ports.secrets.managed["login"] = MANAGED

    assert ["SecretIncomplete", "LoginSecretNamesSource"] == refusal(ports, rotation)


@pytest.mark.parametrize(
    ("error", "name"),
    [(LoginRefused("no"), "LoginRefused"), (DatabaseUnreachable("no"), "DatabaseUnreachable")],
)
def test_a_login_that_fails_is_a_reason_among_others(error: Exception, name: str) -> None:
    ports, rotation = ready()
    ports.rds.alter(SOURCE, backup_retention_days=0)
    for _ in range(2):
        ports.fail("engine.login_limitations", error)

    assert ["BackupsOff", name] == refusal(ports, rotation)


@pytest.mark.parametrize("question", ["login_limitations", "limitations"])
def test_a_session_that_ends_once_is_no_reason(question: str) -> None:
    """A server ends sessions for reasons that pass; refusing then would tell somebody to open a port that is open."""
    ports, rotation = ready()
    ports.fail(f"engine.{question}", DatabaseUnreachable("the connection ended"))

    assert preflight(rotation, ports).preflight is not None


def test_what_the_databases_hold_is_a_reason_unless_accepted() -> None:
    ports, rotation = ready()
    ports.source_server.found = [Finding(name="LogicalSlots", message="m", advice="a")]

    assert ["LogicalSlots"] == refusal(ports, rotation)
    ports, rotation = ready(accept=("logical-slots",))
    ports.source_server.found = [Finding(name="LogicalSlots", message="m", advice="a")]
    assert preflight(rotation, ports).preflight is not None


# -- questions without an answer --


def test_a_question_that_may_not_be_asked_is_a_reason() -> None:
    """What it would have said is not known; the other reasons are reported all the same."""
    ports, rotation = ready()
    ports.rds.alter(SOURCE, backup_retention_days=0)
    ports.fail("kms.describe_key", AccessRefused("kms:DescribeKey"))

    assert ["BackupsOff", "OldKeyUnreadable"] == refusal(ports, rotation)


def test_a_throttled_question_is_asked_again() -> None:
    ports, rotation = ready()
    ports.fail("kms.describe_key", AwsUnavailable("slow down"))

    with pytest.raises(AwsUnavailable):
        preflight(rotation, ports)


def test_all_reasons_come_together() -> None:
    ports, rotation = ready(connectivity=(), login_secret=None)
    ports.rds.alter(SOURCE, backup_retention_days=0, storage_encrypted=False)

    assert ["Unencrypted", "BackupsOff", "NoConnectivity", "NoLoginSecret"] == refusal(ports, rotation)


# -- what is restored --------------------------------------------------------------------------------------------------


def no_longer_made(strategy: str, name: str = "db.m3.large") -> tuple[FakePorts, Rotation]:
    """RDS makes instances of one class no more; the source is one of ``name``."""
    ports, rotation = ready(strategy=strategy, accept=("downtime",))
    ports.rds.alter(SOURCE, raw={"DBInstanceClass": name})
    ports.rds.no_longer_made.add(("postgres", "16.14", "db.m3.large"))
    return ports, rotation


@pytest.mark.parametrize("strategy", ["snapshot", "catch-up"])
def test_refuses_to_restore_what_rds_makes_no_more(strategy: str) -> None:
    """RDS would say so when it is asked for the target: under the fence, or after hours."""
    ports, rotation = no_longer_made(strategy)

    with pytest.raises(PreflightRefused, match=r"makes no new db\.m3\.large of postgres 16\.14, as orders has it"):
        preflight(rotation, ports)
    assert ["NotOrderable"] == refusal(ports, rotation)


@pytest.mark.parametrize(("strategy", "name"), [("read-replica", "db.m3.large"), ("snapshot", "db.m7g.large")])
def test_whatever_else_rds_makes_no_more_is_no_reason(strategy: str, name: str) -> None:
    """A replica is asked for before the fence, and RDS says so itself."""
    ports, rotation = no_longer_made(strategy, name)

    assert preflight(rotation, ports).preflight is not None


def test_a_question_about_it_that_is_not_answered_is_a_reason() -> None:
    ports, rotation = no_longer_made("snapshot")
    ports.fail("rds.is_orderable", AccessRefused("rds:DescribeOrderableDBInstanceOptions"))

    assert ["QuestionUnanswered"] == refusal(ports, rotation)


# -- catch-up ----------------------------------------------------------------------------------------------------------


def test_a_catch_up_needs_nobody_to_accept_a_downtime() -> None:
    """RDS copies a snapshot of what it does not replicate: without encryption, without backups."""
    ports, rotation = ready(strategy="catch-up", write_outage_budget_seconds=60)
    ports.rds.alter(SOURCE, storage_encrypted=False, backup_retention_days=0)

    passed = preflight(rotation, ports)

    assert passed.preflight is not None
    assert ["LoadsLazily", "SchemaStands", "RolesAreCopied"] == [one.name for one in passed.preflight.warnings]
    assert ports.calls == []


def test_of_mariadb_everything_is_replicated_and_the_log_is_kept() -> None:
    ports, rotation = ready(strategy="catch-up")
    database = ports.rds.instances[SOURCE].database.having(engine="mariadb", engine_version="11.4.5")
    ports.rds.alter(SOURCE, database=database)

    passed = preflight(journaled(ports, rotation.having(source=database)), ports)

    assert passed.preflight is not None
    assert ["LoadsLazily", "LogIsKept"] == [one.name for one in passed.preflight.warnings]


@pytest.mark.parametrize("engine", ["oracle-ee", "mysql"])
def test_refuses_engines_that_it_could_not_catch_up_with(engine: str) -> None:
    """And logs in to none of them."""
    ports, rotation = ready(strategy="catch-up")
    database = ports.rds.instances[SOURCE].database.having(engine=engine, engine_version="11.4.5")
    ports.rds.alter(SOURCE, database=database)

    assert {"EngineNotSupported"} == set(refusal(ports, journaled(ports, rotation.having(source=database))))


@pytest.mark.parametrize("name", [name for name in RAW if name != "ManagedMasterPassword"])
def test_a_catch_up_carries_no_more_over_than_others(name: str) -> None:
    ports, rotation = ready(strategy="catch-up")
    ports.rds.alter(SOURCE, raw=RAW[name])

    assert [name] == refusal(ports, rotation)


@pytest.mark.parametrize(
    ("master", "key", "accept", "reasons"),
    [
        ("dbadmin", "aws-secretsmanager", (), ["ManagedMasterPassword"]),
        ("rotator", "aws-secretsmanager", ("managed-master-password",), ["LoginIsMaster"]),
        ("dbadmin", OLD_KEY, ("managed-master-password",), ["MasterSecretKey"]),
        ("dbadmin", "aws-secretsmanager", ("managed-master-password",), []),
    ],
)
def test_a_managed_master_password_is_accepted_as_by_snapshot(
    master: str, key: str, accept: tuple[str, ...], reasons: list[str]
) -> None:
    """RDS gives the target another one."""
    ports, rotation = ready(strategy="catch-up", accept=accept)
    ports.kms.add("aws-secretsmanager", manager="AWS")
    secret = {"SecretArn": "arn:of-the-source", "KmsKeyId": key}
    ports.rds.alter(SOURCE, raw={"MasterUserSecret": secret, "MasterUsername": master})

    if reasons:
        assert reasons == refusal(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


def test_what_cannot_be_replicated_is_a_reason_unless_accepted() -> None:
    views = Finding(name="MaterializedViews", message="m", advice="a")
    ports, rotation = ready(strategy="catch-up", accept=("materialized-views",))
    ports.source_server.found = [views, Finding(name="NotReplicable", message="m", advice="a")]

    assert ["NotReplicable"] == refusal(ports, rotation)
    ports.source_server.found = [views]
    assert preflight(rotation, ports).preflight is not None


# -- auto --------------------------------------------------------------------------------------------------------------


def test_auto_takes_what_proves_most_and_keeps_the_next_to_fall_back_to() -> None:
    ports, rotation = ready(strategy="auto")

    plan, _ = preflight(rotation, ports).planned()

    assert (plan.strategy, plan.fallback, plan.not_taken) == ("read-replica", "blue-green", ())


def test_auto_says_why_it_passes_a_strategy_over() -> None:
    ports, rotation = ready(strategy="auto")
    replica = ports.rds.add_replica("r", of=SOURCE).database
    plan, _ = rotation.planned()
    known = Replica(identifier="r", arn=replica.arn, resource_id=replica.resource_id)
    rotation = journaled(ports, rotation.having(plan=plan.having(replicas=(known,))))

    passed = preflight(rotation, ports)

    plan, _ = passed.planned()
    assert (plan.strategy, plan.fallback) == ("blue-green", None)
    [not_taken] = plan.not_taken
    assert not_taken.strategy == "read-replica"
    assert [reason.split(":")[0] for reason in not_taken.reasons] == ["ReplicasAway"]
    assert passed.preflight is not None
    assert "SwitchoverByRds" in [warning.name for warning in passed.preflight.warnings]


def test_auto_refuses_where_something_speaks_against_every_strategy() -> None:
    """Each reason once, with what it speaks against: what is to be removed first follows from that."""
    ports, rotation = ready(strategy="auto")
    ports.rds.alter(SOURCE, raw={"ReadReplicaDBInstanceIdentifiers": ["r"], **RAW["ChangesPending"]})

    with pytest.raises(PreflightRefused) as refused:
        preflight(rotation, ports)

    lines = {line.split(":")[0]: line.rpartition(" (")[2] for line in str(refused.value).splitlines()}
    assert lines == {
        "ReplicasAway": "against read-replica)",
        "ChangesPending": "against read-replica, blue-green)",
        "NotAvailable": "against read-replica, blue-green)",
    }


@pytest.mark.parametrize("strategy", ["read-replica", "blue-green"])
def test_a_strategy_that_was_asked_for_is_not_exchanged(strategy: str) -> None:
    ports, rotation = ready(strategy=strategy)

    plan, _ = preflight(rotation, ports).planned()

    assert (plan.strategy, plan.fallback) == (strategy, None)
