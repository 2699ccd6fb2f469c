"""The permission matrix is exact: every grant is used, and without any one of them something that people read says so.

One action is taken out of one role of the deployed stack, a rotation goes the shortest way to the call that needs it,
and the denial shows: the execution fails and its cause names the action, or, where the product goes on by design, the
message does. The parameters are the rows of `infra/tasks.py`: a new grant is proved without a line here, or fails here.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from infra.tasks import ACCOUNT_WIDE_QUESTIONS, COPY_UNDER_A_KEY, KEYED
from lambdas.rotation.names import ROTATION_ID_TAG
from sandbox.client import SandboxProcess
from sandbox.demo.world import World
from sandbox.sweep.boundaries import BY_NETWORK, BY_SNAPSHOT, CLUSTER_BY_NETWORK, CLUSTER_BY_SNAPSHOT
from tests.rotation.permissions import (
    KEY_ROTATION_DAYS,
    PERMISSIONS,
    TASKS,
    Ended,
    Lab,
    Permission,
    called,
)
from tests.rotation.support import Customer

Way = Callable[[Lab, Permission | None], Ended]
"""How a rotation gets to a call. It is told which permission is missing; None when nothing is."""

HELD_UP: list[dict[str, Any]] = [
    {"kind": "held", "database": "slow", "seconds": 2, "onwards": True, **where}
    for where in (
        {"function": "prepare-connectivity"},
        {"function": "confirm-drained"},
        {"function": "wait-for-restore"},
        {"function": "schedule-key-deletion", "call": "kms.DisableKey"},
    )
]


STALLS = "it stalls"
STALLED: dict[str, Any] = {
    "kind": "stalled", "database": "slow", "reason": STALLS, "function": "confirm-drained", "seconds": 3600,
    "onwards": True,
}  # fmt: skip


NO_REPLICA: dict[str, Any] = {
    "kind": "error-before", "database": "fickle", "call": "rds.CreateDBInstanceReadReplica", "onwards": True,
    "code": "InvalidParameterCombination", "message": "KmsKeyId cannot differ from that of the source.",
}  # fmt: skip


NO_ANSWER: dict[str, Any] = {
    "kind": "lost-answer", "database": "slow", "function": "create-new-kms-key", "call": "kms.CreateKey",
    "onwards": True,
}  # fmt: skip
"""So the new key is looked for by its tag."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with SandboxProcess(faults=[*HELD_UP, STALLED, NO_REPLICA, NO_ANSWER]) as sandbox:
        customer = Customer.of(sandbox)
        with customer.notifications() as inbox:
            yield Lab(customer, inbox)


# -- ways --------------------------------------------------------------------------------------------------------------

# Missing as well, so that the rotation fails there and turns back.
BEFORE_ANYTHING = ("Preflight", "rds:DescribeAccountAttributes")
WITHOUT_A_KEY = ("CreateNewKMSKey", "kms:CreateKey")
WITHOUT_A_KEY_ABROAD = ("ReplicateBackups", "kms:CreateKey")
WITH_A_KEY = ("CreateEncryptedReadReplica", "rds:CreateDBInstanceReadReplica")
WITH_A_TARGET = ("WaitForReplicationSync", "rds:AddRoleToDBInstance")
FENCED = ("ConfirmDrained", "dynamodb:UpdateItem")
SWITCHED = ("UpdateConnectivity", "route53:ChangeResourceRecordSets")
HALF_READ = ("RebuildReplicas", "rds:ModifyDBInstance")
SNAPSHOTTED = ("CopySnapshot", "rds:CopyDBSnapshot")
WITH_A_DEPLOYMENT = ("WaitForGreen", "rds:DescribeBlueGreenDeployments")
WITH_GREEN = ("SwitchOver", "rds:SwitchoverBlueGreenDeployment")


def forward(lab: Lab, missing: Permission | None) -> Ended:
    """All the way. Where the last one has failed after its release, the same rotation goes on."""
    left = lab.journal(lab.quick)
    if missing is not None and left.get("release") and left["plan"]["retire_key"] == "false":
        ended = lab.go_on(lab.quick)
        if ended.cause:
            return ended
    return lab.rotate(lab.quick, RetireKey="false")


def by_snapshot(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.quick, RetireKey="false", **BY_SNAPSHOT)


def copied_ahead(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.quick, RetireKey="false", PreCopy=True, **BY_SNAPSHOT)


def by_catch_up(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.followed, RetireKey="false")


def by_deployment(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.served, RetireKey="false")


def of_a_cluster(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.clustered, RetireKey="false", Accept=["logical-copy"])


