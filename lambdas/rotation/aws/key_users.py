"""Who depends on a key: every question that this account and Region can answer.

A question that is not answered is in the list too. The list errs on the side of a user that is none: what it misses
would become unreadable with the key, for ever.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any

from lambdas.rotation.aws.client import calls, client_of_a_search, each_page
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable
from lambdas.rotation.names import is_owners_alias
from lambdas.rotation.ports import Clock
from lambdas.rotation.state import KeyUser

Raw = Mapping[str, Any]

_EVENTS_LOOKED_BACK = timedelta(days=30)
_USED_LATELY = timedelta(hours=24)
_USES = frozenset(
    {
        "Decrypt",
        "DeriveSharedSecret",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateMac",
        "ReEncrypt",
        "Sign",
        "Verify",
        "VerifyMac",
    }
)
_MAX_EVENT_PAGES = 20
PATIENCE_SECONDS = 25
"""The last call may take as long once more, and the functions that ask have 60 s for all that they do."""


@dataclass(frozen=True)
class _Key:
    """A key and every name under which a resource may refer to it."""

    arn: str
    names: frozenset[str]

    def __contains__(self, reference: object) -> bool:
        return reference in self.names


class _OutOfTime(Exception):
    """What is left of the search has to stay open."""


@dataclass(frozen=True)
class _Search:
    """The questions of one visit, which have to be done before Lambda ends the function that asks them."""

    clock: Clock
    ends_at: float
    """By the monotonic clock; no further call is begun after that."""

    def go_on(self) -> None:
        if self.clock.monotonic() > self.ends_at:
            raise _OutOfTime

    def pages(self, service: str, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
        """Every item under ``key`` of a paginated read, as long as there is time."""
        with calls(service):
            for page in each_page(client_of_a_search(service), operation, key, **arguments):
                yield from page
                self.go_on()


Question = Callable[["_Key", _Search], Iterable[KeyUser]]


class AwsKeyUsers:
    """`ports.KeyUsers`. One visit asks some thirty read-only questions; none of them changes anything.

    An account may have more under its keys than one visit can read. A function that Lambda ends says nothing, so a
    search ends before: what it has not asked by then has no answer.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def users_of(self, key_arn: str) -> list[KeyUser]:
        search = _Search(self._clock, ends_at=self._clock.monotonic() + PATIENCE_SECONDS)
        key, found = _named(key_arn, search)
        for question in QUESTIONS:
            found += _answer(question, key, search)
        known = {user.identifier for user in found}
        found += [user for user in _answer(_grants, key, search) if user.identifier not in known]
        return sorted(set(found), key=lambda user: (user.kind, user.identifier))


def _answer(question: Question, key: _Key, search: _Search) -> list[KeyUser]:
    """What was read before a question had no answer is part of it: a user that is named needs no other question."""
    found: list[KeyUser] = []
    try:
        search.go_on()
        found.extend(question(key, search))
    except AwsRefused as refused:
        found.append(_unanswered(question, refused.code))
    except AccessRefused as refused:
        found.append(_unanswered(question, _denied(refused)))
    except AwsUnavailable:
        found.append(_unanswered(question, "Unavailable"))
    except _OutOfTime:
        found.append(_unanswered(question, "not enough time"))
    return found


def _denied(refused: AccessRefused) -> str:
    """With the action, so that somebody can allow it; its resource is the account's.

    By AWS's own account where it gives one: not every call is decided on by its own name.
    """
    said = re.search(r"not authorized to perform: ([\w-]+:\w+)", str(refused))
    return f"AccessDenied ({said[1] if said else str(refused).partition(': ')[0]})"


def _unanswered(question: Question, code: str) -> KeyUser:
    return KeyUser(kind="unanswered", identifier=f"{question.__name__.strip('_').replace('_', ' ')}: {code}")


def _named(key_arn: str, search: _Search) -> tuple[_Key, list[KeyUser]]:
    """The key with its aliases, by which some services refer to it.

    One of its owner's is a user, too: by it somebody makes new things under the key, and it would be gone with it.
    """
    plain = _Key(key_arn, frozenset({key_arn, key_arn.rpartition("/")[2]}))
    names: set[str] = set()

    def aliases(key: _Key, search: _Search) -> Iterator[KeyUser]:
        for alias in search.pages("kms", "list_aliases", "Aliases", KeyId=key.arn):
            names.update((alias["AliasName"], alias["AliasArn"]))
            if is_owners_alias(alias["AliasName"]):
                yield KeyUser(kind="alias", identifier=f"{alias['AliasName']}: move it to the new key")

    found = _answer(aliases, plain, search)
    return _Key(key_arn, plain.names | names), found


