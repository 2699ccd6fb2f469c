"""Which permissions the calls about blue/green deployments need: rows of the table, as table.py says.

RDS makes, promotes and deletes databases for its caller, and asks for the permission to do each of these. The green
ones get names of RDS's choice, so only wildcards reach them; what a condition may ask for are blue's tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sandbox.iam.table import Call, Check, add_tags, on, pass_role, rds_arn, request_tags, row

_deployment = rds_arn("deployment", "BlueGreenDeploymentIdentifier")
on("rds", _deployment, "DescribeBlueGreenDeployments")


@row("rds", "CreateBlueGreenDeployment")
def _create(call: Call) -> Iterator[Check]:
    context = request_tags(call.params.get("Tags"), "rds")
    source, deployment = rds_arn("db", "Source")(call), call.here("deployment:bgd-new")
    blue = context | _facts_of(call, source)
    yield Check(call.action, deployment, blue)
    yield Check(call.action, source, context)
    for kind, parameter in (("pg", "TargetDBParameterGroupName"), ("cluster-pg", "TargetDBClusterParameterGroupName")):
        if call.params.get(parameter):
            yield Check(call.action, rds_arn(kind, parameter)(call), context)
    yield from add_tags(call, deployment)
    for member in call.inventory.monitored_with(source):
        # Not monitoring.rds.amazonaws.com, which assumes it (mitodl/ol-infrastructure, pull requests 5874 and 5875).
        yield from pass_role(call, member.settings["MonitoringRoleArn"], "rds.amazonaws.com")
    if ":cluster:" in source:
        yield from _create_green_cluster(call, source, context)
        return
    for resource in (source, _green_of(source)):
        yield Check("rds:CreateDBInstanceReadReplica", resource, blue)
    for arn in (source, *call.inventory.db_replicas(source)):
        yield _tagged_like(call, arn)


def _create_green_cluster(call: Call, source: str, context: dict[str, str | list[str]]) -> Iterator[Check]:
    blue, green = context | _facts_of(call, source), _green_of(source)
    yield Check("rds:CreateDBCluster", green, blue)
    yield _tagged_like(call, source)
    # One for every custom endpoint; asked whether there are any or not.
    for resource in (green, call.here("cluster-endpoint:new")):
        yield Check("rds:CreateDBClusterEndpoint", resource, blue)
    for member in call.inventory.db_cluster_members(source):
        of_member = context | _facts_of(call, member)
        yield Check("rds:CreateDBInstance", _green_of(member), of_member)
        yield _tagged_like(call, member)
        yield Check("rds:CreateDBInstance", green, blue)


def _tagged_like(call: Call, blue: str) -> Check:
    """AWS lists the tagging action without saying of what: here green, with all of blue's tags."""
    tags = call.inventory.tags(blue)
    return Check("rds:AddTagsToResource", _green_of(blue), request_tags(tags, "rds"))


def _facts_of(call: Call, arn: str) -> dict[str, Any]:
    """Blue's tags and properties: green has them too, from the beginning."""
    return {
        key: value for key, value in call.inventory.context(arn).items() if key.startswith(("rds:", "aws:ResourceTag"))
    }


def _green_of(arn: str) -> str:
    return f"{arn}-green-000000"


@row("rds", "SwitchoverBlueGreenDeployment")
def _switch(call: Call) -> Iterator[Check]:
    yield Check(call.action, _deployment(call))
    clusters = _clusters(call)
    for arn in clusters:
        yield Check("rds:ModifyDBCluster", arn)
        yield Check("rds:PromoteReadReplicaDBCluster", arn)
    for arn in (*_members(call, "blues"), *_members(call, "greens")):
        yield Check("rds:ModifyDBInstance", arn)
        if not clusters:
            yield Check("rds:PromoteReadReplica", arn)


@row("rds", "DeleteBlueGreenDeployment")
def _delete(call: Call) -> Iterator[Check]:
    yield Check(call.action, _deployment(call))
    if not call.params.get("DeleteTarget"):
        return
    for arn in _clusters(call)[1:]:
        yield Check("rds:DeleteDBCluster", arn)
        yield Check("rds:DeleteDBClusterEndpoint", call.here("cluster-endpoint:green"))
    for arn in _members(call, "greens"):
        yield Check("rds:DeleteDBInstance", arn)


def _members(call: Call, side: str) -> list[str]:
    """The databases on one side of a deployment; none of one that does not exist."""
    return [str(member.arn) for member in getattr(_find(call), side, ())]


def _clusters(call: Call) -> list[str]:
    """Blue and green, or none."""
    return [str(cluster.arn) for cluster in getattr(_find(call), "clusters", None) or ()]


def _find(call: Call) -> Any | None:
    return call.inventory.backend("rds").blue_green_deployments.get(call.get("BlueGreenDeploymentIdentifier"))