def of_a_cluster_by_snapshot(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.restored, RetireKey="false", **CLUSTER_BY_SNAPSHOT)


def of_a_multi_az_cluster(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.spread, RetireKey="false", **CLUSTER_BY_SNAPSHOT)


def by_network(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.isolated, RetireKey="false", **BY_NETWORK)


def of_a_cluster_by_network(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.walled, RetireKey="false", **CLUSTER_BY_NETWORK)


def replicated(lab: Lab, missing: Permission | None) -> Ended:
    """With backups in another Region. What was left of the last one is finished by now."""
    return lab.rotate(lab.replicated, RetireKey="false")


def planned_replicated(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.replicated, DryRun=True)


def with_readers(lab: Lab, missing: Permission | None) -> Ended:
    """Of a replica. What was left of the last one is finished by now."""
    lab.read_at(lab.read)
    return lab.rotate(lab.read, RetireKey="false", Accept=["replicas-away"])


def without_readers(lab: Lab, missing: Permission | None) -> Ended:
    """Its owner deletes the replica when the successor is there already, and lacks settings."""
    replica = lab.read_at(lab.read)
    with lab.without(HALF_READ):
        with_readers(lab, missing)
    lab.remove(replica)
    return lab.go_on(lab.read)


def planned(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.quick, DryRun=True)


def planned_deployment(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.served, DryRun=True)


def answered(lab: Lab, missing: Permission | None) -> Ended:
    """A fleet waits for the answer."""
    return lab.rotate(lab.quick, DryRun=True, TaskToken="nobodys")


def refused_and_answered(lab: Lab, missing: Permission | None) -> Ended:
    return lab.run({"DBInstanceIdentifier": "nobody", "TaskToken": "nobodys"})


def back(from_: Permission, **request: Any) -> Way:
    def way(lab: Lab, missing: Permission | None) -> Ended:
        with lab.without(from_):
            return lab.rotate(lab.quick, **request)

    return way


refused = back(BEFORE_ANYTHING, DryRun=True)
back_without_a_key = back(WITHOUT_A_KEY)
"""One was asked for, so it is looked for."""
back_with_a_target = back(WITH_A_TARGET)
back_from_the_fence = back(FENCED)
back_from_the_switch = back(SWITCHED)
back_with_a_snapshot = back(SNAPSHOTTED, **BY_SNAPSHOT)


def back_by_network(lab: Lab, missing: Permission | None) -> Ended:
    """Where the source cannot be opened the rollback waits, and says why."""
    with lab.without(SWITCHED):
        return lab.rotate(
            lab.isolated,
            until=lambda: missing is not None and lab.names(missing, str(lab.journal(lab.isolated).get("undo"))),
            **BY_NETWORK,
        )


def back_of_a_cluster_by_network(lab: Lab, missing: Permission | None) -> Ended:
    """The same of a cluster."""
    with lab.without(SWITCHED):
        return lab.rotate(
            lab.walled,
            until=lambda: missing is not None and lab.names(missing, str(lab.journal(lab.walled).get("undo"))),
            **CLUSTER_BY_NETWORK,
        )


def back_with_a_cluster(lab: Lab, missing: Permission | None) -> Ended:
    """As `left_with_a_target`, where it is the target that stays."""
    with lab.without(SWITCHED):
        ended = lab.rotate(
            lab.restored,
            until=lambda: missing is not None and lab.names(missing, str(lab.journal(lab.restored).get("undo"))),
            **CLUSTER_BY_SNAPSHOT,
        )
    lab.remove_targets()
    return ended


def back_with_a_key(lab: Lab, missing: Permission | None) -> Ended:
    """The key is discarded at once, unless a question about its users is not answered: then it waits, and says why."""
    with lab.without(WITH_A_KEY):
        return lab.rotate(
            lab.quick, until=lambda: missing is not None and lab.names(missing, str(lab.journal(lab.quick).get("undo")))
        )


def back_with_a_key_that_was_looked_for(lab: Lab, missing: Permission | None) -> Ended:
    with lab.without(WITH_A_KEY):
        return lab.rotate(lab.slow)


def replicated_at_last(lab: Lab, missing: Permission | None) -> Ended:
    """A key of another Region was asked for in vain: before it is asked for again it is looked for."""
    with lab.without(WITHOUT_A_KEY_ABROAD):
        replicated(lab, missing)
    return lab.go_on(lab.replicated)


