"""Blue/green deployments of clusters: a green cluster under its own key, with an instance for each of blue's.

Aurora's replication is logical there and does not carry DDL, large objects or tables without a primary key; here it is
physical, and carries everything. What Aurora asks for because of it is asked for here as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.rds.blue_green import BlueGreen, green_name
from sandbox.rds.cluster_resources import Cluster
from sandbox.rds.cluster_settings import CLUSTER_QUOTA
from sandbox.rds.deployment import Deployment
from sandbox.rds.errors import invalid_cluster_state, invalid_combination, refuse
from sandbox.rds.operations import Params
from sandbox.rds.resources import View
from sandbox.rds.settings import tags_of

UNSUPPORTED = "SourceClusterNotSupportedFault"
NEEDED_PARAMETER = {"rds.logical_replication": "1"}


class ClusterBlueGreen(BlueGreen):
    """Deployments of Aurora PostgreSQL."""

    def _deployment_of_cluster(self, params: Params, name: str) -> Deployment:
        blue = self.cluster(params["Source"])
        self._must_be_fit_for_blue_cluster(blue)
        blues = list(blue.members)
        self._must_have_room_for(blues)
        if len(self.clusters) >= CLUSTER_QUOTA:
            raise refuse("DBClusterQuotaExceededFault", "The quota of DB clusters would be exceeded.")
        if params.get("TargetEngineVersion") not in (None, blue.engine_version):
            raise invalid_combination("The sandbox upgrades no version.")
        key = self._key_of_green(params, blue)
        group, of_cluster = self._target_group(params), params.get("TargetDBClusterParameterGroupName")
        settings = {
            **blue.settings,
            # Left out it is not blue's, as that of an instance.
            "ParameterGroup": self.cluster_group(of_cluster or self._kind(blue.engine).parameter_group).name,
        }
        green = Cluster(self, self._new_cluster_name(green_name(blue.name)), settings, _copied(blue.tags), key)
        self._enter_cluster(green)
        greens = []
        for member in blues:
            chosen: View = {
                **member.settings,
                "ParameterGroup": group or self._kind(blue.engine).parameter_group,
            }
            new_name, tier = self._new_name(green_name(member.name)), member.settings["PromotionTier"]
            greens.append(self._new_member(green, new_name, chosen, _copied(member.tags), tier))
        self._follow(blues[0], greens)
        members = list(zip(blues, greens, strict=True))
        return Deployment(self.arn_of, name, tags_of(params), members, self.context.clock.now(), clusters=(blue, green))

    def _must_be_fit_for_blue_cluster(self, blue: Cluster) -> None:
        if blue.is_multi_az:
            raise refuse(UNSUPPORTED, f"{blue.name} is a Multi-AZ DB cluster.")
        if blue.master_secret:
            raise refuse(UNSUPPORTED, f"The master password of {blue.name} is managed by RDS in Secrets Manager.")
        if self._deployment_with(blue):
            raise refuse(UNSUPPORTED, f"{blue.name} is a member of another blue/green deployment.")
        self._cluster_must_be_available(blue, "create a blue/green deployment of")
        if not blue.members or blue.backups_since is None:
            raise invalid_cluster_state(f"Cluster {blue.name} has no instance, or no backup yet.")
        for member in blue.members:
            self._must_be_available(member, "create a blue/green deployment of the cluster of")
        wanted = self.values_of_cluster(blue)
        if any(wanted.get(name) != value for name, value in NEEDED_PARAMETER.items()):
            raise refuse(
                UNSUPPORTED,
                f"Logical replication is not enabled for {blue.name}: associate a custom DB cluster parameter group in "
                "which rds.logical_replication is 1.",
            )
        if behind := [m.name for m in blue.members if blue.parameters_status(m) != "in-sync"]:
            raise refuse(
                UNSUPPORTED, f"{', '.join(behind)} is not in sync with the DB cluster parameter group: reboot it."
            )

    def _key_of_green(self, params: Params, blue: Cluster) -> str | None:
        """That of the one entry that there may be, which is for the cluster; else blue's."""
        named: Mapping[str, str | None] = self._named_keys(params, [blue.arn])
        wanted = named.get(blue.arn)
        if blue.kms_key_id is None:
            if wanted:
                raise invalid_combination("You can't change an unencrypted DB cluster into an encrypted DB cluster.")
            return None
        return self.keys.accept(wanted or blue.kms_key_id)

    def promote_read_replica_db_cluster(self, params: Params) -> Cluster:
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            deployment = self._deployment_with(cluster)
            if deployment is None or cluster is not deployment.target or deployment.status != "AVAILABLE":
                raise invalid_cluster_state(f"DB cluster {cluster.name} is not a read replica.")
            self._cluster_must_be_available(cluster, "promote")
            self._spoil(deployment, f"{cluster.name} was promoted.")

        def promote() -> None:
            self._show(cluster, "promoting")
            if cluster.writer:
                self._make_primary(cluster.writer)
            self._show(cluster, "available")

        self._operate(cluster, promote)
        return cluster


def _copied(tags: list[dict[str, str]]) -> list[dict[str, str]]:
    return [dict(tag) for tag in tags]
