"""Calls that moto does not know and the product makes, about things that the sandbox has none of; and old messages.

An account without such things answers with an empty list; so does this. What would have something to list is elsewhere.
"""

from __future__ import annotations

from typing import Any

import moto.backup.urls as backup_urls
from moto.backup.models import BackupBackend
from moto.backup.responses import BackupResponse
from moto.core.responses import ActionResult
from moto.dms.responses import DatabaseMigrationServiceResponse
from moto.sqs.models import SQSBackend

_receive_message = SQSBackend.receive_message


def install_gaps() -> None:
    """Teach moto the missing answers, before its first request. What it has learned since, it keeps."""
    backup_urls.url_paths.setdefault(
        "{0}/backup-vaults/(?P<name>[^/]+)/recovery-points/$", backup_urls.response.dispatch
    )
    for owner, method, answer in (
        (BackupResponse, "list_recovery_points_by_backup_vault", _no_recovery_points),
        (BackupResponse, "list_recovery_points_by_resource", _nothing("RecoveryPoints")),
        (BackupResponse, "list_protected_resources", _nothing("Results")),
        (DatabaseMigrationServiceResponse, "describe_certificates", _nothing("Certificates")),
        (DatabaseMigrationServiceResponse, "describe_instance_profiles", _nothing("InstanceProfiles")),
        (DatabaseMigrationServiceResponse, "describe_replication_configs", _nothing("ReplicationConfigs")),
        (DatabaseMigrationServiceResponse, "describe_replications", _nothing("Replications")),
        (
            DatabaseMigrationServiceResponse,
            "describe_replication_task_assessment_runs",
            _nothing("ReplicationTaskAssessmentRuns"),
        ),
    ):
        if not hasattr(owner, method):
            setattr(owner, method, answer)
    SQSBackend.receive_message = _receive_what_is_kept


def _receive_what_is_kept(backend: SQSBackend, queue_name: str, *arguments: Any, **named: Any) -> Any:
    """A message that is older than its queue keeps them is gone. In moto it stays, and bars those behind it."""
    queue, is_kept = backend.get_queue(queue_name), backend.is_message_valid_based_on_retention_period
    queue._messages = [message for message in queue._messages if is_kept(queue_name, message)]
    return _receive_message(backend, queue_name, *arguments, **named)


def _nothing(member: str) -> Any:
    return lambda response: ActionResult({member: []})


def _no_recovery_points(response: Any) -> ActionResult:
    backend: BackupBackend = response.backup_backend
    # Of a vault that there is; one that there is not is an error.
    backend.describe_backup_vault(response.path.split("/")[2])
    return ActionResult({"RecoveryPoints": []})