def left_with_a_target(lab: Lab, missing: Permission | None) -> Ended:
    """The target stays, and the new key with it, until somebody runs the command that the rotation has left."""
    with lab.without(WITH_A_TARGET):
        ended = lab.rotate(
            lab.quick, until=lambda: missing is not None and lab.names(missing, str(lab.journal(lab.quick).get("undo")))
        )
    assert bool(lab.remove_targets()) == (missing is not None)
    return ended


def over_a_stale_lock(lab: Lab, missing: Permission | None) -> Ended:
    with lab.stale_lock(lab.quick):
        return planned(lab, missing)


def beside_an_older_key(lab: Lab, missing: Permission | None) -> Ended:
    """Nobody does what is left to do about it, so it is begun anew."""
    forward(lab, None)
    lab.reopen(lab.quick)
    return forward(lab, None)


def by_a_name_that_others_had(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.bystander)


def recovering_nothing(lab: Lab, missing: Permission | None) -> Ended:
    return lab.run({"Recover": lab.customer.account.rotate_key_arn.replace(":stateMachine:", ":execution:") + ":gone"})


def swept(lab: Lab, missing: Permission | None) -> Ended:
    """The hourly function, after a rotation that its own rollback has left."""
    with lab.without(BEFORE_ANYTHING, ("Rollback", "dynamodb:UpdateItem")):
        planned(lab, None)
    return lab.invoke("RecoverRotations")


def fleet(lab: Lab, missing: Permission | None) -> Ended:
    assert lab.bystander.identifier == "bystander"  # built
    return lab.run_fleet()


def fleet_of_all(lab: Lab, missing: Permission | None) -> Ended:
    """No key is too young: only of what takes part a fleet asks the ledger for the name."""
    lab.tag(lab.bystander, "key-rotation:min-age-days", "0")
    ended = lab.run_fleet()
    lab.tag(lab.bystander, "key-rotation:min-age-days", "36500")
    return ended


def tagged(far_enough: Permission, **request: Any) -> Way:
    """The owner changes a tag of the source when the target was asked for already."""

    def way(lab: Lab, missing: Permission | None) -> Ended:
        changed: list[str] = []

        def tag() -> bool:
            target = lab.journal(lab.slow).get("target_identifier")
            if target and not changed and lab.customer.instance(target):
                changed.append(lab.change_owner(lab.slow))
            return False

        with lab.without(far_enough):
            return lab.rotate(lab.slow, until=tag, **request)

    return way


tagged_meanwhile = tagged(FENCED)
tagged_under_the_fence = tagged(SWITCHED, **BY_SNAPSHOT)


def back_with_a_deployment(lab: Lab, missing: Permission | None) -> Ended:
    """It stays, and the new key with it, until somebody runs the command that the rotation has left."""
    with lab.without(WITH_A_DEPLOYMENT):
        ended = lab.rotate(
            lab.served,
            until=lambda: missing is not None and lab.names(missing, str(lab.journal(lab.served).get("undo"))),
        )
    assert bool(lab.remove_deployments()) == (missing is not None)
    return ended


def people_know(told: str) -> bool:
    """Of what is undecided: by the page, or by the journal, where that could not be sent."""
    return "RotationUndecided" in told or "sns:Publish" in told


def back_with_green(
    lab: Lab, missing: Permission | None, *more: Permission, of: Callable[[Lab], World] = lambda lab: lab.served
) -> Ended:
    """A switchover was written down: only an accepted deletion proves that there is none, and people are told."""
    built, before = of(lab), set(lab.executions())
    with lab.without(WITH_GREEN, *more):
        lab.start(built.request | {"GraceDays": 0, "Accept": ["logical-copy"]})
        told = lab.hear(before, people_know)
    ended = lab.ended_since(before)
    return Ended(cause=ended.cause, told=told + ended.told)


def back_with_a_green_cluster(lab: Lab, missing: Permission | None) -> Ended:
    return back_with_green(lab, missing, of=lambda lab: lab.clustered)


def undecided_by_rds(lab: Lab, missing: Permission | None) -> Ended:
    return back_with_green(lab, missing, ("RollBackDeployment", "rds:DeleteBlueGreenDeployment"))


def changed_meanwhile(lab: Lab, missing: Permission | None) -> Ended:
    """The owner gives the source more when its copy was made already."""
    built = lab.one_served(f"changing-{secrets.token_hex(2)}")
    changed: list[str] = []

    def change() -> bool:
        if not changed and lab.greens_of(built):
            lab.lend_roles_to(built.identifier)
            lab.put_another_group_into_force(built)
            changed.append(built.identifier)
        return False

    with lab.without(WITH_GREEN):
        return lab.rotate(built, until=change)


