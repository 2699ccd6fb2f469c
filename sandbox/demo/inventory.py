"""Everything that an AWS account holds, as far as its APIs tell, and what a rotation is meant to change of it."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from botocore import xform_name

from sandbox.demo.account import Account

Inventory = Mapping[str, Mapping[str, Any]]
"""``service/kind/name`` -> the facts that somebody could mind."""


def take(account: Account) -> Inventory:
    """Ask every service. Facts that change by themselves (times, log streams, message counts) are left out."""
    return {name: facts for source in _SOURCES for name, facts in source(account)}


@dataclass(frozen=True)
class Difference:
    added: Inventory
    removed: Inventory
    changed: Mapping[str, Mapping[str, tuple[Any, Any]]]
    """Name -> fact -> before and after."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def difference(before: Inventory, after: Inventory) -> Difference:
    changed = {
        name: {fact: (before[name].get(fact), after[name].get(fact))
               for fact in before[name].keys() | after[name].keys() if before[name].get(fact) != after[name].get(fact)}
        for name in before.keys() & after.keys()
    }  # fmt: skip
    return Difference(
        added={name: after[name] for name in sorted(after.keys() - before.keys())},
        removed={name: before[name] for name in sorted(before.keys() - after.keys())},
        changed={name: facts for name, facts in sorted(changed.items()) if facts},
    )


@dataclass(frozen=True)
class Expected:
    """What a rotation that succeeded has done to the account; everything else it did is a leftover."""

    source: str
    source_resource_id: str
    target: str
    target_resource_id: str
    target_address: str
    old_key: str | None
    new_key: str
    rotation_id: str
    execution: str
    old_key_state: str = "Enabled"
    record: str | None = None
    endpoint_secret: str | None = None
    proxy: str | None = None
    target_parameter_group: str | None = None
    """It may be a new one: where the fence is a parameter, source and target cannot share a group."""
    bystanders: Mapping[str, str] = field(default_factory=dict)
    """Other instances and clusters of the account, with their keys: RDS backs them up every day."""
    kind: Literal["instance", "cluster"] = "instance"
    members: tuple[str, ...] = ()
    """The instances of a cluster, which change places with it."""
    master_secret: str | None = None
    """Of the target's master password, where RDS manages it; the source's goes with the source."""
    replicas: Mapping[str, str] = field(default_factory=dict)
    """Of the target, under the names of the source's, which are gone: identifier -> resource id."""
    in_place: bool = False
    """The target has the name that the source had before (blue/green), and the source one that RDS gave it."""

    @property
    def kept(self) -> str:
        """The snapshot that is kept of the source."""
        return f"{self.target}-rot-{self.rotation_id}-kept" if self.in_place else f"{self.target}-kept"

    @property
    def snapshots(self) -> str:
        """What snapshots of it are called here."""
        return "snapshot" if self.kind == "instance" else "cluster-snapshot"


def bystanders(before: Inventory, source: str) -> dict[str, str]:
    return {
        name.rpartition("/")[2]: facts["key"]
        for name, facts in before.items()
        if name.startswith(("rds/instance/", "rds/cluster/")) and not name.endswith(f"/{source}")
    }


def leftovers(found: Difference, expected: Expected) -> list[str]:
    """What is there, gone or different without being meant to be; one line each."""
    lines = [
        f"added: {name} {_brief(facts)}"
        for name, facts in found.added.items()
        if not _may_be_added(name, facts, expected)
    ]
    lines += [f"removed: {name}" for name, facts in found.removed.items() if not _may_be_removed(name, facts, expected)]
    for name, facts in found.changed.items():
        lines += [
            f"changed: {name} {fact}: {_brief(was)} -> {_brief(now)}"
            for fact, (was, now) in facts.items()
            if not _may_change(name, fact, was, now, expected)
        ]
    target, source = f"rds/{expected.kind}/{expected.target}", f"rds/{expected.kind}/{expected.source}"
    missing = [f"kms/key/{expected.new_key}", f"rds/{expected.snapshots}/{expected.kept}"]
    if not expected.in_place:
        missing.append(target)
    lines += [f"missing: {name}" for name in missing if name not in found.added]
    exchanged = (target, *(f"rds/instance/{member}" for member in expected.members)) if expected.in_place else ()
    lines += [
        f"missing: {name} under the new key"
        for name in (*exchanged, *(f"rds/instance/{replica}" for replica in expected.replicas))
        if not {"key", "resource_id"} <= set(found.changed.get(name, {}))
    ]
    if source in found.added if expected.in_place else source not in found.removed:
        lines.append(f"still there: {source}")
    return lines


