"""RDS's refusals, with the codes that stand on the wire (several drop the ``Fault`` of the model's name)."""

from moto.core.exceptions import ServiceException


class RdsError(ServiceException):  # type: ignore[misc]
    """A refusal: ``code`` is what the SDK reports."""


def refuse(code: str, message: str) -> RdsError:
    return RdsError(code, message)


def instance_not_found(name: str) -> RdsError:
    return refuse("DBInstanceNotFound", f"DBInstance {name} not found.")


def instance_exists() -> RdsError:
    return refuse("DBInstanceAlreadyExists", "DB instance already exists")


def invalid_instance_state(message: str) -> RdsError:
    return refuse("InvalidDBInstanceState", message)


def snapshot_not_found(name: str) -> RdsError:
    return refuse("DBSnapshotNotFound", f"DBSnapshot {name} not found.")


def invalid_snapshot_state(message: str) -> RdsError:
    return refuse("InvalidDBSnapshotState", message)


def cluster_not_found(name: str) -> RdsError:
    return refuse("DBClusterNotFoundFault", f"DBCluster {name} not found.")


def cluster_exists() -> RdsError:
    return refuse("DBClusterAlreadyExistsFault", "DB Cluster already exists")


def invalid_cluster_state(message: str) -> RdsError:
    return refuse("InvalidDBClusterStateFault", message)


def cluster_snapshot_not_found(name: str) -> RdsError:
    return refuse("DBClusterSnapshotNotFoundFault", f"DBClusterSnapshot {name} not found.")


def invalid_cluster_snapshot_state(message: str) -> RdsError:
    return refuse("InvalidDBClusterSnapshotStateFault", message)


def proxy_not_found(name: str) -> RdsError:
    return refuse("DBProxyNotFoundFault", f"Proxy {name} not found.")


def invalid_combination(message: str) -> RdsError:
    return refuse("InvalidParameterCombination", message)


def invalid_value(message: str) -> RdsError:
    return refuse("InvalidParameterValue", message)


def key_not_accessible(key: str) -> RdsError:
    return refuse(
        "KMSKeyNotAccessibleFault",
        f"The specified KMS key [{key}] does not exist, is not enabled or you do not have permissions to access it.",
    )
