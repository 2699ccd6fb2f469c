"""Whatever RDS says of a database is carried over, spoken about before anything is made, or known to need nothing.

What RDS learns to describe with a new SDK has to be put into one of the three, before a rotation leaves it behind.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import botocore.session
import pytest

from lambdas.preflight.handler import preflight
from lambdas.rotation.aws import carried_cluster_settings, carried_settings
from lambdas.rotation.aws.carried_settings import Setting
from lambdas.rotation.errors import PreflightRefused
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Rotation
from tests.fakes import OLD_KEY, SOURCE, FakePorts, planned_rotation

MODEL = botocore.session.get_session().get_service_model("rds")
SHOP = "cluster/shop"

Facts = Mapping[str, Any]

OF_ITSELF = "the target's own, which RDS gives it"
IN_THE_DATA = "is in the data, and comes with it"
OF_RDS_CUSTOM = "of RDS Custom, whose engines no strategy takes (EngineNotSupported)"
WITH_ITS_STREAM = "said with ActivityStreamStatus"
SHOWN = "what RDS shows of its own work, and nobody sets"
RESERVED = "reserved for future use, by the API reference"

NAMED: Mapping[str, tuple[str, Facts]] = {
    "AwsBackupRecoveryPointArn": ("AwsBackup", {"raw": {"AwsBackupRecoveryPointArn": "arn"}}),
    "ActivityStreamStatus": ("ActivityStream", {"raw": {"ActivityStreamStatus": "started"}}),
    "BackupTarget": ("OnOutposts", {"raw": {"BackupTarget": "outposts"}}),
    "CustomerOwnedIpEnabled": ("OnOutposts", {"raw": {"CustomerOwnedIpEnabled": True}}),
    "DBCapacityReservationIdentifier": ("CapacityReservation", {"raw": {"DBCapacityReservationIdentifier": "dbcr-1"}}),
    "DBClusterIdentifier": ("ClusterMember", {"raw": {"DBClusterIdentifier": "c"}}),
    "DBInstanceAutomatedBackupsReplications": (
        "BackupsReplicated",
        {"raw": {"DBInstanceAutomatedBackupsReplications": [{}]}},
    ),
    "DBInstanceStatus": ("NotAvailable", {"status": "stopped"}),
    "DbiResourceId": ("ResourceIdChanges", {"raw": {"IAMDatabaseAuthenticationEnabled": True}}),
    "PendingModifiedValues": ("ChangesPending", {"raw": {"PendingModifiedValues": {"Port": 1}}}),
    "ReadReplicaDBClusterIdentifiers": ("ReplicaElsewhere", {"raw": {"ReadReplicaDBClusterIdentifiers": ["c"]}}),
    "ReadReplicaDBInstanceIdentifiers": ("ReplicasAway", {"raw": {"ReadReplicaDBInstanceIdentifiers": ["r"]}}),
    "ReadReplicaSourceDBClusterIdentifier": ("IsReplica", {"raw": {"ReadReplicaSourceDBClusterIdentifier": "c"}}),
    "ReadReplicaSourceDBInstanceIdentifier": ("IsReplica", {"replica_of": "main"}),
    "StorageEncrypted": ("Unencrypted", {"storage_encrypted": False}),
    "TdeCredentialArn": ("TdeKeyStore", {"raw": {"TdeCredentialArn": "arn"}}),
}
"""Member of an instance -> what Preflight says, and by which facts."""

NOTHING_TO_DO: Mapping[str, str] = {
    **dict.fromkeys(("DBInstanceIdentifier", "DBInstanceArn", "InstanceCreateTime", "LatestRestorableTime"), OF_ITSELF),
    **dict.fromkeys(
        ("CharacterSetName", "DBName", "MasterUsername", "MultiTenant", "NcharCharacterSetName"), IN_THE_DATA
    ),
    "Timezone": IN_THE_DATA,
    **dict.fromkeys(("AutomationMode", "CustomIamInstanceProfile", "DBSystemId"), OF_RDS_CUSTOM),
    "ResumeFullAutomationModeTime": OF_RDS_CUSTOM,
    **dict.fromkeys(
        ("ActivityStreamEngineNativeAuditFieldsIncluded", "ActivityStreamKinesisStreamName"), WITH_ITS_STREAM
    ),
    **dict.fromkeys(("ActivityStreamKmsKeyId", "ActivityStreamMode", "ActivityStreamPolicyStatus"), WITH_ITS_STREAM),
    **dict.fromkeys(
        ("IsStorageConfigUpgradeAvailable", "PercentProgress", "StatusInfos", "StorageVolumeStatus"), SHOWN
    ),
    **dict.fromkeys(("StorageOperationPercentProgress", "StorageOperationStatus"), SHOWN),  # WaitForGreen looks
    "AutomaticRestartTime": "of a stopped one, which is not rotated (NotAvailable)",
    "CertificateDetails": "the authority is in CACertificateIdentifier, and RDS makes the certificate",
    "DBSecurityGroups": "of EC2-Classic, which there is no more",
    "DbInstancePort": "the port is in Endpoint",
    "EnhancedMonitoringResourceArn": "the log stream is named after the resource id, and made by RDS",
    "ListenerEndpoint": "of SQL Server's Always On, which comes with Multi-AZ; the target has one of its own name",
    "ReplicaMode": "of a replica of Db2 or Oracle: no source (IsReplica), and no strategy makes one",
    "SecondaryAvailabilityZone": "RDS chooses both zones of a Multi-AZ instance, and refuses to be told",
    "StorageEncryptionType": "the key says it; the target's is the new one",
    "TagList": "carried by `carried_tags`, and compared",
    "UpgradeRolloutOrder": "an organization's upgrade rollout policy, which goes by accounts and tags",
}

OF_CLUSTERS: Mapping[str, tuple[str, Facts]] = {
    **{name: NAMED[name] for name in ("ActivityStreamStatus", "AwsBackupRecoveryPointArn", "PendingModifiedValues")},
    "ClusterScalabilityType": ("EngineNotSupported", {"raw": {"ClusterScalabilityType": "limitless"}}),
    "CustomEndpoints": ("CustomEndpoints", {"raw": {"CustomEndpoints": ["c"]}}),
    "DBClusterMembers": ("NoInstances", {"raw": {"DBClusterMembers": []}}),
    "DbClusterResourceId": ("ResourceIdChanges", {"raw": {"IAMDatabaseAuthenticationEnabled": True}}),
    "DomainMemberships": ("InDirectory", {"raw": {"DomainMemberships": [{"Domain": "d"}]}}),
    "EngineMode": ("EngineNotSupported", {"raw": {"EngineMode": "serverless"}}),
    "GlobalClusterIdentifier": ("GlobalDatabase", {"raw": {"GlobalClusterIdentifier": "g"}}),
    "GlobalWriteForwardingStatus": ("GlobalDatabase", {"raw": {"GlobalWriteForwardingStatus": "enabled"}}),
    "HttpEndpointEnabled": ("DataApi", {"raw": {"HttpEndpointEnabled": True}}),
    "InternetAccessGatewayEnabled": ("OutsideVpc", {"raw": {"InternetAccessGatewayEnabled": True}}),
    "LimitlessDatabase": ("EngineNotSupported", {"raw": {"LimitlessDatabase": {"Status": "active"}}}),
    "LocalWriteForwardingStatus": ("WriteForwarding", {"raw": {"LocalWriteForwardingStatus": "enabled"}}),
    "MasterUserSecret": ("ManagedMasterPassword", {"raw": {"MasterUserSecret": {"SecretArn": "arn"}}}),
    "ReaderEndpoint": ("ReaderEndpoint", {}),
    "ReadReplicaIdentifiers": ("HasReplicas", {"raw": {"ReadReplicaIdentifiers": ["r"]}}),
    "ReplicationSourceIdentifier": ("HasReplicas", {"replica_of": "main"}),
    "Status": ("NotAvailable", {"status": "stopped"}),
    "VPCNetworkingEnabled": ("OutsideVpc", {"raw": {"VPCNetworkingEnabled": False}}),
}

NOTHING_TO_DO_OF_CLUSTERS: Mapping[str, str] = {
    **{name: NOTHING_TO_DO[name] for name in ("AutomaticRestartTime", "CharacterSetName", "LatestRestorableTime")},
    **{name: NOTHING_TO_DO[name] for name in ("MasterUsername", "PercentProgress", "StorageEncryptionType", "TagList")},
    "UpgradeRolloutOrder": NOTHING_TO_DO["UpgradeRolloutOrder"],
    **dict.fromkeys(("ClusterCreateTime", "DBClusterArn", "DBClusterIdentifier", "EarliestRestorableTime"), OF_ITSELF),
    **dict.fromkeys(("EarliestBacktrackTime", "Endpoint", "HostedZoneId"), OF_ITSELF),
    **dict.fromkeys(
        ("ActivityStreamKinesisStreamName", "ActivityStreamKmsKeyId", "ActivityStreamMode"), WITH_ITS_STREAM
    ),
    **dict.fromkeys(("BacktrackConsumedChangeRecords", "IOOptimizedNextAllowedModificationTime"), SHOWN),
    **dict.fromkeys(("DBSystemId", "RdsCustomClusterConfiguration", "StatusInfos"), RESERVED),
    **dict.fromkeys(("Capacity", "ScalingConfigurationInfo"), "of Serverless v1, said with EngineMode"),
    "CloneGroupId": "which clusters share storage; a target has all of its own",
    "CrossAccountClone": "where its storage came from; a target has all of its own",
    "DatabaseName": IN_THE_DATA,
    "DBClusterOptionGroupMemberships": "a default one, which nobody can change",
    "Engine": "of the request for the target",
    "GlobalWriteForwardingRequested": "of a secondary cluster, said with GlobalClusterIdentifier",
    "MultiAZ": "whether its instances are in several zones, which each is asked for in",
    "ServerlessV2PlatformVersion": "RDS chooses it, and there is no parameter for it",
    "StorageEncrypted": "the key says it; a cluster without one is rotated to have one, or refused (Unencrypted)",
    "StorageThroughput": "RDS sets it by the IOPS, and it cannot be chosen",
}


class Read(dict[str, Any]):
    """A description that knows which of its members were asked for."""

    def __init__(self, members: Facts) -> None:
        super().__init__(members)
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def anything(shape: Any) -> Any:
    """A value of this shape that is not nothing."""
    if shape.type_name == "structure":
        return {name: anything(one) for name, one in shape.members.items()}
    if shape.type_name == "list":
        return [anything(shape.member)]
    return {"boolean": True, "string": "x", "timestamp": "2027-01-01T00:00:00Z"}.get(shape.type_name, 1000)


def carried(described: str, *tables: tuple[Setting, ...]) -> set[str]:
    """What the rows of the tables read, and the comparison of roles."""
    chosen = {"StorageType": "gp3", "MultiAZ": False}  # what rows depend on
    raw = Read({**anything(MODEL.shape_for(described)), **chosen})
    for setting in (setting for table in tables for setting in table):
        setting.wanted_of(raw, "key")
        setting.seen(raw)
    one = replace(FakePorts().rds.instances[SOURCE], raw=raw)
    carried_settings.missing_roles(one, one)
    return raw.read


def said(ports: FakePorts, rotation: Rotation) -> list[str]:
    """By name: every reason to refuse, or every warning where there is none."""
    try:
        seen = preflight(rotation, ports).preflight
    except PreflightRefused as refused:
        return [line.partition(":")[0] for line in str(refused).splitlines()]
    assert seen is not None
    return [warning.name for warning in seen.warnings]


def changed(one: Instance, facts: Facts) -> Facts:
    return {**facts, "raw": {**one.raw, **facts.get("raw", {})}}


@pytest.mark.parametrize(
    ("described", "tables", "named", "nothing"),
    [
        ("DBInstance", (carried_settings.SETTINGS,), NAMED, NOTHING_TO_DO),
        (
            "DBCluster",
            (carried_cluster_settings.SETTINGS, carried_cluster_settings.OF_MULTI_AZ),
            OF_CLUSTERS,
            NOTHING_TO_DO_OF_CLUSTERS,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_member_is_in_one_of_three_places(
    described: str, tables: tuple[tuple[Setting, ...], ...], named: Facts, nothing: Mapping[str, str]
) -> None:
    """An SDK that knows more of a database lets this fail."""
    members = set(MODEL.shape_for(described).members)
    rows = carried(described, *tables)

    assert set() == members - rows - set(named) - set(nothing), "left behind without a word"
    assert set() == (rows & set(nothing)) | (set(named) & set(nothing)), "in two places that exclude each other"
    assert set() == (rows | set(named) | set(nothing)) - members, "of no member"


@pytest.mark.parametrize("member", NAMED)
def test_what_is_named_of_an_instance_is(member: str) -> None:
    name, facts = NAMED[member]
    ports = FakePorts(with_target=False)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[SOURCE].database.address, 300)
    assert name not in said(ports, planned_rotation(ports))

    ports.rds.alter(SOURCE, **changed(ports.rds.instances[SOURCE], facts))

    assert name in said(ports, planned_rotation(ports))


@pytest.mark.parametrize("member", OF_CLUSTERS)
def test_what_is_named_of_a_cluster_is(member: str) -> None:
    name, facts = OF_CLUSTERS[member]
    ports = FakePorts(with_target=False)
    database = ports.rds.add_cluster("shop", "shop-1", "shop-2", key_arn=OLD_KEY).database
    ports.dns.records["Z1", "db.example.com"] = (database.address, 300)
    accepted = ("downtime", *(() if name == "ReaderEndpoint" else ("reader-endpoint",)))
    planned = planned_rotation(ports, base_name=SHOP, strategy="snapshot", accept=accepted).having(source=database)
    assert (name == "ReaderEndpoint") == (name in said(ports, planned))

    ports.rds.alter(SHOP, **changed(ports.rds.instances[SHOP], facts))

    assert name in said(ports, planned)