def after_all(lab: Lab, missing: Permission | None) -> Ended:
    """The first strategy is refused by RDS when the rotation has begun."""
    return lab.rotate(lab.fickle, Strategy="auto", RetireKey="false")


def without_a_schedule(lab: Lab, missing: Permission | None) -> Ended:
    """The schedule that would recover the rotation is gone before the promotion moves it."""

    def remove() -> bool:
        if is_fenced(lab):
            lab.remove_recovery_schedules()
        return False

    with lab.without(SWITCHED):  # far enough
        return lab.rotate(lab.slow, until=remove)


def undecided(lab: Lab, missing: Permission | None) -> Ended:
    """The rollback cannot log in, so it waits, and tells people; the schedule leaves it alone."""
    database, before = lab.slow.identifier, set(lab.executions())
    with lab.without(FENCED):
        lab.start({"DBInstanceIdentifier": database, "GraceDays": 0, "WriteOutageBudgetSeconds": 20})
        lab.wait(lambda: is_fenced(lab))
        with lab.without(("Rollback", "secretsmanager:GetSecretValue")):
            lab.hear(before, people_know)
            return lab.ended_since(before)


def stalled(lab: Lab, missing: Permission | None) -> Ended:
    """Nobody carries the execution on under the fence: the schedule has it stopped, takes over, and goes back."""
    before = set(lab.executions())
    lab.start({"DBInstanceIdentifier": lab.slow.identifier, "WriteOutageBudgetSeconds": 20, "Reason": STALLS})
    lab.hear(before, lambda told: "RotationRolledBack" in told)
    return lab.ended_since(before)


def is_fenced(lab: Lab) -> bool:
    return bool((lab.journal(lab.slow).get("fence") or {}).get("position"))


def retired(lab: Lab, missing: Permission | None) -> Ended:
    return lab.rotate(lab.quick, RetireKey="true")


def waiting_for_users(lab: Lab, missing: Permission | None) -> Ended:
    """The daily look at an old key that has users, without the day: the clock stands while nothing runs."""
    left = lab.journal(lab.quick)
    if not left.get("release") or left["plan"]["retire_key"] != "true":
        lab.settle()
        with lab.without(("ScheduleKeyDeletion", "dynamodb:UpdateItem")):  # the look of which nothing is known
            retired(lab, missing)
    return lab.invoke("ScheduleKeyDeletion", lab.journal(lab.quick))


def used_while_disabled(lab: Lab, missing: Permission | None) -> Ended:
    """Somebody puts a secret under the old key while nobody is supposed to use it any more."""
    secrets: list[str] = []

    def use() -> bool:
        journal = lab.journal(lab.slow)
        if not secrets and (journal.get("retirement") or {}).get("disabled_at"):
            secrets.append(lab.secret_under(journal["old_key"]["arn"]))
        return False

    try:
        return lab.rotate(lab.slow, until=use, RetireKey="true")
    finally:
        for secret in secrets:
            lab.forget_secret(secret)


def twice(lab: Lab, missing: Permission | None) -> Ended:
    """A key that a rotation has made is retired by the next one, because its tags say so."""
    if ROTATION_ID_TAG not in lab.tags_of_key(lab.key_of(lab.quick)):
        forward(lab, None)
    return lab.rotate(lab.quick)


QUESTIONS = ACCOUNT_WIDE_QUESTIONS + tuple(f"rds:{action}" for action, _ in KEYED) + (
    "kms:GetKeyLastUsage", "kms:ListGrants", "rds:DescribeDBInstances", "rds:DescribeDBSnapshots",
)  # fmt: skip
"""About who uses a key. One that is not answered counts as use: the key is kept."""

# -- which way leads to which grant ------------------------------------------------------------------------------------

USUAL: Mapping[str, Way] = {
    **dict.fromkeys(("WaitForSource", "TakeSnapshot", "CopySnapshot", "RestoreTarget", "WaitForRestore"), by_snapshot),
    "CopyAhead": copied_ahead,
    "IsolateSource": by_network,
    **dict.fromkeys(("BeginCapture", "WaitForCatchUp", "EndCatchUp"), by_catch_up),
    "StartRotation": planned,
    "Preflight": planned,
    "Notify": planned,
    "Rollback": refused,
    "CleanUp": refused,
    "DiscardNewKey": back_with_a_key,
    "ListOptedInDatabases": fleet,
    "ReportFleet": fleet,
    "RecoverRotations": swept,
    **dict.fromkeys(
        ("CreateBlueGreenDeployment", "WaitForGreen", "SwitchOver", "WaitForSwitchover", "VerifySwitchover"),
        by_deployment,
    ),
    "RollBackDeployment": back_with_green,
    "TakeNextStrategy": after_all,
    "ReplicateBackups": replicated,
    "RebuildReplicas": with_readers,
}
"""By function; any other is met by `forward`, those of the cutover at the proof of reach before the fence."""

