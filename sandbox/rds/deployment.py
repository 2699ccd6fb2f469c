"""A blue/green deployment as RDS keeps it: what is on which side, and how the API describes it."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox.rds.cluster_resources import Cluster
from sandbox.rds.resources import Instance, Operated, Tagged, View, present

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(eq=False)
class Deployment(Tagged):
    """One deployment. ``members``: blue and green instances, the primaries first."""

    arn_of: Callable[[str, str], str]
    name: str
    tags: list[dict[str, str]]
    members: list[tuple[Instance, Instance]]
    created: dt.datetime
    clusters: tuple[Cluster, Cluster] | None = None
    """Blue and green, of which the instances are members."""
    identifier: str = field(default_factory=lambda: "bgd-" + "".join(secrets.choice(ALPHABET) for _ in range(16)))
    status: str = "PROVISIONING"
    details: str = ""
    deleted: dt.datetime | None = None
    resource_type = "deployment"

    @property
    def arn(self) -> str:
        return self.arn_of("deployment", self.identifier)

    @property
    def pairs(self) -> list[tuple[Operated, Operated]]:
        """Everything that is switched over, what the deployment is of first."""
        return [*([self.clusters] if self.clusters else []), *self.members]

    @property
    def source(self) -> Operated:
        return self.pairs[0][0]

    @property
    def target(self) -> Operated:
        return self.pairs[0][1]

    @property
    def blues(self) -> list[Instance]:
        return [blue for blue, _ in self.members]

    @property
    def greens(self) -> list[Instance]:
        return [green for _, green in self.members]

    @property
    def resources(self) -> list[Operated]:
        """Both sides; what the deployment is of first."""
        return [resource for pair in self.pairs for resource in pair]

    @property
    def primaries(self) -> tuple[Instance, Instance]:
        """Who writes on either side; in a cluster that may change."""
        if self.clusters is None:
            return self.members[0]
        blue, green = (cluster.writer for cluster in self.clusters)
        assert blue
        assert green
        return blue, green

    @property
    def built(self) -> bool:
        return self.status not in ("PROVISIONING", "INVALID_CONFIGURATION")

    def view(self) -> View:
        return present(
            {
                "BlueGreenDeploymentIdentifier": self.identifier,
                "BlueGreenDeploymentName": self.name,
                # By their names of now: after the switchover the source is the one that is called "-old1".
                "Source": self.source.arn,
                "Target": self.target.arn,
                "SwitchoverDetails": [
                    {"SourceMember": blue.arn, "TargetMember": green.arn, "Status": self._status_of(green)}
                    for blue, green in self.pairs
                ],
                "Tasks": [
                    {"Name": task, "Status": "COMPLETED" if self.built else "IN_PROGRESS"}
                    for task in ("CREATING_READ_REPLICA_OF_SOURCE", "CONFIGURE_BACKUPS")
                ],
                "Status": self.status,
                "StatusDetails": self.details or None,
                "CreateTime": self.created,
                "DeleteTime": self.deleted,
                "TagList": self.tags,
            }
        )

    def _status_of(self, green: Operated) -> str:
        if self.status == "DELETING":
            return "AVAILABLE"
        return "PROVISIONING" if green.status == "creating" or not self.built else self.status
