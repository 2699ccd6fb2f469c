"""The permission matrix: one row per Task, with everything its function may do.

Read a row as "this step may …". A function has a role of its own, and no other authority than its row, its logs and
its traces (``task_function.py``). Where an API knows no narrower resource the row says so. Tests compare the rows with
what the handlers call and with AWS's service authorization table; the sandbox enforces them on every call.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from infra.config import Config

Conditions = Mapping[str, Mapping[str, Any]]

# Tags that only a rotation sets (lambdas/rotation/names.py; a test compares).
ROTATION_ID_TAG = "rds-key-rotation:rotation-id"
DECOMMISSION_TAG = "rds-key-rotation:decommission"
RELEASED_TAG = "rds-key-rotation:released"
DEPLOYMENT_TAG = "rds-key-rotation:deployment"
GREEN_TAG = "rds-key-rotation:green"
NETWORK_FENCE_TAG = "rds-key-rotation:network-fence"
BASE_NAME_TAG = "rds-key-rotation:base-name"

MADE_BY_A_ROTATION: Conditions = {"Null": {f"aws:ResourceTag/{ROTATION_ID_TAG}": "false"}}
MARKED_FOR_REMOVAL: Conditions = {"Null": {f"aws:ResourceTag/{DECOMMISSION_TAG}": "false"}}
NOT_MARKED_FOR_REMOVAL: Conditions = {"Null": {f"aws:ResourceTag/{DECOMMISSION_TAG}": "true"}}
WITHOUT_THE_MARK: Conditions = {"ForAllValues:StringNotLike": {"aws:TagKeys": [DECOMMISSION_TAG]}}
NEVER_RELEASED: Conditions = {"Null": {f"aws:ResourceTag/{RELEASED_TAG}": "true"}}
UNRELEASED: Conditions = {"Null": {**MADE_BY_A_ROTATION["Null"], **NEVER_RELEASED["Null"]}}
IN_A_DEPLOYMENT: Conditions = {"Null": {f"aws:ResourceTag/{DEPLOYMENT_TAG}": "false"}}
TAGGED_LIKE_BLUE: Conditions = {  # in a deployment, with all else that an owner has set, and removable by nobody
    "Null": {f"aws:RequestTag/{DEPLOYMENT_TAG}": "false"},
    "ForAllValues:StringNotLike": {"aws:TagKeys": [DECOMMISSION_TAG, GREEN_TAG]},
}
ABOUT_TO_BE_ISOLATED: Conditions = {"Null": {f"aws:ResourceTag/{NETWORK_FENCE_TAG}": "false"}}
NOT_PRODUCTION: Conditions = {"Null": {f"aws:ResourceTag/{GREEN_TAG}": "false"}}
NOBODYS_NAME: Conditions = {  # every database has each of these, whoever's it is
    "Null": {"rds:DatabaseEngine": "true", "rds:DatabaseClass": "true", "rds:StorageEncrypted": "true"}
}
TAGGED_BY_THIS_CALL: Conditions = {"Null": {f"aws:RequestTag/{ROTATION_ID_TAG}": "false"}}
NONE_OF_OUR_TAGS: Conditions = {"ForAllValues:StringNotLike": {"aws:TagKeys": ["rds-key-rotation:*"]}}
FOR_AWS_RESOURCES: Conditions = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
IN_THIRTY_DAYS: Conditions = {"NumericGreaterThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": "30"}}
IN_SEVEN_DAYS: Conditions = {"NumericGreaterThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": "7"}}
NOT_AT_ONCE: Conditions = {"Bool": {"secretsmanager:RotateImmediately": "false"}}
ONE_CNAME_REPLACED: Conditions = {
    "ForAllValues:StringEquals": {
        "route53:ChangeResourceRecordSetsRecordTypes": ["CNAME"],
        "route53:ChangeResourceRecordSetsActions": ["CREATE", "DELETE"],
    },
    "Null": {  # without these, a request that says nothing would pass
        "route53:ChangeResourceRecordSetsRecordTypes": "false",
        "route53:ChangeResourceRecordSetsActions": "false",
    },
}

# What RDS asks for, of both keys, to copy a snapshot from one to the other.
COPY_UNDER_A_KEY = (
    "kms:Decrypt",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)

# Who uses a key: what RDS has under keys, and questions about the whole account.
KEYED = (
    ("DescribeDBClusters", ("cluster",)),
    ("DescribeDBClusterSnapshots", ("cluster", "cluster-snapshot")),
    ("DescribeDBInstanceAutomatedBackups", ("db", "auto-backup")),
    ("DescribeDBClusterAutomatedBackups", ("cluster", "cluster-auto-backup")),
    ("DescribeExportTasks", ("cluster", "snapshot", "cluster-snapshot")),
    ("DescribeIntegrations", ("integration",)),
    ("DescribeTenantDatabases", ("db", "tenant-database")),
)
ACCOUNT_WIDE_QUESTIONS = (
    "backup:ListBackupVaults",
    "cloudtrail:LookupEvents",
    "dms:DescribeCertificates",
    "dms:DescribeEndpoints",
    "dms:DescribeReplicationConfigs",
    "dms:DescribeReplicationInstances",
    "dms:DescribeReplicationTaskAssessmentRuns",
    "dms:ListInstanceProfiles",  # what DescribeInstanceProfiles asks for (DMS API reference)
    "kms:ListAliases",
    "rds:DescribeDBEngineVersions",
    "secretsmanager:ListSecrets",
)


@dataclass(frozen=True)
class Grant:
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Conditions = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A row. ``package`` under ``lambdas/`` and the placeholder in the state machines follow from the name."""

    state_name: str
    purpose: str
    grants: tuple[Grant, ...]
    connects_to_databases: bool = False
    timeout_seconds: int = 25
    workflow: Literal["rotate_key", "rotate_fleet", "sweep"] = "rotate_key"

    @property
    def package(self) -> str:
        """``CreateNewKMSKey`` -> ``create_new_kms_key``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", self.state_name).lower()

    @property
    def placeholder(self) -> str:
        return f"{self.state_name}FunctionArn"

    def function_name(self, config: Config) -> str:
        return config.name(self.package.replace("_", "-"))


def allow(*actions: str, on: str | tuple[str, ...], when: Conditions | None = None) -> Grant:
    return Grant(actions, (on,) if isinstance(on, str) else on, when or {})


def through(service: str, config: Config) -> Conditions:
    """Only when that service uses the key for the caller."""
    return {"StringEquals": {"kms:ViaService": f"{service}.{config.region}.amazonaws.com"}}


def make_key(keys: tuple[str, ...], aliases: tuple[str, ...], where: Conditions | None = None) -> tuple[Grant, ...]:
    """Make a key with policy, tags, rotation and alias, and find it again. ``where``: of what knows no resource."""
    anywhere = "*" if keys else ()
    return (
        # No resource-level permissions.
        allow("kms:CreateKey", on=anywhere, when=all_of(TAGGED_BY_THIS_CALL, where or {})),
        allow("kms:TagResource", on=keys, when=TAGGED_BY_THIS_CALL),
        allow("tag:GetResources", on=anywhere, when=where),  # no resource-level permissions
        allow("kms:DescribeKey", "kms:ListResourceTags", on=keys),
        allow("kms:DescribeKey", on=aliases),  # until KMS knows where it leads there is only the alias to decide on
        allow("kms:GetKeyPolicy", "kms:GetKeyRotationStatus", on=keys),
        allow("kms:EnableKeyRotation", on=keys, when=MADE_BY_A_ROTATION),
        allow("kms:CreateAlias", on=aliases),
        allow("kms:CreateAlias", on=keys, when=MADE_BY_A_ROTATION),
    )


def only_tags(*patterns: str) -> Conditions:
    """Only tags of these names, and at least one."""
    return {"ForAllValues:StringLike": {"aws:TagKeys": list(patterns)}, "Null": {"aws:TagKeys": "false"}}


def passed_to(*services: str) -> Conditions:
    return {"StringEquals": {"iam:PassedToService": [f"{service}.amazonaws.com" for service in services]}}


def rotated_by(functions: tuple[str, ...]) -> Conditions:
    return {"ArnLike": {"secretsmanager:RotationLambdaARN": list(functions)}}


def of_records(names: Iterable[str]) -> Conditions:
    name = "route53:ChangeResourceRecordSetsNormalizedRecordNames"
    return {"ForAllValues:StringLike": {name: list(names)}, "Null": {name: "false"}}


def all_of(*conditions: Conditions) -> Conditions:
    """Every one of them has to hold."""
    merged: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        for operator, keys in condition.items():
            merged.setdefault(operator, {}).update(keys)
    return merged


def permission_matrix(config: Config) -> tuple[Task, ...]:
    """Every Task of this environment. Grants on things that the configuration does not list are left out."""
    # Databases, snapshots and keys take part by tag, so their names are not known here; ours are told by name and tag.
    any_db, our_db = config.arn("rds", "db:*"), config.arn("rds", "db:*-rot-*")
    successors = config.arn("rds", "db:*-rot-*-replica")
    any_snapshot, our_snapshot = config.arn("rds", "snapshot:*"), config.arn("rds", "snapshot:*-rot-*")
    any_cluster, our_cluster = config.arn("rds", "cluster:*"), config.arn("rds", "cluster:*-rot-*")
    interim_cluster = config.arn("rds", "cluster:*-rot-*-interim")
    # RDS names them, makes, changes and deletes them with their Multi-AZ DB cluster; they have no tag of ours at first.
    its_instances = config.arn("rds", "db:*-rot-*-instance-*")
    interim_instances = config.arn("rds", "db:*-rot-*-interim-instance-*")
    clusters_endpoints = config.arn("rds", "cluster-endpoint:*")
    any_member = (any_db, any_cluster)
    any_cluster_snapshot = config.arn("rds", "cluster-snapshot:*")
    our_cluster_snapshot = config.arn("rds", "cluster-snapshot:*-rot-*")
    pg, cluster_pg = config.arn("rds", "pg:*"), config.arn("rds", "cluster-pg:*")
    any_proxy = config.arn("rds", "db-proxy:*")
    subnets, options = config.arn("rds", "subgrp:*"), config.arn("rds", "og:*")
    groups, cluster_groups = (subnets, pg, options), (subnets, cluster_pg, options)
    any_key, our_alias = config.arn("kms", "key/*"), config.arn("kms", "alias/rds-rotation/*")
    zones = tuple(f"arn:{config.partition}:route53:::hostedzone/{zone}" for zone in config.hosted_zone_ids)
    endpoint_secrets, login_secrets = (
        tuple(config.arn("secretsmanager", f"secret:{_secret(name)}") for name in names)
        for names in (config.endpoint_secret_names, config.login_secret_names)
    )
    secrets = tuple(dict.fromkeys((*login_secrets, *endpoint_secrets)))
    managed_secrets = config.arn("secretsmanager", "secret:rds!db-*")  # RDS names them itself
    secret_keys = config.secret_key_arns
    # A rotation of a secret that could not be switched on again is not switched off.
    rotators = config.secret_rotation_function_arns
    rotated_secrets = secrets if rotators else ()
    rotate_key = config.state_machine_arn("rotate_key")
    executions = rotate_key.replace(":stateMachine:", ":execution:") + ":*"
    schedules = config.arn("scheduler", f"schedule/{config.recovery_group}/*")
    through_rds = through("rds", config)
    through_secrets = through("secretsmanager", config)

    # RDS names a deployment and its green members itself, and IAM takes no partial names for them.
    any_deployment = config.arn("rds", "deployment:*")
    # Green has the deployment's tag from blue. Who could give any database both could remove any.
    mark_green = allow("rds:AddTagsToResource", on=any_member, when=all_of(only_tags(GREEN_TAG), IN_A_DEPLOYMENT))

    # Of a network fence, which not every stack has.
    anywhere_fenced = "*" if config.network_fence else ()  # of what has no resource-level permissions
    fenced_db = any_db if config.network_fence else ()
    fenced_cluster = any_cluster if config.network_fence else ()
    fenced_member = any_member if config.network_fence else ()
    its_target, its_target_cluster = (our_db, our_cluster) if config.network_fence else ((), ())

    # Of other Regions, to which not every stack's databases have their backups replicated.
    abroad = config.backup_regions
    backups_abroad = tuple(config.arn("rds", "auto-backup:*", region) for region in abroad)
    keys_abroad = tuple(config.arn("kms", "key/*", region) for region in abroad)
    aliases_abroad = tuple(config.arn("kms", "alias/rds-rotation/*", region) for region in abroad)
    through_rds_abroad = {"StringEquals": {"kms:ViaService": [f"rds.{region}.amazonaws.com" for region in abroad]}}
    requested_abroad = {"StringEquals": {"aws:RequestedRegion": list(abroad)}}
    see_backups_abroad = allow("rds:DescribeDBInstanceAutomatedBackups", on=backups_abroad)

    # -- what several rows have in common --
    table = config.ledger_table_arn
    journal = allow("dynamodb:GetItem", "dynamodb:UpdateItem", on=table)
    history = allow("dynamodb:Query", on=table)
    open_entries = allow("dynamodb:Scan", on=table)
    free_lock = allow("dynamodb:DeleteItem", on=table)
    see_db = allow("rds:DescribeDBInstances", on=any_db)
    see_cluster = allow("rds:DescribeDBClusters", on=any_cluster)
    see_deployments = allow("rds:DescribeBlueGreenDeployments", on=any_deployment)
    see_snapshots = allow("rds:DescribeDBSnapshots", on=(any_db, any_snapshot))
    see_cluster_snapshots = allow("rds:DescribeDBClusterSnapshots", on=(any_cluster, any_cluster_snapshot))
    see_isolation = allow("ec2:DescribeSecurityGroupRules", on=anywhere_fenced)
    see_options = allow("rds:DescribeOptionGroups", on=options if config.network_fence else ())
    mark_for_isolation = allow("rds:AddTagsToResource", on=fenced_member, when=only_tags(NETWORK_FENCE_TAG))
    unmark = allow("rds:RemoveTagsFromResource", on=fenced_member, when=only_tags(NETWORK_FENCE_TAG))
    change_groups = (
        allow("rds:ModifyDBInstance", on=fenced_db, when=ABOUT_TO_BE_ISOLATED),
        allow("rds:ModifyDBCluster", on=fenced_cluster, when=ABOUT_TO_BE_ISOLATED),
    )
    log_in = (
        allow("secretsmanager:GetSecretValue", on=secrets),
        allow("kms:Decrypt", on=secret_keys, when=through_secrets),
    )
    write_endpoint = (
        allow("secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue", on=endpoint_secrets),
        allow("kms:Decrypt", "kms:GenerateDataKey", on=secret_keys, when=through_secrets),
    )
    suspend_secret_rotation = allow("secretsmanager:CancelRotateSecret", on=rotated_secrets)
    restore_secret_rotation = (
        allow("secretsmanager:DescribeSecret", on=rotated_secrets),
        allow("secretsmanager:RotateSecret", on=rotated_secrets, when=all_of(NOT_AT_ONCE, rotated_by(rotators))),
        allow("lambda:InvokeFunction", on=rotators),  # RotateSecret asks for it: AWS tries the function
    )
    see_record = allow("route53:ListResourceRecordSets", on=zones)
    write_record = allow(
        "route53:ChangeResourceRecordSets",
        on=zones if config.record_names else (),
        when=all_of(ONE_CNAME_REPLACED, of_records(config.record_names)),
    )
    # AWS decides on the proxy and on the target group that leads to its databases.
    see_proxy = allow("rds:DescribeDBProxyTargets", on=config.proxy_arns)
    target_groups = tuple(arn for arn in config.proxy_arns if ":target-group:" in arn)
    lead_proxy = (
        see_proxy,
        allow("rds:RegisterDBProxyTargets", on=target_groups),
        # Whichever it leads to, also when that is gone and has no tags any more.
        allow("rds:DeregisterDBProxyTargets", on=(*config.proxy_arns, *(any_member if config.proxy_arns else ()))),
    )
    set_recovery = (
        allow("scheduler:CreateSchedule", "scheduler:UpdateSchedule", on=schedules),
        allow("iam:PassRole", on=config.recovery_role_arn, when=passed_to("scheduler")),
    )
    see_recovery = allow("scheduler:GetSchedule", on=schedules)
    end_recovery = allow("scheduler:DeleteSchedule", on=schedules)
    see_key = allow("kms:DescribeKey", "kms:ListResourceTags", on=any_key)
    see_key_state = allow("kms:DescribeKey", on=any_key)
    # RDS makes a grant for itself on a key that it is given; no grant for anybody else can be made with this.
    lend_key_to_rds = (
        allow("kms:DescribeKey", on=any_key, when=through_rds),
        allow("kms:CreateGrant", on=any_key, when=all_of(through_rds, FOR_AWS_RESOURCES)),
    )
    see_zones = (
        allow("route53:GetHostedZone", on=zones),
        allow("route53:ListHostedZonesByName", on="*"),  # no resource-level permissions
    )
    # CreateBlueGreenDeployment passes it to another service than the one that assumes it; AWS does not say to which
    # (seen by others in 2026: mitodl/ol-infrastructure, pull requests 5830, 5874 and 5875).
    to_monitor = passed_to("monitoring.rds", "rds")
    pass_monitoring_role = allow("iam:PassRole", on=config.monitoring_role_arns, when=to_monitor)
    pass_associated_role = allow("iam:PassRole", on=config.associated_role_arns, when=passed_to("rds"))

    def repair_settings(of: str, which: Conditions) -> tuple[Grant, ...]:
        return (
            allow("rds:ModifyDBInstance", on=of, when=which),
            allow("rds:ModifyDBInstance", on=groups),
            allow("rds:AddRoleToDBInstance", on=of, when=which),
            allow("rds:AddTagsToResource", on=of, when=all_of(which, NONE_OF_OUR_TAGS)),
            pass_monitoring_role,
            pass_associated_role,
        )

    take_snapshot = (
        allow("rds:CreateDBSnapshot", on=(any_db, our_snapshot), when=TAGGED_BY_THIS_CALL),
        allow("rds:AddTagsToResource", on=our_snapshot, when=TAGGED_BY_THIS_CALL),
    )
    copy_under_a_key = (*lend_key_to_rds, allow(*COPY_UNDER_A_KEY, on=any_key, when=through_rds))
    copy_snapshot = (
        allow("rds:CopyDBSnapshot", "rds:AddTagsToResource", on=our_snapshot, when=TAGGED_BY_THIS_CALL),
        *copy_under_a_key,
    )

    def restore_cluster(as_one_named: str, instances: str) -> tuple[Grant, ...]:
        action, ours = "rds:RestoreDBClusterFromSnapshot", all_of(MADE_BY_A_ROTATION, TAGGED_BY_THIS_CALL)
        return (
            allow(action, on=(as_one_named, *cluster_groups), when=TAGGED_BY_THIS_CALL),
            allow(action, on=our_cluster_snapshot, when=ours),
            allow("rds:AddTagsToResource", on=as_one_named, when=TAGGED_BY_THIS_CALL),
            allow("rds:CreateDBInstance", on=(instances, as_one_named, *groups)),  # with a Multi-AZ DB cluster
        )

    see_key_users = (
        allow("kms:ListGrants", "kms:GetKeyLastUsage", on=any_key),
        see_db,
        see_snapshots,
        *(
            allow(f"rds:{action}", on=tuple(config.arn("rds", f"{kind}:*") for kind in kinds))
            for action, kinds in KEYED
        ),
        allow("backup:ListRecoveryPointsByBackupVault", on=config.arn("backup", "backup-vault:*")),
        allow(*ACCOUNT_WIDE_QUESTIONS, on="*"),  # no resource-level permissions
    )

    rows = (
        Task(
            "StartRotation",
            "Resolves the database, makes the plan, takes the lock and opens the ledger entry",
            (
                journal,
                history,
                open_entries,
                free_lock,
                see_db,
                see_cluster,
                see_record,
                *see_zones,
                see_proxy,
                allow("cloudwatch:DescribeAlarms", on=config.arn("cloudwatch", "alarm:*")),
                allow("cloudwatch:ListDashboards", on="*"),  # no resource-level permissions
                allow("cloudwatch:GetDashboard", on=config.dashboards_arn),
                allow("states:DescribeExecution", "states:StopExecution", on=executions),
                allow("states:StartExecution", on=rotate_key),
                see_backups_abroad,
                allow("kms:DescribeKey", "kms:ListResourceTags", on=keys_abroad),
            ),
        ),
        Task(
            "Preflight",
            "Collects every reason to refuse and every warning; changes nothing",
            (
                journal,
                see_db,
                # No resource-level permissions.
                allow("rds:DescribeAccountAttributes", "rds:DescribeOrderableDBInstanceOptions", on="*"),
                allow("rds:DescribeDBProxies", on=any_proxy),
                # AWS decides on the proxy and on the target group that leads to its databases.
                allow("rds:DescribeDBProxyTargets", on=(any_proxy, config.arn("rds", "target-group:*"))),
                allow("rds:DescribePendingMaintenanceActions", on=any_member),
                allow("rds:DescribeEventSubscriptions", on=config.arn("rds", "es:*")),
                allow("rds:DescribeIntegrations", on=config.arn("rds", "integration:*")),
                allow("rds:DescribeDBParameters", on=pg),
                see_cluster,
                allow("rds:DescribeDBClusterParameters", on=cluster_pg),
                see_deployments,
                see_key,
                allow("kms:ListAliases", on="*"),  # no resource-level permissions
                *log_in,
                allow("secretsmanager:DescribeSecret", on=secrets),
                see_isolation,
                see_options,
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "CreateNewKMSKey",
            "Makes the new key with its policy, tags, rotation and alias",
            (
                journal,
                *make_key((any_key,), (our_alias,)),
            ),
        ),
        Task(
            "CreateEncryptedReadReplica",
            "Asks RDS for a replica of the source under the new key",
            (
                journal,
                see_db,
                allow("rds:CreateDBInstanceReadReplica", on=(any_db, *groups), when=TAGGED_BY_THIS_CALL),
                allow("rds:AddTagsToResource", on=our_db, when=TAGGED_BY_THIS_CALL),
                *lend_key_to_rds,
                pass_monitoring_role,
            ),
        ),
        Task(
            "PrepareConnectivity",
            "Writes down how applications find the database, lowers the TTL, suspends the secrets' own rotation",
            (
                journal,
                see_record,
                write_record,
                see_proxy,
                *log_in,
                allow("secretsmanager:DescribeSecret", on=secrets),
                suspend_secret_rotation,
            ),
        ),
        Task(
            "WaitForReplicationSync",
            "Observes the target once: ready for the fence, or not yet",
            (
                journal,
                see_db,
                see_snapshots,
                *repair_settings(our_db, UNRELEASED),
                *log_in,
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "PauseApplicationWrites",
            "Raises the fence on the source; the write outage starts",
            (
                journal,
                *log_in,
                see_cluster,  # which of its instances writes
                see_recovery,
                *set_recovery,
            ),
            connects_to_databases=True,
        ),
        Task(
            "IsolateSource",
            "Keeps everybody out of the source by its security groups, where nobody logs in; the write outage starts",
            (
                journal,
                see_db,
                see_cluster,
                see_isolation,
                see_options,
                *change_groups,
                allow("rds:RebootDBInstance", on=fenced_db, when=ABOUT_TO_BE_ISOLATED),
                allow("rds:DescribeEvents", on=anywhere_fenced),
                see_recovery,
                *set_recovery,
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "ConfirmDrained",
            "Proves that the target has replayed the fence position",
            (journal, *log_in),
            connects_to_databases=True,
        ),
        Task(
            "Promote",
            "Makes the target a standalone primary, provided that it has replayed up to the fence",
            (
                journal,
                see_db,
                allow("rds:PromoteReadReplica", on=our_db, when=UNRELEASED),
                *log_in,
                see_recovery,
                *set_recovery,
            ),
            connects_to_databases=True,
        ),
        Task(
            "WaitForPromotion",
            "Observes whether RDS and the server both show a standalone primary",
            (journal, see_db, *log_in),
            connects_to_databases=True,
        ),
        Task(
            "CheckTarget",
            "Compares the fenced target's control database with what the fence recorded",
            (
                journal,
                see_key_state,
                *log_in,
                see_cluster,  # which of its instances writes
                # Behind a network fence RDS is asked, and nobody logs in.
                see_isolation,
                allow("rds:DescribeDBInstances", on=fenced_db),
                allow("rds:DescribeDBSnapshots", on=(fenced_db, any_snapshot) if fenced_db else ()),
                allow(
                    "rds:DescribeDBClusterSnapshots",
                    on=(fenced_cluster, any_cluster_snapshot) if fenced_cluster else (),
                ),
            ),
            connects_to_databases=True,
        ),
        Task(
            "UpdateConnectivity",
            "Leads applications to the target",
            (journal, see_record, write_record, *write_endpoint, *lead_proxy),
        ),
        Task(
            "ResumeWrites",
            "The commit point: writes the decision and opens the target",
            (
                journal,
                *log_in,
                see_recovery,
                end_recovery,
                # Behind a network fence RDS opens the target.
                allow("rds:DescribeDBInstances", on=fenced_db),
                allow("rds:ModifyDBInstance", on=its_target, when=UNRELEASED),
                allow("rds:DescribeDBClusters", on=fenced_cluster),
                allow("rds:ModifyDBCluster", on=its_target_cluster, when=UNRELEASED),
            ),
            connects_to_databases=True,
        ),
        Task(
            "WaitForSource",
            "Observes the source once, where the target is made under the fence: ready for it, or not yet",
            (journal, see_db, see_cluster, *log_in, mark_for_isolation),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "BeginCapture",
            "Lets the source keep what it commits, where the target is restored while applications write",
            (journal, *log_in),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "WaitForCatchUp",
            "Observes once how far the restored target is with what the source has kept; lets it subscribe first",
            (
                journal,
                see_db,
                # From where it has to catch up is in its log, and nowhere else.
                allow("rds:DescribeDBLogFiles", "rds:DownloadDBLogFilePortion", on=our_db, when=UNRELEASED),
                *log_in,
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "EndCatchUp",
            "Stops the target applying once it has everything, and proves the fence on both sides",
            (journal, *log_in),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "CopyAhead",
            "Asks RDS for a snapshot of the source and its copy under the new key, while applications write",
            (journal, see_db, see_snapshots, *take_snapshot, *copy_snapshot),
        ),
        Task(
            "TakeSnapshot",
            "Asks RDS for a snapshot of the source, fenced or captured",
            (
                journal,
                see_db,
                see_snapshots,
                *take_snapshot,
                *log_in,
                see_isolation,
                # Of a cluster.
                see_cluster,
                see_cluster_snapshots,
                allow("rds:CreateDBClusterSnapshot", on=(any_cluster, our_cluster_snapshot), when=TAGGED_BY_THIS_CALL),
                allow("rds:AddTagsToResource", on=our_cluster_snapshot, when=TAGGED_BY_THIS_CALL),
            ),
            connects_to_databases=True,
        ),
        Task(
            "CopySnapshot",
            "Asks RDS for a copy of that snapshot under the new key",
            (journal, see_snapshots, *copy_snapshot),
        ),
        Task(
            "RestoreTarget",
            "Asks RDS for the target, made of that copy",
            (
                journal,
                see_db,
                allow("rds:RestoreDBInstanceFromDBSnapshot", on=(our_db, *groups), when=TAGGED_BY_THIS_CALL),
                allow(
                    "rds:RestoreDBInstanceFromDBSnapshot",
                    on=our_snapshot,
                    when=all_of(MADE_BY_A_ROTATION, TAGGED_BY_THIS_CALL),
                ),
                allow("rds:AddTagsToResource", on=our_db, when=TAGGED_BY_THIS_CALL),
                # Of a cluster, which gets another key than its snapshot's.
                see_cluster,
                *restore_cluster(our_cluster, its_instances),
                *copy_under_a_key,
            ),
        ),
        Task(
            "WaitForRestore",
            "Observes the target once, repairs what a restore does not take, proves the fence on it",
            (
                journal,
                see_db,
                *repair_settings(our_db, UNRELEASED),
                # RDS makes it for a master password that it manages (RDS User Guide: Secrets Manager integration).
                allow("secretsmanager:CreateSecret", "secretsmanager:TagResource", on=managed_secrets),
                *lend_key_to_rds,
                *log_in,
                see_isolation,
                # Of a cluster, which is restored without instances.
                see_cluster,
                allow("rds:ModifyDBCluster", on=our_cluster, when=UNRELEASED),
                allow("rds:ModifyDBCluster", on=cluster_pg),
                allow("rds:ModifyDBInstance", on=its_instances, when=NEVER_RELEASED),
                allow("rds:AddRoleToDBCluster", on=our_cluster, when=UNRELEASED),
                allow("rds:AddTagsToResource", on=our_cluster, when=all_of(UNRELEASED, NONE_OF_OUR_TAGS)),
                allow("rds:CreateDBInstance", on=(our_db, our_cluster, *groups), when=TAGGED_BY_THIS_CALL),
                allow("rds:AddTagsToResource", on=our_db, when=TAGGED_BY_THIS_CALL),
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "CreateBlueGreenDeployment",
            "Asks RDS for a copy of the source and its replicas, each under the new key",
            (
                journal,
                see_db,
                see_cluster,
                see_deployments,
                # Of blue, and of green, which gets blue's tags, if RDS asks for that.
                allow("rds:AddTagsToResource", on=any_member, when=TAGGED_LIKE_BLUE),
                allow(
                    "rds:CreateBlueGreenDeployment",
                    on=(any_deployment, *any_member, pg, cluster_pg),
                    when=TAGGED_BY_THIS_CALL,
                ),
                allow("rds:AddTagsToResource", on=any_deployment, when=TAGGED_BY_THIS_CALL),
                allow("rds:CreateDBInstanceReadReplica", on=any_db, when=IN_A_DEPLOYMENT),
                allow("rds:CreateDBInstanceReadReplica", on=groups),
                # Of a cluster.
                allow("rds:CreateDBCluster", "rds:CreateDBInstance", on=any_member, when=IN_A_DEPLOYMENT),
                allow("rds:CreateDBCluster", on=cluster_groups),
                allow("rds:CreateDBClusterEndpoint", on=(any_cluster, clusters_endpoints), when=IN_A_DEPLOYMENT),
                *lend_key_to_rds,
                pass_monitoring_role,
            ),
        ),
        Task(
            "WaitForGreen",
            "Observes the deployment once: every member ready to be switched over, or not yet",
            (
                journal,
                see_db,
                see_cluster,
                see_deployments,
                mark_green,
                allow("rds:ModifyDBInstance", on=any_db, when=NOT_PRODUCTION),
                allow("rds:ModifyDBInstance", on=groups),
                # What brings a parameter group into force that green was given, while nobody reads it.
                allow("rds:RebootDBInstance", on=any_db, when=NOT_PRODUCTION),
                allow("rds:AddRoleToDBInstance", on=any_db, when=NOT_PRODUCTION),
                allow("rds:AddRoleToDBCluster", on=any_cluster, when=NOT_PRODUCTION),
                pass_monitoring_role,
                pass_associated_role,
            ),
            timeout_seconds=60,
        ),
        Task(
            "SwitchOver",
            "The commit point of blue/green: asks RDS to let green take blue's place",
            (
                journal,
                see_db,
                see_cluster,
                see_deployments,
                see_key_state,
                allow("rds:SwitchoverBlueGreenDeployment", on=any_deployment, when=MADE_BY_A_ROTATION),
                allow("rds:ModifyDBInstance", "rds:PromoteReadReplica", on=any_db, when=IN_A_DEPLOYMENT),
                allow("rds:ModifyDBCluster", "rds:PromoteReadReplicaDBCluster", on=any_cluster, when=IN_A_DEPLOYMENT),
            ),
        ),
        Task(
            "WaitForSwitchover",
            "Reads from RDS which side serves",
            (journal, see_db, see_cluster, see_deployments),
        ),
        Task(
            "Verify",
            "Compares source and target after the cutover, and marks the source and its replicas for removal",
            (
                journal,
                see_db,
                see_proxy,
                *log_in,
                see_isolation,
                see_cluster,
                allow(
                    "rds:AddTagsToResource",
                    on=(our_db, our_cluster),
                    when=all_of(MADE_BY_A_ROTATION, only_tags("key-rotation:*")),
                ),
                allow(
                    "rds:AddTagsToResource",
                    on=(our_db, our_cluster),
                    when=all_of(MADE_BY_A_ROTATION, only_tags(RELEASED_TAG)),
                ),
                allow("rds:AddTagsToResource", on=any_member, when=only_tags(DECOMMISSION_TAG)),
                allow("rds:RemoveTagsFromResource", on=any_member, when=only_tags("key-rotation:*")),
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "ReplicateBackups",
            "Begins the replication of the target's backups to other Regions, under a new key in each",
            (
                journal,
                see_db,
                *make_key(keys_abroad, aliases_abroad, requested_abroad),
                see_backups_abroad,
                # Of the target, whose tags another Region need not know, and of what there will be there.
                allow(
                    "rds:StartDBInstanceAutomatedBackupsReplication",
                    on=(our_db, *backups_abroad) if abroad else (),
                ),
                allow("kms:CreateGrant", on=keys_abroad, when=all_of(through_rds_abroad, FOR_AWS_RESOURCES)),
            ),
        ),
        Task(
            "RebuildReplicas",
            "Makes a replica of the target for each of the source's, which gives it its name",
            (
                journal,
                see_db,
                allow("rds:CreateDBInstanceReadReplica", on=(our_db, *groups), when=TAGGED_BY_THIS_CALL),
                # Nothing that is marked becomes a rotation's own, and nothing gets the mark.
                allow(
                    "rds:AddTagsToResource",
                    on=successors,
                    when=all_of(TAGGED_BY_THIS_CALL, NOT_MARKED_FOR_REMOVAL, WITHOUT_THE_MARK),
                ),
                *lend_key_to_rds,
                # Released before it takes the name of what it replaces.
                *repair_settings(successors, MADE_BY_A_ROTATION),
                allow("rds:AddTagsToResource", on=successors, when=all_of(MADE_BY_A_ROTATION, only_tags(RELEASED_TAG))),
                allow("rds:RemoveTagsFromResource", on=any_db, when=only_tags("key-rotation:*")),
                allow("rds:RemoveTagsFromResource", on=any_db, when=only_tags(DECOMMISSION_TAG)),
                # What brings a parameter group of the old one's own into force, while nobody reads the new one.
                allow("rds:RebootDBInstance", on=successors, when=UNRELEASED),
                # The mark is Verify's to set: a role that could do both could rename, and then delete, any database.
                # A rename is a change of what has the mark, or was made, and of a name that nobody has.
                allow("rds:ModifyDBInstance", on=any_db, when=MARKED_FOR_REMOVAL),
                allow("rds:ModifyDBInstance", on=any_db, when=NOBODYS_NAME),
                # What was made for a replica that is gone by then, and has no readers.
                allow("rds:DeleteDBInstance", on=successors, when=UNRELEASED),
            ),
            timeout_seconds=60,
        ),
        Task(
            "VerifySwitchover",
            "Compares the members after RDS has switched over, marks the sources, ends an instance's deployment",
            (
                journal,
                see_db,
                see_cluster,
                see_deployments,
                allow("rds:AddTagsToResource", on=any_member, when=only_tags("key-rotation:*")),
                allow("rds:AddTagsToResource", on=any_member, when=only_tags(RELEASED_TAG)),
                # What RDS has switched over has kept the deployment's tag; it makes nothing else removable.
                *(
                    allow("rds:AddTagsToResource", on=any_member, when=all_of(only_tags(tag), IN_A_DEPLOYMENT))
                    for tag in (BASE_NAME_TAG, DECOMMISSION_TAG)
                ),
                allow("rds:RemoveTagsFromResource", on=any_member, when=only_tags("key-rotation:*")),
                allow("rds:RemoveTagsFromResource", on=any_member, when=only_tags(DEPLOYMENT_TAG)),
                allow("rds:DeleteBlueGreenDeployment", on=any_deployment, when=MADE_BY_A_ROTATION),
            ),
            timeout_seconds=60,
        ),
        Task(
            "Decommission",
            "Copies the source's last snapshot under the new key and removes the source",
            (
                journal,
                free_lock,
                see_db,
                see_snapshots,
                see_key_state,
                see_proxy,
                *log_in,
                allow("rds:CreateDBSnapshot", on=any_db, when=all_of(MARKED_FOR_REMOVAL, TAGGED_BY_THIS_CALL)),
                allow("rds:CreateDBSnapshot", on=our_snapshot, when=TAGGED_BY_THIS_CALL),
                *copy_snapshot,
                allow("rds:DeleteDBSnapshot", on=our_snapshot, when=MADE_BY_A_ROTATION),
                allow("rds:ModifyDBInstance", "rds:DeleteDBInstance", on=any_db, when=MARKED_FOR_REMOVAL),
                # Of a cluster.
                see_cluster,
                see_cluster_snapshots,
                allow(
                    "rds:CreateDBClusterSnapshot",
                    on=any_cluster,
                    when=all_of(MARKED_FOR_REMOVAL, TAGGED_BY_THIS_CALL),
                ),
                allow(
                    "rds:CreateDBClusterSnapshot",
                    "rds:CopyDBClusterSnapshot",
                    "rds:AddTagsToResource",
                    on=our_cluster_snapshot,
                    when=TAGGED_BY_THIS_CALL,
                ),
                allow("rds:DeleteDBClusterSnapshot", on=our_cluster_snapshot, when=MADE_BY_A_ROTATION),
                allow("rds:ModifyDBCluster", "rds:DeleteDBCluster", on=any_cluster, when=MARKED_FOR_REMOVAL),
                # Of a cluster by blue/green, which its deployment keeps from being written to until now.
                see_deployments,
                allow("rds:DeleteBlueGreenDeployment", on=any_deployment, when=MADE_BY_A_ROTATION),
                # Of a cluster of which RDS copies no snapshot under a key, and restores one.
                *restore_cluster(interim_cluster, interim_instances),
                allow(
                    "rds:CreateDBClusterSnapshot",
                    on=interim_cluster,
                    when=all_of(MADE_BY_A_ROTATION, TAGGED_BY_THIS_CALL),
                ),
                allow("rds:ModifyDBCluster", "rds:DeleteDBCluster", on=interim_cluster, when=MADE_BY_A_ROTATION),
                allow("rds:ModifyDBInstance", "rds:DeleteDBInstance", on=interim_instances, when=NEVER_RELEASED),
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "ScheduleKeyDeletion",
            "Retires the old key, or keeps it and says who uses it",
            (
                journal,
                *see_key_users,
                see_key,
                allow("kms:DisableKey", "kms:EnableKey", on=any_key, when=MADE_BY_A_ROTATION),
                allow("kms:ScheduleKeyDeletion", on=any_key, when=all_of(MADE_BY_A_ROTATION, IN_THIRTY_DAYS)),
                allow("kms:DisableKey", "kms:EnableKey", on=config.retirable_key_arns),
                allow("kms:ScheduleKeyDeletion", on=config.retirable_key_arns, when=IN_THIRTY_DAYS),
                allow("sns:Publish", on=config.topic_arn),
            ),
            timeout_seconds=60,
        ),
        Task(
            "Notify",
            "Tells the operators, and answers the fleet",
            (
                journal,
                free_lock,
                allow("sns:Publish", on=config.topic_arn),
                allow("states:SendTaskSuccess", "states:SendTaskFailure", on="*"),  # no resource-level permissions
            ),
        ),
        Task(
            "RestoreConnectivity",
            "Leads applications back to the source, before it is opened; lets the secrets' own rotation go on",
            (journal, see_record, write_record, *write_endpoint, *lead_proxy, *restore_secret_rotation),
        ),
        Task(
            "Rollback",
            "Returns to the source, or finds that the rotation is committed or undecided",
            (
                journal,
                see_db,
                see_cluster,
                *log_in,
                *change_groups,
                allow("sns:GetTopicAttributes", "sns:Publish", on=config.topic_arn),
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "RollBackDeployment",
            "Deletes green and lets blue serve, or finds that RDS has switched over, or is at it",
            (
                journal,
                free_lock,
                see_db,
                see_cluster,
                see_deployments,
                mark_green,
                allow("rds:RemoveTagsFromResource", on=any_member, when=only_tags(DEPLOYMENT_TAG)),
                allow("rds:DeleteBlueGreenDeployment", on=any_deployment, when=MADE_BY_A_ROTATION),
                # RDS gives green blue's tags when it becomes production: then it has this one no more.
                allow("rds:ModifyDBInstance", "rds:DeleteDBInstance", on=any_db, when=NOT_PRODUCTION),
                allow("rds:ModifyDBCluster", "rds:DeleteDBCluster", on=any_cluster, when=NOT_PRODUCTION),
                allow("rds:DeleteDBClusterEndpoint", on=clusters_endpoints),  # nobody tags those of green
                allow("sns:Publish", on=config.topic_arn),
            ),
            timeout_seconds=60,
        ),
        Task(
            "CleanUp",
            "After a rollback: removes what the rotation made",
            (
                journal,
                free_lock,
                *log_in,
                unmark,
                end_recovery,
                see_db,
                see_snapshots,
                allow("rds:DeleteDBSnapshot", on=our_snapshot, when=MADE_BY_A_ROTATION),
                # Not what Verify has marked: applications write to it.
                allow(
                    "rds:ModifyDBInstance",
                    "rds:DeleteDBInstance",
                    on=our_db,
                    when=UNRELEASED,
                ),
                # Of a cluster.
                see_cluster,
                see_cluster_snapshots,
                allow("rds:DeleteDBClusterSnapshot", on=our_cluster_snapshot, when=MADE_BY_A_ROTATION),
                allow(
                    "rds:ModifyDBCluster",
                    "rds:DeleteDBCluster",
                    on=our_cluster,
                    when=UNRELEASED,
                ),
                allow("rds:ModifyDBInstance", "rds:DeleteDBInstance", on=its_instances, when=NEVER_RELEASED),
            ),
            connects_to_databases=True,
            timeout_seconds=60,
        ),
        Task(
            "TakeNextStrategy",
            "After a rollback: takes the lock again for the strategy that auto falls back to",
            (journal,),
        ),
        Task(
            "DiscardNewKey",
            "After a rollback: schedules the deletion of the key that nothing is encrypted under",
            (
                journal,
                see_key_state,
                allow("tag:GetResources", on="*"),  # no resource-level permissions
                *see_key_users,
                allow("kms:DeleteAlias", on=our_alias),
                allow("kms:DeleteAlias", on=any_key, when=MADE_BY_A_ROTATION),
                allow("kms:ScheduleKeyDeletion", on=any_key, when=all_of(MADE_BY_A_ROTATION, IN_SEVEN_DAYS)),
            ),
            timeout_seconds=60,
        ),
        Task(
            "ListOptedInDatabases",
            "Finds the databases whose tags ask for rotation",
            (allow("dynamodb:GetItem", on=table), see_db, see_cluster, see_key_state),
            # Two questions about each of thousands of databases.
            timeout_seconds=300,
            workflow="rotate_fleet",
        ),
        Task(
            "ReportFleet",
            "Lists each database with its outcome; fails when any failed or none could be started",
            (allow("sns:Publish", on=config.topic_arn),),
            workflow="rotate_fleet",
        ),
        Task(
            "RecoverRotations",
            "Every hour: starts a recovery for each unfinished rotation that nobody carries on",
            (
                open_entries,
                allow("states:DescribeExecution", on=executions),
                allow("states:StartExecution", on=rotate_key),
            ),
            timeout_seconds=60,
            workflow="sweep",
        ),
    )
    return tuple(_without_empty_grants(row) for row in rows)


def _secret(name: str) -> str:
    """Secrets Manager puts six characters of its own behind a secret's name."""
    return name if name.endswith("*") else f"{name}-??????"


def _without_empty_grants(task: Task) -> Task:
    return replace(task, grants=tuple(grant for grant in task.grants if grant.resources))
