"""The settings of a cluster: RDS's defaults, and what a request may choose."""

from __future__ import annotations

from sandbox.rds.cluster_members import ClusterMembers
from sandbox.rds.cluster_resources import DEFAULTS, DEFAULTS_OF_MULTI_AZ, Cluster
from sandbox.rds.engines import Kind
from sandbox.rds.errors import cluster_exists, invalid_combination, invalid_value, refuse
from sandbox.rds.operations import Params
from sandbox.rds.resources import View
from sandbox.rds.settings import IDENTIFIER

CLUSTER_QUOTA = 40
BACKTRACK_SECONDS = range(259_201)
ZONES, ZONES_OF_A_CLUSTER = "abcd", 3
"""Of the Region, one more than a cluster has: so RDS may choose others for one that it restores."""
# Each has what the other has not (API reference: CreateDBCluster).
NOT_FOR_MULTI_AZ = (
    "AvailabilityZones", "EngineMode", "MaxAllocatedStorage", "NetworkType", "OptionGroupName",
    "ServerlessV2ScalingConfiguration",
)  # fmt: skip
NOT_FOR_AURORA = ("AllocatedStorage", "DBClusterInstanceClass", "Iops", "PubliclyAccessible")
FROM_INSTANCES = (
    "EngineVersion", "LicenseModel", "Port", "PreferredBackupWindow", "PreferredMaintenanceWindow", "SecurityGroups",
    "SubnetGroup", "Engine",
)  # fmt: skip


class ClusterSettings(ClusterMembers):
    """Checks and defaults."""

    def _new_cluster_name(self, name: str, *, renaming: bool = False) -> str:
        name = name.lower()
        if not IDENTIFIER.fullmatch(name):
            raise invalid_value("The parameter DBClusterIdentifier is not a valid identifier.")
        pending = (cluster.pending.get("DBClusterIdentifier") for cluster in self.clusters.values())
        if name in self.clusters or name in pending:
            raise cluster_exists()
        if not renaming and len(self.clusters) >= CLUSTER_QUOTA:
            raise refuse("DBClusterQuotaExceededFault", "The quota of DB clusters would be exceeded.")
        return name

    def _clustered_kind(self, name: str, version: str | None) -> Kind:
        kind = self._kind(name, version)
        if kind.cluster_parameters is None:
            raise invalid_value(f"The sandbox has no clusters of {name}.")
        return kind

    def _cluster_settings(self, name: str, kind: Kind, params: Params, kept: View) -> View:
        """RDS's defaults, under what is ``kept`` of a snapshot, under what the request chooses."""
        chosen = {**kept, **self._chosen_of_cluster(params, kind)}
        if version := params.get("EngineVersion"):
            chosen["EngineVersion"] = kind.full(version)
        defaults = {
            member: value for member, value in self._defaults(name, kind, chosen).items() if member in FROM_INSTANCES
        }
        others = DEFAULTS if kind.is_auroras else DEFAULTS_OF_MULTI_AZ
        zones = {"AvailabilityZones": self._zones()[:ZONES_OF_A_CLUSTER]}
        return {**others, **defaults, **zones, "ParameterGroup": kind.parameter_group, **chosen}

    def _zones(self) -> list[str]:
        return [f"{self.region_name}{zone}" for zone in ZONES]

    def _chosen_of_cluster(self, params: Params, kind: Kind, subnets: View | None = None) -> View:
        for member in NOT_FOR_AURORA if kind.is_auroras else NOT_FOR_MULTI_AZ:
            if params.get(member):
                raise invalid_combination(f"{member} isn't supported for DB engine {kind.name}.")
        chosen = self._chosen(params, kind, subnets)
        if chosen.get("BackupRetentionPeriod") == 0:
            raise invalid_value("Invalid backup retention period: 0. Must be between 1 and 35.")
        if group := params.get("DBClusterParameterGroupName"):
            found = self.cluster_group(group)
            if found.db_parameter_group_family != kind.family:
                raise invalid_combination(
                    f"The parameter group {found.name} with DBParameterGroupFamily {found.db_parameter_group_family} "
                    "can't be used for this cluster. Please use a parameter group with DBParameterGroupFamily "
                    f"{kind.family}"
                )
            chosen["ParameterGroup"] = found.name
        if zones := params.get("AvailabilityZones"):
            chosen["AvailabilityZones"] = self._zones_of(zones)
        if (window := params.get("BacktrackWindow")) is not None:
            chosen["BacktrackWindow"] = _backtrack_window(int(window), kind)
        if scaling := params.get("ServerlessV2ScalingConfiguration"):
            chosen["ServerlessV2ScalingConfiguration"] = {
                member: scaling[member]
                for member in ("MinCapacity", "MaxCapacity", "SecondsUntilAutoPause")
                if scaling.get(member) is not None
            }
        return chosen

    def _zones_of(self, wanted: list[str]) -> list[str]:
        """Those that are asked for; what is missing RDS chooses. Its words: terraform-provider-aws, issue 5725."""
        if len(wanted) > ZONES_OF_A_CLUSTER:
            raise invalid_value(f"A cluster has {ZONES_OF_A_CLUSTER} Availability Zones at most.")
        if unknown := sorted(set(wanted) - set(self._zones())):
            raise refuse(
                "InvalidVPCNetworkStateFault",
                f"Availability zone '[{', '.join(unknown)}]' is unavailable in this region, please choose another zone "
                "set.",
            )
        others = [zone for zone in self._zones() if zone not in wanted]
        return [*wanted, *others][:ZONES_OF_A_CLUSTER]

    def _enter_cluster(self, cluster: Cluster) -> None:
        self.clusters[cluster.name] = cluster
        self.keys.hold(cluster.kms_key_id, cluster.storage_id, "cluster")


def _backtrack_window(seconds: int, kind: Kind) -> int:
    if not kind.can_be_backtracked:
        raise invalid_combination(f"Backtrack isn't supported for DB engine {kind.name}.")
    if seconds not in BACKTRACK_SECONDS:
        raise invalid_value(f"Invalid backtrack window: {seconds}. Must be between 0 and {BACKTRACK_SECONDS.stop - 1}.")
    return seconds