SEES_GROUPS = "ec2:DescribeSecurityGroupRules"

UNUSUAL: Mapping[Permission, Way] = {
    **{
        (function, SEES_GROUPS): by_network
        for function in ("Preflight", "IsolateSource", "TakeSnapshot", "WaitForRestore", "CheckTarget", "Verify")
    },
    ("Preflight", "rds:DescribeOptionGroups"): by_network,
    ("ListOptedInDatabases", "dynamodb:GetItem"): fleet_of_all,
    ("Preflight", "rds:DescribeOrderableDBInstanceOptions"): by_snapshot,
    ("WaitForSource", "rds:AddTagsToResource"): by_network,
    ("CheckTarget", "rds:DescribeDBInstances"): by_network,
    ("CheckTarget", "rds:DescribeDBSnapshots"): by_network,
    ("ResumeWrites", "rds:DescribeDBInstances"): by_network,
    ("ResumeWrites", "rds:ModifyDBInstance"): by_network,
    ("Rollback", "rds:ModifyDBInstance"): back_by_network,
    ("IsolateSource", "rds:DescribeDBClusters"): of_a_cluster_by_network,
    ("IsolateSource", "rds:ModifyDBCluster"): of_a_cluster_by_network,
    ("CheckTarget", "rds:DescribeDBClusterSnapshots"): of_a_cluster_by_network,
    ("ResumeWrites", "rds:DescribeDBClusters"): of_a_cluster_by_network,
    ("ResumeWrites", "rds:ModifyDBCluster"): of_a_cluster_by_network,
    ("Rollback", "rds:ModifyDBCluster"): back_of_a_cluster_by_network,
    ("CleanUp", "rds:RemoveTagsFromResource"): back_by_network,
    # Of both keys: a cluster is restored under another one than its snapshot's.
    **{("RestoreTarget", action): of_a_cluster_by_snapshot for action in COPY_UNDER_A_KEY},
    ("StartRotation", "dynamodb:DeleteItem"): over_a_stale_lock,
    ("StartRotation", "dynamodb:Query"): by_a_name_that_others_had,
    ("StartRotation", "dynamodb:Scan"): recovering_nothing,
    ("StartRotation", "kms:DescribeKey"): planned_replicated,
    ("StartRotation", "kms:ListResourceTags"): planned_replicated,
    ("StartRotation", "rds:DescribeDBInstanceAutomatedBackups"): planned_replicated,
    ("StartRotation", "states:DescribeExecution"): over_a_stale_lock,
    ("StartRotation", "states:StartExecution"): beside_an_older_key,
    ("StartRotation", "states:StopExecution"): stalled,
    ("Preflight", "rds:DescribeBlueGreenDeployments"): planned_deployment,
    ("Preflight", "rds:DescribeDBParameters"): planned_deployment,
    ("DiscardNewKey", "tag:GetResources"): back_without_a_key,
    ("CreateNewKMSKey", "kms:GetKeyRotationStatus"): back_with_a_key,
    ("CreateNewKMSKey", "kms:ListResourceTags"): back_with_a_key,
    ("CreateNewKMSKey", "tag:GetResources"): back_with_a_key_that_was_looked_for,
    ("ReplicateBackups", "tag:GetResources"): replicated_at_last,
    ("WaitForReplicationSync", "rds:AddTagsToResource"): tagged_meanwhile,
    ("WaitForRestore", "rds:AddTagsToResource"): tagged_under_the_fence,
    ("Promote", "scheduler:CreateSchedule"): without_a_schedule,
    ("CreateBlueGreenDeployment", "iam:PassRole"): after_all,
    ("WaitForGreen", "iam:PassRole"): changed_meanwhile,
    ("WaitForGreen", "rds:AddRoleToDBInstance"): changed_meanwhile,
    ("WaitForGreen", "rds:ModifyDBInstance"): changed_meanwhile,
    ("WaitForGreen", "rds:RebootDBInstance"): changed_meanwhile,
    ("RollBackDeployment", "rds:AddTagsToResource"): back_with_a_deployment,
    ("RollBackDeployment", "sns:Publish"): undecided_by_rds,
    **{("ScheduleKeyDeletion", question): waiting_for_users for question in QUESTIONS},
    ("ScheduleKeyDeletion", "kms:DisableKey"): retired,
    ("ScheduleKeyDeletion", "kms:EnableKey"): used_while_disabled,
    ("ScheduleKeyDeletion", "kms:ListResourceTags"): twice,
    ("ScheduleKeyDeletion", "kms:ScheduleKeyDeletion"): retired,
    ("ScheduleKeyDeletion", "sns:Publish"): retired,
    ("RebuildReplicas", "rds:DeleteDBInstance"): without_readers,
    ("RestoreTarget", "rds:CreateDBInstance"): of_a_multi_az_cluster,
    ("Decommission", "rds:CreateDBInstance"): of_a_multi_az_cluster,
    ("Decommission", "rds:DeleteBlueGreenDeployment"): of_a_cluster,
    ("Decommission", "rds:DescribeBlueGreenDeployments"): of_a_cluster,
    ("Decommission", "rds:RestoreDBClusterFromSnapshot"): of_a_multi_az_cluster,
    ("Notify", "states:SendTaskFailure"): refused_and_answered,
    ("Notify", "states:SendTaskSuccess"): answered,
    ("RestoreConnectivity", "dynamodb:GetItem"): refused,
    ("RestoreConnectivity", "dynamodb:UpdateItem"): refused,
    ("RestoreConnectivity", "kms:GenerateDataKey"): back_from_the_switch,
    ("RestoreConnectivity", "lambda:InvokeFunction"): back_with_a_target,
    ("RestoreConnectivity", "route53:ChangeResourceRecordSets"): back_with_a_target,
    ("RestoreConnectivity", "rds:DeregisterDBProxyTargets"): back_from_the_switch,
    ("RestoreConnectivity", "rds:RegisterDBProxyTargets"): back_from_the_switch,
    ("RestoreConnectivity", "secretsmanager:PutSecretValue"): back_from_the_switch,
    ("RestoreConnectivity", "secretsmanager:RotateSecret"): back_with_a_target,
    ("Rollback", "kms:Decrypt"): forward,
    ("Rollback", "rds:DescribeDBInstances"): forward,
    ("Rollback", "secretsmanager:GetSecretValue"): forward,
    ("Rollback", "sns:GetTopicAttributes"): forward,
    ("Rollback", "sns:Publish"): undecided,
    ("CleanUp", "kms:Decrypt"): back_with_a_target,
    ("CleanUp", "rds:DeleteDBInstance"): left_with_a_target,
    ("CleanUp", "rds:DeleteDBSnapshot"): back_with_a_snapshot,
    ("CleanUp", "rds:DescribeDBSnapshots"): back_with_a_snapshot,
    ("CleanUp", "rds:DescribeDBInstances"): left_with_a_target,
    ("CleanUp", "rds:ModifyDBInstance"): left_with_a_target,
    ("CleanUp", "scheduler:DeleteSchedule"): back_from_the_fence,
    ("CleanUp", "secretsmanager:GetSecretValue"): back_with_a_target,
    ("DiscardNewKey", "dynamodb:GetItem"): refused,
    ("DiscardNewKey", "dynamodb:UpdateItem"): refused,
}

