"""The KMS keys that RDS uses: which it accepts, what the caller must be allowed, and the grants it holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from moto.core.exceptions import JsonRESTError
from moto.kms.models import kms_backends

from sandbox.rds.errors import key_not_accessible

if TYPE_CHECKING:
    from sandbox.context import Context

TO_USE = ("kms:DescribeKey", "kms:CreateGrant")
# AWS's list for copying an encrypted snapshot; it does not say which of them are for which key, so they are for both.
TO_COPY = (
    *TO_USE, "kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom", "kms:ReEncryptTo",
)  # fmt: skip


class Keys:
    """RDS's dealings with KMS in one Region."""

    def __init__(self, context: Context, region: str, propagation_seconds: float) -> None:
        self.context = context
        self.region = region
        self.propagation_seconds = propagation_seconds

    @property
    def _kms(self) -> Any:
        return kms_backends[self.context.account_id][self.region]

    def accept(self, key: str | None, actions: tuple[str, ...] = TO_USE) -> str:
        """The ARN of a key that the caller may use through RDS; None means the AWS managed key.

        Raises:
            KMSKeyNotAccessibleFault: whatever is wrong with the key or the caller's rights; RDS does not say which.
        """
        named = key or "alias/aws/rds"
        try:
            found = self._kms.rds_key() if key is None else self._kms.find(key)
        except JsonRESTError:
            raise key_not_accessible(named) from None
        symmetric = found.key_spec == "SYMMETRIC_DEFAULT" and found.key_usage == "ENCRYPT_DECRYPT"
        if found.key_state != "Enabled" or not symmetric:
            raise key_not_accessible(named)
        if not found.__dict__.get("seen_by_rds"):
            # The key has not reached every part of KMS that RDS asks; the next attempt finds it.
            found.seen_by_rds = True
            if time.monotonic() - found.created_monotonic < self.propagation_seconds:
                raise key_not_accessible(named)
        if found.key_manager != "AWS":
            self._require(actions, found.arn, named)
        return str(found.arn)

    def _require(self, actions: tuple[str, ...], arn: str, named: str) -> None:
        from sandbox.iam import AccessDenied

        facts = {
            "kms:ViaService": f"rds.{self.region}.amazonaws.com",
            "kms:CallerAccount": self.context.account_id,
        }
        for action in actions:
            extra = {"kms:GrantIsForAWSResource": "true"} if action == "kms:CreateGrant" else {}
            try:
                self.context.authorizer.require(action, arn, {**facts, **extra})
            except AccessDenied:
                raise key_not_accessible(named) from None

    def usable(self, arn: str) -> bool:
        """Whether data under this key can be read now."""
        try:
            return str(self._kms.find(arn).key_state) == "Enabled"
        except JsonRESTError:
            return False

    def unusable_since(self, arn: str) -> float | None:
        """When (virtual seconds) data under this key became unreadable; None while it is readable, or nobody knows."""
        try:
            found = self._kms.find(arn)
        except JsonRESTError:
            return None
        since: float | None = found.__dict__.get("unusable_since")
        return since

    def hold(self, arn: str | None, storage_id: str, holder: str) -> None:
        """From now on something of this database or cluster is under the key. No key: nothing to hold."""
        if arn:
            self._kms.hold_for_rds(arn, storage_id, holder)

    def release(self, arn: str | None, storage_id: str, holder: str) -> None:
        if arn:
            self._kms.release_for_rds(arn, storage_id, holder)

    def used(self, arn: str | None, operation: str) -> None:
        if arn and self.usable(arn):
            self._kms.used(arn, operation, by_rds=True)
