"""Every question about a key's users is asked, and one without an answer is a user too."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from lambdas.rotation.aws import key_users
from lambdas.rotation.aws.client import client_of_a_search
from lambdas.rotation.aws.key_users import AwsKeyUsers
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable
from lambdas.rotation.state import KeyUser
from tests.fakes import START, FakeClock

KEY = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
ID = KEY.rpartition("/")[2]
ALIAS = "alias/rds-rotation/orders/10c59dbe"
ALIAS_ARN = KEY.replace(f"key/{ID}", ALIAS)
OTHER = KEY.replace("1111", "9999")

Answers = dict[str, list[dict[str, Any]]]


class Account:
    """Answers by operation, as the services would give them; everything else is empty."""

    def __init__(self) -> None:
        self.answers: Answers = {"list_aliases": [{"AliasName": ALIAS, "AliasArn": ALIAS_ARN}]}
        self.usage: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.more_events = False
        self.failing: dict[str, Exception] = {}
        self.at_once = 100
        """So many items come on a page."""
        self.on_page: Callable[[], None] = lambda: None
        """What happens while AWS answers."""
        self.on_event_page: Callable[[], None] = lambda: None

    def each_page(self, aws: object, operation: str, key: str, **arguments: Any) -> Iterator[list[Any]]:
        self.on_page()
        if operation in self.failing:
            raise self.failing[operation]
        if arguments.get("SnapshotType") == "awsbackup" or arguments.get("Engine", "custom-oracle-ee") != (
            "custom-oracle-ee"
        ):
            return
        found = self.answers.get(operation, [])
        yield found[: self.at_once]
        for begin in range(self.at_once, len(found), self.at_once):
            self.on_page()
            yield found[begin : begin + self.at_once]

    def client(self, service: str) -> "Account":
        return self

    def get_key_last_usage(self, **_: Any) -> Mapping[str, Any]:
        if "get_key_last_usage" in self.failing:
            raise self.failing["get_key_last_usage"]
        return {"KeyLastUsage": self.usage}

    def lookup_events(self, *, LookupAttributes: list[dict[str, str]], **_: Any) -> Mapping[str, Any]:
        self.on_event_page()
        if "lookup_events" in self.failing:
            raise self.failing["lookup_events"]
        (attribute,) = LookupAttributes
        if attribute["AttributeKey"] == "EventId":
            return {"Events": [one for one in self.events if one["EventId"] == attribute["AttributeValue"]]}
        return {"Events": self.events} | ({"NextToken": "more"} if self.more_events else {})


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    made = Account()
    monkeypatch.setattr(key_users, "each_page", made.each_page)
    monkeypatch.setattr(key_users, "client_of_a_search", made.client)
    return made


def users(clock: FakeClock) -> list[tuple[str, str]]:
    return [(user.kind, user.identifier) for user in AwsKeyUsers(clock).users_of(KEY)]


def test_nobody_uses_an_unused_key(account: Account, clock: FakeClock) -> None:
    assert users(clock) == []
    assert len(key_users.QUESTIONS) >= 20


ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("describe_db_instances", {"DBInstanceIdentifier": "a", "DbiResourceId": "db-A", "KmsKeyId": KEY}, "database"),
    (
        "describe_db_instances",
        {"DBInstanceIdentifier": "a", "DbiResourceId": "db-A", "PerformanceInsightsKMSKeyId": KEY},
        "performance-insights",
    ),
    (
        "describe_db_instances",
        {"DBInstanceIdentifier": "a", "DbiResourceId": "db-A", "ActivityStreamKmsKeyId": KEY},
        "activity-stream",
    ),
    (
        "describe_db_instances",
        {"DBInstanceIdentifier": "a", "DbiResourceId": "db-A", "MasterUserSecret": {"KmsKeyId": KEY}},
        "master-user-secret",
    ),
    ("describe_db_clusters", {"DBClusterIdentifier": "c", "DbClusterResourceId": "cl", "KmsKeyId": KEY}, "cluster"),
    ("describe_db_snapshots", {"DBSnapshotIdentifier": "s", "KmsKeyId": KEY}, "snapshot"),
    (
        "describe_db_snapshots",
        {"DBSnapshotIdentifier": "s", "KmsKeyId": KEY, "SnapshotType": "automated"},
        "automated-snapshot",
    ),
    ("describe_db_cluster_snapshots", {"DBClusterSnapshotIdentifier": "s", "KmsKeyId": KEY}, "snapshot"),
    (
        "describe_db_instance_automated_backups",
        {"DBInstanceIdentifier": "a", "DbiResourceId": "db-A", "KmsKeyId": KEY},
        "automated-backup",
    ),
    (
        "describe_db_cluster_automated_backups",
        {"DBClusterIdentifier": "c", "DbClusterResourceId": "cl", "KmsKeyId": KEY},
        "automated-backup",
    ),
    ("describe_export_tasks", {"ExportTaskIdentifier": "e", "S3Bucket": "b", "KmsKeyId": ID}, "s3-export"),
    (
        "describe_tenant_databases",
        {"TenantDBName": "t", "MasterUserSecret": {"KmsKeyId": KEY}},
        "master-user-secret",
    ),
    ("describe_integrations", {"IntegrationName": "i", "KMSKeyId": KEY}, "zero-etl-integration"),
    ("describe_db_engine_versions", {"EngineVersion": "19", "KMSKeyId": KEY}, "custom-engine-version"),
    ("list_secrets", {"Name": "s", "KmsKeyId": ALIAS}, "secret"),
    ("list_secrets", {"Name": "s", "KmsKeyId": ALIAS_ARN}, "secret"),
    ("list_backup_vaults", {"BackupVaultName": "v", "EncryptionKeyArn": KEY}, "backup-vault"),
    ("describe_endpoints", {"EndpointIdentifier": "e", "KmsKeyId": KEY}, "dms-endpoint"),
    (
        "describe_endpoints",
        {"EndpointIdentifier": "e", "S3Settings": {"ServerSideEncryptionKmsKeyId": KEY}},
        "dms-endpoint",
    ),
    (
        "describe_endpoints",
        {"EndpointIdentifier": "e", "RedshiftSettings": {"ServerSideEncryptionKmsKeyId": ID}},
        "dms-endpoint",
    ),
    ("describe_endpoints", {"EndpointIdentifier": "e", "DocDbSettings": {"KmsKeyId": KEY}}, "dms-endpoint"),
    ("describe_endpoints", {"EndpointIdentifier": "e", "MongoDbSettings": {"KmsKeyId": ALIAS}}, "dms-endpoint"),
    (
        "describe_endpoints",
        {"EndpointIdentifier": "e", "ExtraConnectionAttributes": f"a=b; serverSideEncryptionKmsKeyId={KEY}; c=d"},
        "dms-endpoint",
    ),
    ("describe_certificates", {"CertificateIdentifier": "c", "KmsKeyId": KEY}, "dms-certificate"),
    ("describe_instance_profiles", {"InstanceProfileName": "p", "KmsKeyArn": KEY}, "dms-instance-profile"),
    (
        "describe_replication_instances",
        {"ReplicationInstanceIdentifier": "r", "KmsKeyId": KEY},
        "dms-replication-instance",
    ),
    (
        "describe_replication_configs",
        {"ReplicationConfigIdentifier": "r", "ComputeConfig": {"KmsKeyId": KEY}},
        "dms-serverless-replication",
    ),
    (
        "describe_replication_task_assessment_runs",
        {"AssessmentRunName": "r", "ResultKmsKeyArn": KEY},
        "dms-assessment-run",
    ),
]


@pytest.mark.parametrize(("operation", "row", "kind"), ROWS)
def test_each_kind_of_user_is_found(
    account: Account, clock: FakeClock, operation: str, row: dict[str, Any], kind: str
) -> None:
    account.answers[operation] = [row]
    found = users(clock)
    account.answers[operation] = [json.loads(json.dumps(row).replace(ID, "other").replace(ALIAS, "alias/other"))]

    assert [kind] == [one for one, _ in found]
    assert users(clock) == []


def test_an_alias_of_the_owners_is_a_user_and_none_of_a_rotations_or_awss(account: Account, clock: FakeClock) -> None:
    """Whoever goes by it puts new things under the old key, and with the key it would be gone."""
    account.answers["list_aliases"] += [
        {"AliasName": name, "AliasArn": KEY.replace(f"key/{ID}", name)} for name in ("alias/prod-db", "alias/aws/rds")
    ]

    assert users(clock) == [("alias", "alias/prod-db: move it to the new key")]


def test_a_recovery_point_is_under_the_databases_key_not_the_vaults(account: Account, clock: FakeClock) -> None:
    account.answers["list_backup_vaults"] = [{"BackupVaultName": "v", "EncryptionKeyArn": OTHER}]
    point = {"RecoveryPointArn": "arn:point", "EncryptionKeyArn": KEY}
    account.answers["list_recovery_points_by_backup_vault"] = [point]

    assert users(clock) == [("recovery-point", "arn:point")]


# -- grants --


def grant(**constraints: Any) -> dict[str, Any]:
    return {"GrantId": "g", "GranteePrincipal": "rds", "Constraints": constraints}


def of(resource_id: str) -> dict[str, Any]:
    return {"EncryptionContextEquals": {"aws:rds:db-id": resource_id}}


def test_a_grant_goes_by_the_name_of_whom_it_serves(account: Account, clock: FakeClock) -> None:
    instance = {"DBInstanceIdentifier": "a", "DbiResourceId": "db-A", "KmsKeyId": KEY}
    account.answers["describe_db_instances"] = [instance]
    account.answers["list_grants"] = [grant(**of("db-A"))]
    assert users(clock) == [("database", "a")]

    account.answers["list_grants"] = [grant(**of("db-GONE")), grant(SourceArn="arn:disk"), {"GrantId": "h"}]
    assert users(clock) == [
        ("database", "a"),
        ("grant", "rds for arn:disk"),
        ("grant", "unknown grantee for h"),
        ("residual-grant", "db-GONE (g)"),
    ]


@pytest.mark.parametrize("own_key", [KEY, OTHER])
def test_a_grant_of_a_cluster_goes_by_its_name_as_long_as_it_exists(
    account: Account, clock: FakeClock, own_key: str
) -> None:
    """What RDS holds for a cluster that is gone it gives back by itself; for one that is there the key is needed."""
    cluster = {"DBClusterIdentifier": "c", "DbClusterResourceId": "cluster-C", "KmsKeyId": own_key}
    account.answers["describe_db_clusters"] = [cluster]
    account.answers["list_grants"] = [
        grant(EncryptionContextSubset={"aws:rds:dbc-id": "cluster-C"}),
        grant(EncryptionContextEquals={"aws:rds:dbc-id": "cluster-GONE"}),
    ]

    assert users(clock) == [("cluster", "c"), ("residual-grant", "cluster-GONE (g)")]


# -- use --


def event(name: str, event_id: str = "e1", error: str | None = None, **identity: str) -> dict[str, Any]:
    detail = {"userIdentity": identity} | ({"errorCode": error} if error else {})
    return {"EventName": name, "EventId": event_id, "Username": "app", "CloudTrailEvent": json.dumps(detail)}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (event("Decrypt"), [("principal", "app (Decrypt)")]),
        (event("Decrypt", invokedBy="rds.amazonaws.com"), []),
        (event("Decrypt", error="DisabledException", invokedBy="rds.amazonaws.com"), [("principal", "app (Decrypt)")]),
        (event("DescribeKey"), []),
    ],
)
def test_use_beside_rds_counts_and_so_does_rds_missing_the_key(
    account: Account, clock: FakeClock, seen: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """What an application encrypted by itself is under the key for ever, and nothing lists it."""
    account.events = [seen]

    assert expected == users(clock)


@pytest.mark.parametrize(
    ("age", "seen", "expected"),
    [
        (timedelta(hours=1), [], ["recent-use"]),
        (timedelta(hours=25), [], []),
        (timedelta(hours=1), [event("GenerateDataKey", "u", invokedBy="rds.amazonaws.com")], []),
    ],
)
def test_a_recent_use_that_nobody_can_explain_counts(
    account: Account, clock: FakeClock, age: timedelta, seen: list[dict[str, Any]], expected: list[str]
) -> None:
    account.events = seen
    account.usage = {"Operation": "Decrypt", "Timestamp": START - age, "CloudTrailEventId": "u"}

    assert expected == [kind for kind, _ in users(clock)]


# -- questions without an answer --

OPERATIONS = sorted({operation for operation, _, _ in ROWS} | {"list_grants", "list_aliases", "get_key_last_usage"})


@pytest.mark.parametrize("operation", [*OPERATIONS, "lookup_events"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (lambda: AwsRefused("no", "InvalidAction"), "InvalidAction"),
        (lambda: AccessRefused("rds:Ask: nobody allowed it"), "AccessDenied (rds:Ask)"),
        (lambda: AwsUnavailable("no"), "Unavailable"),
    ],
)
def test_a_question_without_an_answer_is_a_user(
    account: Account, clock: FakeClock, operation: str, error: Callable[[], Exception], code: str
) -> None:
    """It is named, and the other questions are asked all the same."""
    account.failing[operation] = error()
    account.answers["list_secrets"] = [{"Name": "s", "KmsKeyId": KEY}]

    found = users(clock)

    assert any(kind == "unanswered" and code in identifier for kind, identifier in found)
    assert operation == "list_secrets" or ("secret", "s") in found


def test_what_has_to_be_allowed_is_named_as_iam_names_it(account: Account, clock: FakeClock) -> None:
    """Nobody can allow DescribeInstanceProfiles: IAM knows no such action."""
    denial = "User: arn:aws:sts::1:x is not authorized to perform: dms:ListInstanceProfiles on resource: *"
    account.failing["describe_instance_profiles"] = AccessRefused(f"dms:DescribeInstanceProfiles: {denial}")

    assert users(clock) == [("unanswered", "dms instance profiles: AccessDenied (dms:ListInstanceProfiles)")]


def test_the_list_is_stable(account: Account, clock: FakeClock) -> None:
    account.answers["list_secrets"] = [{"Name": name, "KmsKeyId": KEY} for name in ("b", "a", "a")]

    assert [KeyUser(kind="secret", identifier=name) for name in ("a", "b")] == AwsKeyUsers(clock).users_of(KEY)


# -- a large account --


def test_a_search_that_takes_too_long_ends_in_time_and_says_what_was_not_asked(
    account: Account, clock: FakeClock
) -> None:
    """Lambda would end the function, and nobody would ever hear that the question has no answer."""
    account.answers["list_backup_vaults"] = [{"BackupVaultName": "v", "EncryptionKeyArn": KEY}]
    points = [{"RecoveryPointArn": f"arn:point-{at}", "EncryptionKeyArn": KEY} for at in range(50_000)]
    account.answers["list_recovery_points_by_backup_vault"] = points
    account.answers["list_secrets"] = [{"Name": "s", "KmsKeyId": KEY}]
    account.on_page = lambda: clock.advance(0.2)
    began = clock.monotonic()

    found = users(clock)

    assert clock.monotonic() - began < key_users.PATIENCE_SECONDS + 1
    assert ("secret", "s") in found, "a long list is asked for after the short ones"
    assert ("recovery-point", "arn:point-0") in found, "what was read of it counts"
    assert ("unanswered", "backup vaults: not enough time") in found
    assert ("unanswered", "grants: not enough time") in found


def test_an_account_that_answers_nothing_in_time_leaves_every_question_open(account: Account, clock: FakeClock) -> None:
    account.on_page = lambda: clock.advance(key_users.PATIENCE_SECONDS + 1)

    assert {"unanswered"} == {kind for kind, _ in users(clock)}
    assert len(key_users.QUESTIONS) <= len(users(clock))


def test_events_are_read_for_as_long_as_there_is_time(account: Account, clock: FakeClock) -> None:
    account.events = [event("Decrypt", "d")]
    account.more_events = True
    account.on_event_page = lambda: clock.advance(2)

    assert {("principal", "app (Decrypt)"), ("unanswered", "events: not enough time")} <= set(users(clock))
    assert clock.monotonic() < key_users.PATIENCE_SECONDS + 2


def test_the_last_call_of_a_search_ends_before_the_function_does() -> None:
    """Each of three attempts may take until both of its timeouts have passed, with up to three seconds in between."""
    config = client_of_a_search("kms").meta.config
    worst = 3 * (config.connect_timeout + config.read_timeout) + 3

    assert 3 == config.retries["total_max_attempts"]
    assert key_users.PATIENCE_SECONDS + worst < 55, "ScheduleKeyDeletion and DiscardNewKey have 60 s"