AFTER_THE_RELEASE = ("Verify", "Decommission", "ScheduleKeyDeletion")

IN_THIS_ORDER = (
    "rds:CreateDBSnapshot", "rds:CopyDBSnapshot", "kms:CreateGrant", "kms:DescribeKey", "kms:Encrypt",
    "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo",
    "rds:DeleteDBSnapshot", "rds:ModifyDBInstance", "rds:DeleteDBInstance", "dynamodb:DeleteItem",
)  # fmt: skip
"""What Decommission does after everything else: one rotation can fail at each in turn."""

WAY_OF_A_CLUSTER: Mapping[str, Way] = {
    "RollBackDeployment": back_with_a_green_cluster,
    "ListOptedInDatabases": fleet,
    **dict.fromkeys(("WaitForSource", "TakeSnapshot", "RestoreTarget", "WaitForRestore"), of_a_cluster_by_snapshot),
    **dict.fromkeys(("PauseApplicationWrites", "CheckTarget", "Verify"), of_a_cluster_by_snapshot),
    **dict.fromkeys(("Rollback", "CleanUp"), back_with_a_cluster),
}
OF_A_CLUSTER: Mapping[Permission, Way] = {
    (function, action): WAY_OF_A_CLUSTER.get(function, of_a_cluster)
    for function, action in PERMISSIONS
    if ("Cluster" in action or action == "rds:CreateDBInstance") and (function, action) not in UNUSUAL
    and function != "DiscardNewKey"  # it asks who uses a key
}  # fmt: skip