# -- RDS ----------------------------------------------------------------------------------------------------------


def _instances(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("rds", "describe_db_instances", "DBInstances"):
        yield from _references(key, raw, raw["DBInstanceIdentifier"], "database")


def _clusters(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("rds", "describe_db_clusters", "DBClusters"):
        yield from _references(key, raw, raw["DBClusterIdentifier"], "cluster")


def _references(key: _Key, raw: Raw, identifier: str, kind: str) -> Iterator[KeyUser]:
    if raw.get("KmsKeyId") in key:
        yield KeyUser(kind=kind, identifier=identifier)
    if raw.get("PerformanceInsightsKMSKeyId") in key:
        yield KeyUser(kind="performance-insights", identifier=identifier)
    if raw.get("ActivityStreamKmsKeyId") in key:
        yield KeyUser(kind="activity-stream", identifier=identifier)
    if (raw.get("MasterUserSecret") or {}).get("KmsKeyId") in key:
        yield KeyUser(kind="master-user-secret", identifier=identifier)


def _snapshots(key: _Key, search: _Search) -> Iterator[KeyUser]:
    """Twice: the plain listing leaves out what AWS Backup made, and what others share with us."""
    listed = search.pages("rds", "describe_db_snapshots", "DBSnapshots", IncludeShared=True)
    of_backup = search.pages("rds", "describe_db_snapshots", "DBSnapshots", SnapshotType="awsbackup")
    for raw in chain(listed, of_backup):
        if raw.get("KmsKeyId") in key:
            kind = "automated-snapshot" if raw.get("SnapshotType") == "automated" else "snapshot"
            yield KeyUser(kind=kind, identifier=raw["DBSnapshotIdentifier"])


def _cluster_snapshots(key: _Key, search: _Search) -> Iterator[KeyUser]:
    listed = search.pages("rds", "describe_db_cluster_snapshots", "DBClusterSnapshots", IncludeShared=True)
    of_backup = search.pages("rds", "describe_db_cluster_snapshots", "DBClusterSnapshots", SnapshotType="awsbackup")
    for raw in chain(listed, of_backup):
        if raw.get("KmsKeyId") in key:
            kind = "automated-snapshot" if raw.get("SnapshotType") == "automated" else "snapshot"
            yield KeyUser(kind=kind, identifier=raw["DBClusterSnapshotIdentifier"])


def _automated_backups(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("rds", "describe_db_instance_automated_backups", "DBInstanceAutomatedBackups"):
        if raw.get("KmsKeyId") in key:
            yield KeyUser(kind="automated-backup", identifier=f"{raw['DBInstanceIdentifier']} ({raw['DbiResourceId']})")


def _cluster_automated_backups(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("rds", "describe_db_cluster_automated_backups", "DBClusterAutomatedBackups"):
        if raw.get("KmsKeyId") in key:
            name = f"{raw['DBClusterIdentifier']} ({raw['DbClusterResourceId']})"
            yield KeyUser(kind="automated-backup", identifier=name)


def _export_tasks(key: _Key, search: _Search) -> Iterator[KeyUser]:
    """The exported objects stay under the key for ever, also when the task is long over."""
    for raw in search.pages("rds", "describe_export_tasks", "ExportTasks"):
        if raw.get("KmsKeyId") in key:
            yield KeyUser(kind="s3-export", identifier=f"{raw['ExportTaskIdentifier']} in {raw.get('S3Bucket')}")


def _tenant_databases(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("rds", "describe_tenant_databases", "TenantDatabases"):
        if (raw.get("MasterUserSecret") or {}).get("KmsKeyId") in key:
            yield KeyUser(kind="master-user-secret", identifier=raw["TenantDBName"])


def _integrations(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("rds", "describe_integrations", "Integrations"):
        if raw.get("KMSKeyId") in key:
            yield KeyUser(kind="zero-etl-integration", identifier=raw["IntegrationName"])


CUSTOM_ENGINES = (
    "custom-oracle-ee", "custom-oracle-ee-cdb", "custom-oracle-se2", "custom-oracle-se2-cdb", "custom-sqlserver-ee",
    "custom-sqlserver-se", "custom-sqlserver-web", "custom-sqlserver-dev",
)  # fmt: skip


def _custom_engine_versions(key: _Key, search: _Search) -> Iterator[KeyUser]:
    """Only custom engine versions have a key; asking for every version of every engine would be thousands."""
    for engine in CUSTOM_ENGINES:
        for raw in search.pages(
            "rds", "describe_db_engine_versions", "DBEngineVersions", Engine=engine, IncludeAll=True
        ):
            if raw.get("KMSKeyId") in key:
                yield KeyUser(kind="custom-engine-version", identifier=f"{engine} {raw['EngineVersion']}")


# -- other services -----------------------------------------------------------------------------------------------


def _secrets(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("secretsmanager", "list_secrets", "SecretList", IncludePlannedDeletion=True):
        if raw.get("KmsKeyId") in key:
            yield KeyUser(kind="secret", identifier=raw["Name"])


def _backup_vaults(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for vault in search.pages("backup", "list_backup_vaults", "BackupVaultList"):
        name = vault["BackupVaultName"]
        if vault.get("EncryptionKeyArn") in key:
            yield KeyUser(kind="backup-vault", identifier=name)
        if vault.get("NumberOfRecoveryPoints") == 0:
            continue
        # RDS recovery points are under the database's key, whatever the vault's is.
        for point in search.pages(
            "backup", "list_recovery_points_by_backup_vault", "RecoveryPoints", BackupVaultName=name
        ):
            if point.get("EncryptionKeyArn") in key:
                yield KeyUser(kind="recovery-point", identifier=point["RecoveryPointArn"])


def _dms_endpoints(key: _Key, search: _Search) -> Iterator[KeyUser]:
    """Its settings may name a key, too: the one of what DMS writes to S3, or of a document database."""
    for raw in search.pages("dms", "describe_endpoints", "Endpoints"):
        if any(text in key for text in _texts(raw)):
            yield KeyUser(kind="dms-endpoint", identifier=raw["EndpointIdentifier"])


def _texts(answer: object) -> Iterator[str]:
    """Every text in an answer, however deep. Extra connection attributes (``name=value;…``) are many in one."""
    if isinstance(answer, str):
        yield from map(str.strip, re.split("[=;]", answer))
    parts = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, list) else ()
    for part in parts:
        yield from _texts(part)


def _dms_certificates(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("dms", "describe_certificates", "Certificates"):
        if raw.get("KmsKeyId") in key:
            yield KeyUser(kind="dms-certificate", identifier=raw["CertificateIdentifier"])


def _dms_instance_profiles(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("dms", "describe_instance_profiles", "InstanceProfiles"):
        if raw.get("KmsKeyArn") in key:
            yield KeyUser(kind="dms-instance-profile", identifier=raw["InstanceProfileName"])


def _dms_replication_instances(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("dms", "describe_replication_instances", "ReplicationInstances"):
        if raw.get("KmsKeyId") in key:
            yield KeyUser(kind="dms-replication-instance", identifier=raw["ReplicationInstanceIdentifier"])


def _dms_serverless_replications(key: _Key, search: _Search) -> Iterator[KeyUser]:
    for raw in search.pages("dms", "describe_replication_configs", "ReplicationConfigs"):
        if (raw.get("ComputeConfig") or {}).get("KmsKeyId") in key:
            yield KeyUser(kind="dms-serverless-replication", identifier=raw["ReplicationConfigIdentifier"])


def _dms_assessment_runs(key: _Key, search: _Search) -> Iterator[KeyUser]:
    runs = search.pages("dms", "describe_replication_task_assessment_runs", "ReplicationTaskAssessmentRuns")
    for raw in runs:
        if raw.get("ResultKmsKeyArn") in key:
            yield KeyUser(kind="dms-assessment-run", identifier=raw["AssessmentRunName"])


# -- what KMS itself knows ----------------------------------------------------------------------------------------


def _grants(key: _Key, search: _Search) -> Iterator[KeyUser]:
    """Grants, each under the name of whom it serves.

    RDS writes the resource id of the instance or cluster into the encryption context; a database that is listed by
    itself needs no second line. A grant of one that exists no more is on its way out, so it is a kind of its own.
    """
    grants = list(search.pages("kms", "list_grants", "Grants", KeyId=key.arn))
    if not grants:
        return
    known = dict(_by_resource_id(search))
    for grant in grants:
        constraints = grant.get("Constraints") or {}
        context = constraints.get("EncryptionContextEquals") or constraints.get("EncryptionContextSubset") or {}
        resource_id = context.get("aws:rds:db-id") or context.get("aws:rds:dbc-id")
        grantee = grant.get("GranteePrincipal") or grant.get("GranteeServicePrincipal") or "unknown grantee"
        if resource_id in known:
            yield known[resource_id]
        elif resource_id is not None:
            yield KeyUser(kind="residual-grant", identifier=f"{resource_id} ({grant['GrantId']})")
        else:
            serves = constraints.get("SourceArn") or context.get("aws:ebs:id") or grant.get("Name") or grant["GrantId"]
            yield KeyUser(kind="grant", identifier=f"{grantee} for {serves}")


def _by_resource_id(search: _Search) -> Iterator[tuple[str, KeyUser]]:
    for raw in search.pages("rds", "describe_db_instances", "DBInstances"):
        yield raw["DbiResourceId"], KeyUser(kind="database", identifier=raw["DBInstanceIdentifier"])
    for raw in search.pages("rds", "describe_db_clusters", "DBClusters"):
        yield raw["DbClusterResourceId"], KeyUser(kind="cluster", identifier=raw["DBClusterIdentifier"])


def _last_usage(key: _Key, search: _Search) -> Iterator[KeyUser]:
    """Evidence beside the lists, never instead of them: a running server with a cached data key does not touch KMS."""
    with calls("kms:GetKeyLastUsage"):
        usage = client_of_a_search("kms").get_key_last_usage(KeyId=key.arn).get("KeyLastUsage") or {}
    used_at = usage.get("Timestamp")
    if used_at is None or used_at <= search.clock.now() - _USED_LATELY:
        return
    search.go_on()
    if not _was_rds(usage.get("CloudTrailEventId")):
        yield KeyUser(kind="recent-use", identifier=f"{usage.get('Operation', 'use')} at {used_at.isoformat()}")


def _was_rds(event_id: str | None) -> bool:
    """CloudTrail shows an event some minutes late; until then nobody knows who it was."""
    if event_id is None:
        return False
    with calls("cloudtrail:LookupEvents"):
        events = client_of_a_search("cloudtrail").lookup_events(
            LookupAttributes=[{"AttributeKey": "EventId", "AttributeValue": event_id}]
        )["Events"]
    return bool(events) and all(_through_rds(event) for event in events)


def _events(key: _Key, search: _Search) -> Iterator[KeyUser]:
    """Principals that used the key by themselves, that is not through RDS, within the last 30 days."""
    now = search.clock.now()
    token: dict[str, str] = {}
    for _ in range(_MAX_EVENT_PAGES):
        with calls("cloudtrail:LookupEvents"):
            page = client_of_a_search("cloudtrail").lookup_events(
                LookupAttributes=[{"AttributeKey": "ResourceName", "AttributeValue": key.arn}],
                StartTime=now - _EVENTS_LOOKED_BACK,
                EndTime=now,
                **token,
            )
        for event in page.get("Events") or ():
            if event.get("EventName") in _USES and not _through_rds(event):
                yield KeyUser(
                    kind="principal", identifier=f"{event.get('Username') or 'unknown'} ({event['EventName']})"
                )
        if not page.get("NextToken"):
            return
        token = {"NextToken": page["NextToken"]}
        search.go_on()
    yield KeyUser(kind="unanswered", identifier="events: more than this visit could read")


def _through_rds(event: Raw) -> bool:
    """A call that RDS made and that succeeded; one that failed says that somebody misses the key."""
    try:
        detail = json.loads(event.get("CloudTrailEvent") or "{}")
    except ValueError:
        return False
    if detail.get("errorCode"):
        return False
    identity = detail.get("userIdentity") or {}
    return "rds.amazonaws.com" in (identity.get("invokedBy"), detail.get("sourceIPAddress"))


QUESTIONS: tuple[Question, ...] = (
    _instances,
    _clusters,
    _automated_backups,
    _cluster_automated_backups,
    _export_tasks,
    _tenant_databases,
    _integrations,
    _custom_engine_versions,
    _secrets,
    _dms_endpoints,
    _dms_certificates,
    _dms_instance_profiles,
    _dms_replication_instances,
    _dms_serverless_replications,
    _dms_assessment_runs,
    _last_usage,
    _events,
    _snapshots,
    _cluster_snapshots,
    _backup_vaults,
)
"""Everything but the grants, which are asked last: what they map to is left out when it was found here.

The longest lists come after all others, whose answers would wait for them.
"""
