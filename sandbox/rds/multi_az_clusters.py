"""Multi-AZ DB clusters: a writer and two readers that RDS makes, changes and deletes with their cluster.

RDS User Guide: Multi-AZ DB cluster deployments. What RDS answers where it refuses is not known to the word.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sandbox.rds.cluster_backups import MULTI_AZ_ENGINES
from sandbox.rds.cluster_resources import Cluster
from sandbox.rds.clusters import Clusters
from sandbox.rds.errors import invalid_cluster_state, invalid_combination, invalid_value, refuse
from sandbox.rds.operations import Params
from sandbox.rds.resources import Instance, View

INSTANCES = 3
NAME_LENGTH = 52
CLASSES = ("db.m", "db.r", "db.c")
DEFAULT_STORAGE = "io1"
WITH_ITS_INSTANCES = (
    "AutoMinorVersionUpgrade", "CACertificateIdentifier", "Iops", "MonitoringInterval", "MonitoringRoleArn",
    "PerformanceInsightsEnabled", "PerformanceInsightsKMSKeyId", "PerformanceInsightsRetentionPeriod",
    "PubliclyAccessible", "StorageType",
)  # fmt: skip
"""Settings of the cluster that each of its instances shows, by the same names."""
LATER = ("AllocatedStorage", "CACertificateIdentifier", "DBClusterInstanceClass", "Iops", "StorageType")


class MultiAzClusters(Clusters):
    """The life of a cluster with its instances, of which nothing is asked by itself."""

    def create_db_cluster(self, params: Params) -> Cluster:
        if params["Engine"] in MULTI_AZ_ENGINES:
            self._check_hardware(params)
            if not params.get("AllocatedStorage"):
                raise refuse("MissingParameter", "The request must contain the parameter AllocatedStorage.")
        return super().create_db_cluster(params)

    def restore_db_cluster_from_snapshot(self, params: Params) -> Cluster:
        if params["Engine"] in MULTI_AZ_ENGINES:
            self._check_hardware(params)
        return super().restore_db_cluster_from_snapshot(params)

    def _check_hardware(self, params: Params) -> None:
        if len(params["DBClusterIdentifier"]) > NAME_LENGTH:
            raise invalid_value(f"The name of a Multi-AZ DB cluster has {NAME_LENGTH} characters at most.")
        name = params.get("DBClusterInstanceClass")
        if not name:
            raise refuse("MissingParameter", "The request must contain the parameter DBClusterInstanceClass.")
        if not name.startswith(CLASSES):
            raise invalid_combination(f"DBClusterInstanceClass {name} isn't supported for Multi-AZ DB clusters.")
        if not params.get("Iops"):
            raise invalid_combination(f"A value for Iops is required with storage type {DEFAULT_STORAGE} or gp3.")

    def _make_instances(self, cluster: Cluster) -> None:
        if not cluster.is_multi_az:
            return
        cluster.settings.setdefault("StorageType", DEFAULT_STORAGE)
        names = [self._new_name(f"{cluster.name}-instance-{number + 1}") for number in range(INSTANCES)]
        for name in names:
            instance = self._new_member(cluster, name, _of_each(cluster), [], 1)
            make = partial(self._member_server, instance, cluster)
            self._operate(instance, partial(self._build, instance, make, self.durations.create))

    def _await_instances(self, cluster: Cluster) -> None:
        if cluster.is_multi_az:
            while any(member.status != "available" for member in cluster.members):
                self._pass(cluster, 0.1)

    def modify_db_cluster(self, params: Params) -> Cluster:
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            if not cluster.is_multi_az:
                return super().modify_db_cluster(params)
            chosen = self._chosen_of_cluster(params, self._kind(cluster.engine), cluster.settings["SubnetGroup"])
            if not params.get("ApplyImmediately") and any(name in chosen for name in LATER):
                raise invalid_value("The sandbox changes a Multi-AZ DB cluster immediately or not at all.")
            super().modify_db_cluster(params)
            for owner in (cluster, *cluster.members):
                self._modify_insights(owner, chosen)
            cluster.settings |= {name: chosen[name] for name in (*WITH_ITS_INSTANCES, *LATER) if name in chosen}
            for member in cluster.members:
                member.settings |= _of_each(cluster)
            return cluster

    def _chosen_of_cluster(self, params: Params, kind: Any, subnets: View | None = None) -> View:
        chosen = super()._chosen_of_cluster(params, kind, subnets)
        if name := params.get("DBClusterInstanceClass"):
            chosen["DBClusterInstanceClass"] = name
        return chosen

    def _delete_instances(self, cluster: Cluster) -> None:
        for member in [one for one in cluster.members if not one.doomed.is_set()]:
            self._doom(member)
            self._operate(member, partial(self._delete_member, member, cluster))

    # -- what is not for its instances ---------------------------------------------------------------------------------

    def create_db_instance(self, params: Params) -> Instance:
        if (name := params.get("DBClusterIdentifier")) and self.cluster(name).is_multi_az:
            raise invalid_combination(f"{name} is a Multi-AZ DB cluster: RDS makes its instances.")
        return super().create_db_instance(params)

    def modify_db_instance(self, db_instance_identifier: str, params: Params) -> Instance:
        self._refuse_member(db_instance_identifier, "modified")
        return super().modify_db_instance(db_instance_identifier, params)

    def delete_db_instance(self, db_instance_identifier: str, *arguments: Any, **options: Any) -> Instance:
        self._refuse_member(db_instance_identifier, "deleted")
        return super().delete_db_instance(db_instance_identifier, *arguments, **options)

    def _refuse_member(self, identifier: str, what: str) -> None:
        cluster = self.instance(identifier).cluster
        if cluster and cluster.is_multi_az:
            raise invalid_cluster_state(
                f"{identifier} is an instance of Multi-AZ DB cluster {cluster.name}, and cannot be {what} by itself."
            )


def _of_each(cluster: Cluster) -> View:
    shown = {name: cluster.settings[name] for name in WITH_ITS_INSTANCES if name in cluster.settings}
    return {
        **shown,
        "AllocatedStorage": cluster.settings["AllocatedStorage"],
        "DBInstanceClass": cluster.settings["DBClusterInstanceClass"],
    }