WAYS = tuple(dict.fromkeys([forward, *USUAL.values(), *UNUSUAL.values(), *OF_A_CLUSTER.values()]))


def way_to(permission: Permission) -> Way:
    return UNUSUAL.get(permission) or OF_A_CLUSTER.get(permission) or USUAL.get(permission[0], forward)


def leaves_it_to_the_next(permission: Permission) -> bool:
    """Whether the next test can go on with the rotation that failed in this one."""
    return permission[0] in AFTER_THE_RELEASE and way_to(permission) in (forward, waiting_for_users)


def in_order(permission: Permission) -> tuple[int, int, int]:
    function, action = permission
    step = IN_THIS_ORDER.index(action) if function == "Decommission" and action in IN_THIS_ORDER else -1
    return list(TASKS).index(function), WAYS.index(way_to(permission)), step


# -- what comes of it when it is missing, where that is not a failure with the action in its cause ---------------------

GOES_ON_AND_TELLS: Mapping[str, tuple[str, ...]] = {
    # It waits; and where it may tell nobody, its journal says so.
    "Rollback": ("rds:ModifyDBInstance", "rds:ModifyDBCluster", "sns:Publish"),
    # Warnings.
    "StartRotation": ("cloudwatch:DescribeAlarms", "cloudwatch:GetDashboard", "cloudwatch:ListDashboards"),
    "Preflight": ("kms:ListAliases", "rds:DescribeEventSubscriptions"),
    # Applications are led right: left over, with the command.
    "RestoreConnectivity": (
        "lambda:InvokeFunction", "rds:RegisterDBProxyTargets", "route53:ChangeResourceRecordSets",
        "secretsmanager:RotateSecret",
    ),
    "CleanUp": (
        "kms:Decrypt", "rds:DeleteDBInstance", "rds:DeleteDBSnapshot", "rds:DescribeDBInstances",
        "rds:DescribeDBSnapshots", "rds:ModifyDBInstance", "scheduler:DeleteSchedule", "secretsmanager:GetSecretValue",
        "rds:DeleteDBCluster", "rds:DeleteDBClusterSnapshot", "rds:DescribeDBClusters",
        "rds:DescribeDBClusterSnapshots", "rds:ModifyDBCluster", "rds:RemoveTagsFromResource",
    ),
    "RollBackDeployment": (
        "rds:AddTagsToResource", "rds:DeleteBlueGreenDeployment", "rds:DeleteDBCluster",
        "rds:DeleteDBClusterEndpoint", "rds:DeleteDBInstance", "rds:DescribeBlueGreenDeployments",
        "rds:DescribeDBClusters", "rds:DescribeDBInstances", "rds:ModifyDBCluster", "rds:ModifyDBInstance",
        "rds:RemoveTagsFromResource", "sns:Publish",
    ),
    "VerifySwitchover": ("rds:DeleteBlueGreenDeployment",),  # Decommission has it done
    "ScheduleKeyDeletion": QUESTIONS,
    "DiscardNewKey": (*QUESTIONS, "kms:DeleteAlias", "kms:DescribeKey", "kms:ScheduleKeyDeletion"),
}  # fmt: skip

LEFT_TO_A_PERSON = {
    *(("RestoreConnectivity", action) for action in GOES_ON_AND_TELLS["RestoreConnectivity"]),
    ("RestoreConnectivity", "secretsmanager:DescribeSecret"),
    ("RollBackDeployment", "rds:RemoveTagsFromResource"),
}
"""With the permission back nobody comes again: the message has the command."""

RDS_DOES_NOT_SAY: Mapping[str, tuple[str, ...]] = {
    "CreateEncryptedReadReplica": ("kms:CreateGrant", "kms:DescribeKey"),
    "CreateBlueGreenDeployment": ("kms:CreateGrant", "kms:DescribeKey"),
    **dict.fromkeys(("CopyAhead", "CopySnapshot"), ("kms:CreateGrant", "kms:DescribeKey", *COPY_UNDER_A_KEY)),
    "RestoreTarget": ("kms:CreateGrant", "kms:DescribeKey", *COPY_UNDER_A_KEY),
    "WaitForRestore": ("kms:CreateGrant", "kms:DescribeKey"),
    "ReplicateBackups": ("kms:CreateGrant",),
    "RebuildReplicas": ("kms:CreateGrant", "kms:DescribeKey"),
    "Decommission": (
        "kms:CreateGrant", "kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom", "kms:ReEncryptTo",
    ),
}  # fmt: skip
"""Which permission of its caller RDS misses on a key: its answer is the same for all of them."""