def _may_be_added(name: str, facts: Mapping[str, Any], expected: Expected) -> bool:
    service, kind, own = name.split("/", 2)
    match service, kind:
        case "rds", "instance":
            usable = facts["key"] == expected.new_key and facts["status"] == "available"
            return expected.target in (own, facts.get("cluster")) and bool(usable)
        case "rds", "cluster":
            usable = facts["key"] == expected.new_key and facts["status"] == "available"
            return own == expected.target and bool(usable)
        case "rds", "snapshot" | "cluster-snapshot" if kind == expected.snapshots:
            kept = facts["key"] == expected.new_key and facts["status"] == "available"
            return own == expected.kept and bool(kept)
        case "rds", "parameter-group":
            return own == expected.target_parameter_group
        case "rds", "automated-snapshot" | "automated-cluster-snapshot":
            if facts["database"] in expected.bystanders:
                return bool(facts["key"] == expected.bystanders[facts["database"]])
            if facts["database"] == expected.source:
                return bool(facts["key"] == expected.old_key)  # of the retained backups, see there
            if expected.in_place and facts["database"] == expected.target and facts["key"] == expected.old_key:
                return True  # as above, by the name of then
            green = expected.in_place and facts["database"].startswith(f"{expected.target}-green-")
            return bool((facts["database"] == expected.target or green) and facts["key"] == expected.new_key)
        case "rds", "automated-backup":
            if own == expected.target_resource_id:
                return bool(facts["key"] == expected.new_key)
            # What RDS keeps of a deleted instance is under the old key, which is not deleted before it expires.
            return bool(own == expected.source_resource_id and facts["status"] == "retained")
        case "kms", "key":
            return bool(own == expected.new_key and facts["state"] == "Enabled")
        case "kms", "alias":
            return bool(facts["key"] == expected.new_key.rsplit("/", 1)[-1]) and expected.rotation_id in own
        case "secretsmanager", "secret":
            return own == expected.master_secret
        case "dynamodb", "item":
            # The lock is not among them: it has to be free.
            record = own.rpartition("/")[2]
            return bool(stands_for_ever(record) or (record.startswith("rotation#") and facts["closed"]))
        case "states", "execution":
            # The one that was watched may have failed; a recovery that found nothing to do has succeeded.
            return own.endswith(f"/{expected.execution}") or bool(facts["status"] == "SUCCEEDED")
    return False


def _may_be_removed(name: str, facts: Mapping[str, Any], expected: Expected) -> bool:
    service, kind, own = name.split("/", 2)
    match service, kind:
        case "rds", "instance":
            return expected.source in (own, facts.get("cluster"))
        case "rds", "cluster":
            return own == expected.source
        case "rds", "automated-snapshot" | "automated-cluster-snapshot":
            return True  # they expire; no API deletes one
        case "rds", "automated-backup":
            return own == expected.source_resource_id or bool(facts["status"] == "retained")  # it has expired
        case "kms", "key":
            return bool(facts["state"] == "PendingDeletion")  # of somebody else, and its time has come
        case "secretsmanager", "secret":
            return expected.master_secret is not None and ":secret:rds!db-" in own
    return False


def _may_change(name: str, fact: str, was: Any, now: Any, expected: Expected) -> bool:
    service, kind, own = name.split("/", 2)
    match service, kind, fact:
        case "route53", "record", "values":
            return bool(own == f"{expected.record}. CNAME" and now == [expected.target_address])
        case "secretsmanager", "secret", "value":
            fields = ("host", "port", "dbInstanceIdentifier")
            same = {key: value for key, value in was.items() if key not in fields} == {
                key: value for key, value in now.items() if key not in fields
            }
            return bool(own == expected.endpoint_secret and same and now["host"] == expected.target_address)
        case "rds", "proxy", "leads_to":
            return own == expected.proxy and now == [expected.target]
        case "kms", "key", "grants":
            # RDS gives a key back with the last thing under it, and backups of bystanders come and go as well.
            return all(grant.startswith('["rds.') for grant in set(was) ^ set(now))
        case "kms", "key", "state":
            return bool(own == expected.old_key and now == expected.old_key_state)
        case "rds", "instance" | "cluster", "key" if _is_exchanged(kind, own, expected):
            return bool(now == expected.new_key)
        case "rds", "instance", fact if own in expected.replicas:
            return _is_replaced(fact, was, now, expected.replicas[own], expected)
        case "rds", "instance", "resource_id" if own in expected.members:
            return bool(was != now)
        case "rds", "instance" | "cluster", "resource_id" if _is_exchanged(kind, own, expected):
            return bool(now == expected.target_resource_id)
        case "rds", "instance" | "cluster", "tags" if _is_exchanged(kind, own, expected):
            return bool(was == {key: value for key, value in now.items() if not key.startswith("rds-key-rotation:")})
        case "rds", "automated-backup", "database" if expected.in_place:
            return bool(own == expected.source_resource_id and now == expected.source)
        case "rds", "automated-backup", "status":
            return bool(own == expected.source_resource_id and now == "retained")
    return False


