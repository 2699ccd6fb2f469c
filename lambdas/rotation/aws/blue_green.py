"""Amazon RDS's blue/green deployments. No SQL here."""

from collections.abc import Mapping, Sequence
from typing import Any

from lambdas.rotation.aws.client import calls, client, client_that_asks_once, pages
from lambdas.rotation.aws.tagged import tag_list, tags_of
from lambdas.rotation.errors import AwsRefused, AwsUnavailable, DeploymentRefused, NameTaken
from lambdas.rotation.names import ROTATION_ID_TAG
from lambdas.rotation.ports import BlueGreenDeployment, Instance

_UNFIT = ("SourceDatabaseNotSupported", "SourceClusterNotSupported", "InvalidAction", "ParamValidationError")
"""Not this database, not in this Region, or an SDK that does not know keys of members."""
_NOT_NOW = ("InvalidBlueGreenDeploymentState", "InvalidDBInstanceState", "InvalidDBClusterState")


class AwsBlueGreen:
    """`ports.BlueGreen`. Every request describes first, so a repeated one finds what the lost answer was about."""

    def describe(self, name: str) -> BlueGreenDeployment | None:
        found = _deployments("blue-green-deployment-name", name)
        return next((_deployment(raw) for raw in found if raw.get("BlueGreenDeploymentName") == name), None)

    def deployments_of(self, source_arn: str) -> Sequence[str]:
        found = _deployments("source", source_arn)
        return [str(raw["BlueGreenDeploymentName"]) for raw in found if raw.get("Source") == source_arn]

    def request(self, name: str, members: Sequence[Instance], keys: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Ask for a deployment, each member's copy under its own key. Does not wait; it takes minutes to hours.

        Idempotent: a deployment of that name that carries ``tags`` is adopted.

        A member that is left out of TargetResourceConfigurations keeps its key (RDS API reference), and the parameter
        groups are named where they can be, because green was seen not to keep them (terraform-provider-aws, pull
        request 49167).

        Raises:
            DeploymentRefused: terminal; RDS makes none of this database, or not under another key.
            NameTaken: terminal; a deployment of that name exists that this rotation did not make.
            AwsUnavailable: retryable; also when a key is so new that RDS does not see it yet.
        """
        if self._adopted(name, tags):
            return
        source, groups = members[0], _parameter_groups(members)
        try:
            with calls("rds:CreateBlueGreenDeployment"):
                client("rds").create_blue_green_deployment(
                    BlueGreenDeploymentName=name,
                    Source=source.database.arn,
                    TargetResourceConfigurations=[
                        {"SourceArn": member, "TargetKmsKeyId": key} for member, key in keys.items()
                    ],
                    Tags=tag_list(tags),
                    **groups,
                )
        except AwsRefused as refused:
            if refused.code == "BlueGreenDeploymentAlreadyExists" and self._adopted(name, tags):
                return
            if refused.code == "KMSKeyNotAccessible":
                # A key made a moment ago is not known everywhere at once.
                raise AwsUnavailable(str(refused)) from refused
            if refused.code in _UNFIT or refused.code.startswith("InvalidParameter"):
                raise DeploymentRefused(f"{refused}; choose another strategy (key-rotation:strategy)") from refused
            raise

    def _adopted(self, name: str, tags: Mapping[str, str]) -> bool:
        existing = self.describe(name)
        if existing is None:
            return False
        if existing.tags.get(ROTATION_ID_TAG) != tags.get(ROTATION_ID_TAG):
            raise NameTaken(f"a blue/green deployment named {name} exists and was not made by this rotation")
        return True

    def request_switchover(self, identifier: str, timeout_seconds: int) -> str | None:
        """Ask RDS to let green take blue's place; on a timeout RDS rolls all of it back. Does not wait.

        What RDS says where it refuses: perhaps because it is at it already.
        """
        try:
            with calls("rds:SwitchoverBlueGreenDeployment"):
                client_that_asks_once("rds").switchover_blue_green_deployment(
                    BlueGreenDeploymentIdentifier=identifier, SwitchoverTimeout=timeout_seconds
                )
        except AwsRefused as refused:
            return str(refused)
        return None

    def request_deletion(self, identifier: str, *, with_target: bool) -> bool:
        """Ask for the end of a deployment, and of green if ``with_target``. Does not wait.

        RDS takes no DeleteTarget after a switchover, when the target is production (RDS API reference).
        """
        try:
            with calls("rds:DeleteBlueGreenDeployment"):
                client("rds").delete_blue_green_deployment(
                    BlueGreenDeploymentIdentifier=identifier, **({"DeleteTarget": True} if with_target else {})
                )
        except AwsRefused as refused:
            if refused.code == "BlueGreenDeploymentNotFound":
                return True
            if refused.code in _NOT_NOW:
                return False
            raise
        return True


def _parameter_groups(members: Sequence[Instance]) -> dict[str, str]:
    """A cluster's own, and that of the instances, if it is one.

    RDS gives the one that is named to every instance of green, and to each its blue one's where none is (RDS User
    Guide: creating a blue/green deployment). WaitForGreen looks at what each has got.
    """
    of_instances = {g["DBParameterGroupName"] for one in members for g in one.raw.get("DBParameterGroups") or ()}
    groups = {
        "TargetDBClusterParameterGroupName": members[0].raw.get("DBClusterParameterGroup"),
        "TargetDBParameterGroupName": of_instances.pop() if len(of_instances) == 1 else None,
    }
    return {name: str(group) for name, group in groups.items() if group}


def _deployments(filter_name: str, value: str) -> list[Any]:
    return pages(
        "rds",
        "describe_blue_green_deployments",
        "BlueGreenDeployments",
        Filters=[{"Name": filter_name, "Values": [value]}],
    )


def _deployment(raw: Mapping[str, Any]) -> BlueGreenDeployment:
    return BlueGreenDeployment(
        identifier=raw["BlueGreenDeploymentIdentifier"],
        name=raw["BlueGreenDeploymentName"],
        status=raw.get("Status") or "",
        details=raw.get("StatusDetails") or "",
        tags=tags_of(raw),
        members=tuple(
            (detail.get("SourceMember") or "", detail.get("TargetMember") or "")
            for detail in raw.get("SwitchoverDetails") or ()
        ),
    )