SHOWS_OTHERWISE: Mapping[Permission, Callable[[Lab, Ended], bool]] = {
    # The new key has what can be read of the old one.
    ("CreateNewKMSKey", "kms:GetKeyRotationStatus"): lambda lab, ended: lab.new_key()["days"] != KEY_ROTATION_DAYS,
    ("CreateNewKMSKey", "kms:ListResourceTags"): lambda lab, ended: "owner" not in lab.new_key()["tags"],
    ("ReplicateBackups", "kms:GetKeyRotationStatus"): lambda lab, _: lab.new_key_abroad()["days"] != KEY_ROTATION_DAYS,
    ("ReplicateBackups", "kms:ListResourceTags"): lambda lab, _: "owner" not in lab.new_key_abroad()["tags"],
    # Tags say which keys may be retired without asking.
    ("ScheduleKeyDeletion", "kms:ListResourceTags"): lambda lab, ended: "no rotation made it" in ended.told,
    # A key whose age cannot be told is rotated rather than forgotten.
    ("ListOptedInDatabases", "kms:DescribeKey"): lambda lab, ended: "bystander: InputRefused" in ended.cause,
}

SHOWS_NOWHERE: Mapping[Permission, str] = {
    ("Preflight", "kms:ListResourceTags"): "of a key whose tags may not be read none are counted, and none inherited",
    ("StartRotation", "kms:ListResourceTags"): "as of Preflight",
}

UNUSED: Mapping[Permission, str] = {
    (function, "backup:ListRecoveryPointsByBackupVault"): "no vault of the sandbox holds a recovery point"
    for function in ("ScheduleKeyDeletion", "DiscardNewKey")
} | {
    ("WaitForRestore", action): "RDS manages no master password here; test_snapshot.py rotates where it does"
    for action in ("secretsmanager:CreateSecret", "secretsmanager:TagResource")
}

SAMPLE = {
    ("StartRotation", "dynamodb:UpdateItem"),
    ("Preflight", "secretsmanager:GetSecretValue"),
    ("CreateNewKMSKey", "kms:TagResource"),
    ("CreateEncryptedReadReplica", "iam:PassRole"),
    ("Promote", "rds:PromoteReadReplica"),
    ("Decommission", "rds:DeleteDBInstance"),
}


def test_the_tables_are_about_grants_that_exist() -> None:
    listed = {*UNUSUAL, *SHOWS_OTHERWISE, *SHOWS_NOWHERE, *UNUSED, *SAMPLE}
    for table in (GOES_ON_AND_TELLS, RDS_DOES_NOT_SAY):
        listed |= {(function, action) for function, actions in table.items() for action in actions}

    assert set() == listed - set(PERMISSIONS)


@pytest.mark.proof
def test_no_grant_is_unused(lab: Lab) -> None:
    """Nor does anything look, with all permissions, as if one were missing."""
    for way in WAYS:
        ended = way(lab, None)
        looks_wrong = [one for one, shows in SHOWS_OTHERWISE.items() if way_to(one) is way and shows(lab, ended)]
        assert looks_wrong == []
        assert lab.settle() == []

    unused = set(PERMISSIONS) - lab.used()
    assert {called(one) for one in UNUSED} == {called(one) for one in unused}


@pytest.mark.parametrize(
    "permission",
    [
        pytest.param(one, id=called(one), marks=pytest.mark.sample if one in SAMPLE else pytest.mark.proof)
        for one in sorted(PERMISSIONS, key=in_order)
        if one not in UNUSED
    ],
)
def test_a_missing_permission_shows(lab: Lab, permission: Permission) -> None:
    """With all permissions back whatever was left is finished: nothing remains that a message does not name."""
    function, action = permission

    if not leaves_it_to_the_next(permission):
        lab.settle()
    with lab.without(permission):
        ended = way_to(permission)(lab, permission)
        shows_otherwise = permission in SHOWS_OTHERWISE and SHOWS_OTHERWISE[permission](lab, ended)
    if not leaves_it_to_the_next(permission):
        assert bool(lab.settle()) == (permission in LEFT_TO_A_PERSON)

    if action in GOES_ON_AND_TELLS.get(function, ()):
        assert lab.names(permission, ended.told), ended
    elif action in RDS_DOES_NOT_SAY.get(function, ()):
        assert "KMSKeyNotAccessible" in ended.cause
    elif permission in SHOWS_OTHERWISE:
        assert shows_otherwise, ended
    elif permission in SHOWS_NOWHERE:
        assert not lab.names(permission, ended.cause + ended.told), ended
    else:
        assert lab.names(permission, ended.cause), ended