def _is_replaced(fact: str, was: Any, now: Any, resource_id: str, expected: Expected) -> bool:
    """By a replica of the target that is like the old one; it has our tags, and the owner's."""
    meant = {"resource_id": resource_id, "key": expected.new_key, "replica_of": expected.target}
    if fact == "tags":
        return bool(was == {key: value for key, value in now.items() if not key.startswith("rds-key-rotation:")})
    return fact in meant and bool(now == meant[fact])


def _is_exchanged(kind: str, own: str, expected: Expected) -> bool:
    """Whether another database has this name now, as it is meant."""
    return expected.in_place and ((kind, own) == (expected.kind, expected.target) or own in expected.members)


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


def _pages(client: Any, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
    if client.can_paginate(operation):
        for page in client.get_paginator(operation).paginate(**arguments):
            yield from page.get(key, ())
    else:
        yield from getattr(client, operation)(**arguments).get(key, ())


Found = Iterator[tuple[str, Mapping[str, Any]]]


def _tags(tags: Any) -> dict[str, str]:
    return {tag.get("Key", tag.get("TagKey")): tag.get("Value", tag.get("TagValue")) for tag in tags or ()}


_COPIES = (
    ("snapshot", "DBSnapshots", "DBSnapshotIdentifier", "DBInstanceIdentifier"),
    ("cluster-snapshot", "DBClusterSnapshots", "DBClusterSnapshotIdentifier", "DBClusterIdentifier"),
    ("automated-backup", "DBInstanceAutomatedBackups", "DbiResourceId", "DBInstanceIdentifier"),
    ("automated-backup", "DBClusterAutomatedBackups", "DbClusterResourceId", "DBClusterIdentifier"),
)
"""Kind, what RDS lists them as, and where it says what one is called and which database it is of."""


def _rds(account: Account) -> Found:
    rds = account.client("rds")
    for instance in _pages(rds, "describe_db_instances", "DBInstances"):
        yield (
            f"rds/instance/{instance['DBInstanceIdentifier']}",
            {
                "status": instance["DBInstanceStatus"],
                "key": instance.get("KmsKeyId"),
                "resource_id": instance["DbiResourceId"],
                "class": instance["DBInstanceClass"],
                "cluster": instance.get("DBClusterIdentifier"),
                "multi_az": instance.get("MultiAZ"),
                "deletion_protection": instance.get("DeletionProtection"),
                "backup_retention_days": instance.get("BackupRetentionPeriod"),
                "security_groups": {
                    group["VpcSecurityGroupId"]: group["Status"] for group in instance.get("VpcSecurityGroups", ())
                },
                "parameter_groups": [group["DBParameterGroupName"] for group in instance.get("DBParameterGroups", ())],
                "replica_of": instance.get("ReadReplicaSourceDBInstanceIdentifier"),
                "replicas": instance.get("ReadReplicaDBInstanceIdentifiers") or [],
                "tags": _tags(instance.get("TagList")),
            },
        )
    for cluster in _pages(rds, "describe_db_clusters", "DBClusters"):
        yield (
            f"rds/cluster/{cluster['DBClusterIdentifier']}",
            {
                "status": cluster["Status"],
                "key": cluster.get("KmsKeyId"),
                "resource_id": cluster["DbClusterResourceId"],
                "instances": sorted(one["DBInstanceIdentifier"] for one in cluster.get("DBClusterMembers", ())),
                "security_groups": {
                    group["VpcSecurityGroupId"]: group["Status"] for group in cluster.get("VpcSecurityGroups", ())
                },
                "deletion_protection": cluster.get("DeletionProtection"),
                "backup_retention_days": cluster.get("BackupRetentionPeriod"),
                "parameter_group": cluster["DBClusterParameterGroup"],
                "tags": _tags(cluster.get("TagList")),
            },
        )
    for kind, listed, name, database in _COPIES:
        for copy in _pages(rds, xform_name(f"Describe{listed}"), listed):
            automated = "automated-" if copy.get("SnapshotType") == "automated" else ""
            yield (
                f"rds/{automated}{kind}/{copy[name]}",
                {"status": copy["Status"], "key": copy.get("KmsKeyId"), "database": copy[database]},
            )
    for kind, of in (("parameter-group", "DB"), ("cluster-parameter-group", "DBCluster")):
        named = f"{of}ParameterGroupName"
        for group in _pages(rds, xform_name(f"Describe{of}ParameterGroups"), f"{of}ParameterGroups"):
            name = group[named]
            if name.startswith("default."):
                continue  # RDS's own: it makes one when it is needed, and nobody can change it
            own = _pages(rds, xform_name(f"Describe{of}Parameters"), "Parameters", Source="user", **{named: name})
            values = {parameter["ParameterName"]: parameter.get("ParameterValue") for parameter in own}
            yield f"rds/{kind}/{name}", {"family": group["DBParameterGroupFamily"], "values": values}
    for group in _pages(rds, "describe_db_subnet_groups", "DBSubnetGroups"):
        yield f"rds/subnet-group/{group['DBSubnetGroupName']}", {}
    for group in _pages(rds, "describe_option_groups", "OptionGroupsList"):
        yield f"rds/option-group/{group['OptionGroupName']}", {}
    for proxy in _pages(rds, "describe_db_proxies", "DBProxies"):
        name = proxy["DBProxyName"]
        targets = _pages(rds, "describe_db_proxy_targets", "Targets", DBProxyName=name)
        yield f"rds/proxy/{name}", {"leads_to": [target["RdsResourceId"] for target in targets]}
    for deployment in _pages(rds, "describe_blue_green_deployments", "BlueGreenDeployments"):
        yield f"rds/blue-green/{deployment['BlueGreenDeploymentIdentifier']}", {"status": deployment["Status"]}


def _kms(account: Account) -> Found:
    kms = account.client("kms")
    aliases = list(_pages(kms, "list_aliases", "Aliases"))
    # All at once: every rotation leaves two keys, and each question about each of them adds up.
    tagged = _pages(account.client("resourcegroupstaggingapi"), "get_resources", "ResourceTagMappingList",
                    ResourceTypeFilters=["kms"])  # fmt: skip
    tags = {resource["ResourceARN"]: _tags(resource["Tags"]) for resource in tagged}
    for key in _pages(kms, "list_keys", "Keys"):
        facts = kms.describe_key(KeyId=key["KeyArn"])["KeyMetadata"]
        # KMS answers no questions about the grants of a key that is on its way out.
        gone = facts["KeyState"] == "PendingDeletion"
        listed = [] if gone else list(_pages(kms, "list_grants", "Grants", KeyId=facts["Arn"]))
        yield (
            f"kms/key/{facts['Arn']}",
            {
                "state": facts["KeyState"],
                "manager": facts["KeyManager"],
                "tags": tags.get(facts["Arn"], {}),
                "grants": sorted(
                    json.dumps(
                        [grant["GranteePrincipal"], sorted(grant["Operations"]), grant.get("Constraints")],
                        sort_keys=True,
                    )
                    for grant in listed
                ),
            },
        )
    for alias in aliases:
        if "TargetKeyId" in alias:
            yield f"kms/alias/{alias['AliasName']}", {"key": alias["TargetKeyId"]}


def _route53(account: Account) -> Found:
    route53 = account.client("route53")
    for zone in _pages(route53, "list_hosted_zones", "HostedZones"):
        yield f"route53/zone/{zone['Name']}", {}
        for record in _pages(route53, "list_resource_record_sets", "ResourceRecordSets", HostedZoneId=zone["Id"]):
            yield (
                f"route53/record/{record['Name']} {record['Type']}",
                {
                    "ttl": record.get("TTL"),
                    "values": [value["Value"] for value in record.get("ResourceRecords", ())],
                },
            )


def _secretsmanager(account: Account) -> Found:
    secrets = account.client("secretsmanager")
    for secret in _pages(secrets, "list_secrets", "SecretList"):
        value = secrets.get_secret_value(SecretId=secret["ARN"])
        yield f"secretsmanager/secret/{secret['ARN']}", {
            "value": json.loads(value["SecretString"]),
            "stages": sorted(stage for stages in secret.get("SecretVersionsToStages", {}).values() for stage in stages
                             if stage != "AWSPREVIOUS"),
            "rotation": secret.get("RotationEnabled", False),
        }  # fmt: skip


def stands_for_ever(record: str) -> bool:
    """In the ledger: where a database comes from, and the verdict on a rotation that did not log in to it."""
    return record == "lineage" or record.startswith("decision#")


def _scheduler(account: Account) -> Found:
    scheduler = account.client("scheduler")
    for group in _pages(scheduler, "list_schedule_groups", "ScheduleGroups"):
        yield f"scheduler/group/{group['Name']}", {}
    for schedule in _pages(scheduler, "list_schedules", "Schedules"):
        yield f"scheduler/schedule/{schedule['GroupName']}/{schedule['Name']}", {"state": schedule.get("State")}


def _dynamodb(account: Account) -> Found:
    dynamodb = account.client("dynamodb")
    for table in _pages(dynamodb, "list_tables", "TableNames"):
        yield f"dynamodb/table/{table}", {}
        keys = [key["AttributeName"] for key in dynamodb.describe_table(TableName=table)["Table"]["KeySchema"]]
        # The ledger's items hold whole rotations; they are most of what an inventory would have to carry.
        names = {f"#{at}": name for at, name in enumerate((*keys, "closed_at"))}
        asked = {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
        for item in _pages(dynamodb, "scan", "Items", TableName=table, **asked):
            name = "/".join(next(iter(item[key].values())) for key in keys)
            yield f"dynamodb/item/{table}/{name}", {"closed": "closed_at" in item}


def _messaging(account: Account) -> Found:
    sns, sqs = account.client("sns"), account.client("sqs")
    for topic in _pages(sns, "list_topics", "Topics"):
        yield f"sns/topic/{topic['TopicArn']}", {}
    for subscription in _pages(sns, "list_subscriptions", "Subscriptions"):
        yield f"sns/subscription/{subscription['TopicArn']} {subscription['Endpoint']}", {}
    for url in _pages(sqs, "list_queues", "QueueUrls"):
        yield f"sqs/queue/{url.rsplit('/', 1)[-1]}", {}


def _compute(account: Account) -> Found:
    lambda_, iam, states = account.client("lambda"), account.client("iam"), account.client("stepfunctions")
    for function in _pages(lambda_, "list_functions", "Functions"):
        yield f"lambda/function/{function['FunctionName']}", {"role": function["Role"]}
    for role in _pages(iam, "list_roles", "Roles"):
        yield f"iam/role/{role['RoleName']}", {}
    for machine in _pages(states, "list_state_machines", "stateMachines"):
        yield f"states/machine/{machine['name']}", {}
        for execution in _pages(states, "list_executions", "executions", stateMachineArn=machine["stateMachineArn"]):
            yield f"states/execution/{machine['name']}/{execution['name']}", {"status": execution["status"]}


def _monitoring(account: Account) -> Found:
    logs, events, cloudwatch = account.client("logs"), account.client("events"), account.client("cloudwatch")
    for group in _pages(logs, "describe_log_groups", "logGroups"):
        yield f"logs/group/{group['logGroupName']}", {"retention_days": group.get("retentionInDays")}
    for rule in _pages(events, "list_rules", "Rules"):
        yield f"events/rule/{rule['Name']}", {"state": rule.get("State")}
    for alarm in _pages(cloudwatch, "describe_alarms", "MetricAlarms"):
        yield f"cloudwatch/alarm/{alarm['AlarmName']}", {}


def _storage(account: Account) -> Found:
    for bucket in account.client("s3").list_buckets()["Buckets"]:
        yield f"s3/bucket/{bucket['Name']}", {}


_SOURCES: tuple[Callable[[Account], Found], ...] = (
    _rds, _kms, _route53, _secretsmanager, _scheduler, _dynamodb, _messaging, _compute, _monitoring, _storage
)  # fmt: skip


def jsonable(value: Any) -> Any:
    """Times as text, everything else as it is."""
    return json.loads(json.dumps(value, default=_as_text))


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
