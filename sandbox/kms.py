"""KMS as strict as AWS: key states are enforced, deletion happens when its time has come, RDS's grants are visible."""

from __future__ import annotations

import datetime as dt
import json
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.context import Context

RDS_ALIAS = "alias/aws/rds"
MANAGED_ALIASES = "alias/aws/"
ROTATION_PERIOD_DAYS = range(90, 2561)
PENDING_WINDOW_DAYS = range(7, 31)
LOCKED_OUT = "The new key policy will not allow you to update the key policy in the future."

RDS_GRANT_OPERATIONS = [
    "Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo",
    "CreateGrant", "DescribeKey", "RetireGrant",
]  # fmt: skip


def _error(code: str, message: str) -> Exception:
    from moto.core.exceptions import JsonRESTError

    error = JsonRESTError(code, message)
    error.code = 400
    return error  # type: ignore[no-any-return]


def install_kms(context: Context) -> None:
    """Put the strict KMS into moto. Before the first call of KMS: moto keeps backends that it has made."""
    from moto.kms.models import Key, KmsBackend, kms_backends
    from moto.kms.responses import KmsResponse

    tracking_since = context.clock.time()

    class StrictKms(KmsBackend):  # type: ignore[misc]
        __module__ = KmsBackend.__module__  # moto finds the URLs of a service by the module of its backend

        def __init__(self, region_name: str, account_id: str | None = None) -> None:
            self.lock = threading.RLock()
            self._keys: dict[str, Any] = {}
            super().__init__(region_name, account_id)

        # -- keys ----------------------------------------------------------------------------------------------------

        @property
        def keys(self) -> dict[str, Any]:
            """The keys that exist now: a key whose pending window has passed is gone, and its aliases with it."""
            now = context.clock.now().replace(tzinfo=None)
            with self.lock:
                for key in [k for k in self._keys.values() if k.deletion_date and k.deletion_date <= now]:
                    self.tagger.delete_all_tags_for_resource(key.id)
                    del self._keys[key.id]
            return self._keys

        @keys.setter
        def keys(self, keys: dict[str, Any]) -> None:
            self._keys = keys

        def find(self, key_id: str) -> Any:
            """The key with this id, ARN, alias or alias ARN.

            Raises:
                NotFoundException: also for a key of another account or Region.
            """
            if key_id.startswith("arn:") and key_id.split(":")[3:5] != [self.region_name, self.account_id]:
                raise _error("NotFoundException", f"Key '{key_id}' does not exist")
            name = self.get_alias_name(key_id)
            if name.startswith("alias/"):
                if (identifier := self.get_key_id_from_alias(name)) is None:
                    raise _error("NotFoundException", f"Alias {key_id} is not found.")
            else:
                identifier = self.get_key_id(key_id)
            if (key := self.keys.get(identifier)) is None:
                raise _error("NotFoundException", f"Key '{key_id}' does not exist")
            return key

        def describe_key(self, key_id: str) -> Any:
            self.find(key_id)
            return super().describe_key(key_id)

        def create_key(self, policy: str | None, *arguments: Any, **options: Any) -> Any:
            if policy:
                _check_policy(policy)
            with self.lock:
                key = super().create_key(policy, *arguments, **options)
            key.key_usage = key.key_usage or "ENCRYPT_DECRYPT"
            key.creation_date = context.clock.time()
            key.created_monotonic = time.monotonic()
            return key

        def forget(self, key: Any) -> None:
            """As if it had never been made."""
            with self.lock:
                self.tagger.delete_all_tags_for_resource(key.id)
                del self._keys[key.id]

        def _generate_default_keys(self, alias_name: str) -> str | None:
            with self.lock:
                identifier: str | None = super()._generate_default_keys(alias_name)
            if identifier:
                key = self._keys[identifier]
                key.key_manager = "AWS"
                key.created_monotonic = float("-inf")
                key.key_rotation_status = True
                service = alias_name.removeprefix(MANAGED_ALIASES)
                key.description = f"Default key that protects my {service.upper()} data when no other key is defined"
            return identifier

        def rds_key(self) -> Any:
            """The AWS managed key of RDS; it exists from its first use on."""
            return self.find(RDS_ALIAS)

        # -- states --------------------------------------------------------------------------------------------------

        def usable(self, key_id: str) -> Any:
            """The key, if it can be used for cryptography and grants."""
            key = self.manageable(key_id)
            if key.key_state != "Enabled":
                raise _error("DisabledException", f"{key.arn} is disabled.")
            return key

        def manageable(self, key_id: str) -> Any:
            """The key, unless it is pending deletion."""
            key = self.find(key_id)
            if key.key_state == "PendingDeletion":
                raise _error("KMSInvalidStateException", f"{key.arn} is pending deletion.")
            return key

        def _customers(self, key_id: str, action: str) -> Any:
            key = self.find(key_id)
            if key.key_manager == "AWS":
                raise _error(
                    "AccessDeniedException",
                    f"User is not authorized to perform: kms:{action} on resource: {key.arn} "
                    f"because no resource-based policy allows the kms:{action} action",
                )
            return key

        def disable_key(self, key_id: str) -> None:
            with self.lock:
                self._customers(key_id, "DisableKey")
                key = self.manageable(key_id)
                super().disable_key(key.id)
                key.__dict__.setdefault("unusable_since", context.clock.time())

        def enable_key(self, key_id: str) -> None:
            with self.lock:
                self._customers(key_id, "EnableKey")
                key = self.manageable(key_id)
                super().enable_key(key.id)
                key.__dict__.pop("unusable_since", None)

        def schedule_key_deletion(self, key_id: str, pending_window_in_days: int) -> float:
            with self.lock:
                key = self._customers(key_id, "ScheduleKeyDeletion")
                if pending_window_in_days not in PENDING_WINDOW_DAYS:
                    raise _error(
                        "ValidationException",
                        f"1 validation error detected: Value '{pending_window_in_days}' at 'pendingWindowInDays' "
                        "failed to satisfy constraint: Member must have value between 7 and 30",
                    )
                self.manageable(key_id)
                key.enabled, key.key_state = False, "PendingDeletion"
                key.pending_window_in_days = pending_window_in_days
                key.__dict__.setdefault("unusable_since", context.clock.time())
                deletion = context.clock.now() + dt.timedelta(days=pending_window_in_days)
                key.deletion_date = deletion.replace(tzinfo=None)
                return deletion.timestamp()

        def cancel_key_deletion(self, key_id: str) -> None:
            with self.lock:
                key = self._customers(key_id, "CancelKeyDeletion")
                if key.key_state != "PendingDeletion":
                    raise _error("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
                # Disabled, not enabled: whoever cancels decides what the key may do again.
                super().cancel_key_deletion(key.id)

        def enable_key_rotation(self, key_id: str, period_days: int = 365) -> None:
            self._customers(key_id, "EnableKeyRotation")
            key = self.usable(key_id)
            if period_days not in ROTATION_PERIOD_DAYS:
                raise _error("ValidationException", f"RotationPeriodInDays {period_days} is not between 90 and 2560")
            key.rotation_period_days = period_days
            super().enable_key_rotation(key.id)

        def disable_key_rotation(self, key_id: str) -> None:
            self._customers(key_id, "DisableKeyRotation")
            super().disable_key_rotation(self.usable(key_id).id)

        def put_key_policy(self, key_id: str, policy: str) -> None:
            self._customers(key_id, "PutKeyPolicy")
            _check_policy(policy)
            super().put_key_policy(self.manageable(key_id).id, policy)

        def update_key_description(self, key_id: str, description: str) -> None:
            self._customers(key_id, "UpdateKeyDescription")
            super().update_key_description(self.manageable(key_id).id, description)

        def create_alias(self, target_key_id: str, alias_name: str) -> Any:
            with self.lock:
                return super().create_alias(self.manageable(target_key_id).id, alias_name)

        def update_alias(self, target_key_id: str, alias_name: str) -> Any:
            with self.lock:
                return super().update_alias(self.manageable(target_key_id).id, alias_name)

        def tag_resource(self, arn: str, tags: dict[str, str]) -> None:
            super().tag_resource(self.manageable(arn).id, tags)

        def untag_resource(self, arn: str, tag_keys: list[str]) -> None:
            super().untag_resource(self.manageable(arn).id, tag_keys)

        # -- use -----------------------------------------------------------------------------------------------------

        def used(self, key_id: str, operation: str, *, by_rds: bool = False) -> None:
            """Note a cryptographic use, for GetKeyLastUsage; one that nobody's request is behind for CloudTrail too."""
            key = self.find(key_id)
            event_id = context.trail.note_use_by_rds(key.arn, operation) if by_rds and context.trail else None
            key.last_usage = (operation, context.clock.time(), event_id)

        def encrypt(self, key_id: str, *arguments: Any, **options: Any) -> Any:
            self.usable(key_id)
            self.used(key_id, "Encrypt")
            return super().encrypt(key_id, *arguments, **options)

        def decrypt(self, *arguments: Any, **options: Any) -> Any:
            plaintext, arn = super().decrypt(*arguments, **options)
            self.usable(arn)
            self.used(arn, "Decrypt")
            return plaintext, arn

        def generate_data_key(self, key_id: str, *arguments: Any, **options: Any) -> Any:
            self.usable(key_id)
            result = super().generate_data_key(key_id, *arguments, **options)
            self.used(key_id, "GenerateDataKey")
            return result

        def re_encrypt(self, *arguments: Any, **options: Any) -> Any:
            result = super().re_encrypt(*arguments, **options)
            for arn in result[1:]:
                self.used(arn, "ReEncrypt")
            return result

        def create_grant(self, key_id: str, *arguments: Any, **options: Any) -> Any:
            self.usable(key_id)
            identifier, token = super().create_grant(key_id, *arguments, **options)
            self.find(key_id).grants[identifier].creation_date = context.clock.time()
            return identifier, token

        # -- RDS's grants --------------------------------------------------------------------------------------------

        def hold_for_rds(self, key_id: str, storage_id: str, holder: str) -> None:
            """RDS uses the key for something of a database; one grant per database stands for all of it."""
            with self.lock:
                key = self.find(key_id)
                holders = key.__dict__.setdefault("rds_holders", {}).setdefault(storage_id, set())
                if not holders:
                    service = f"rds.{self.region_name}.amazonaws.com"
                    kind = "dbc" if storage_id.startswith("cluster-") else "db"
                    grant = key.add_grant(
                        secrets.token_hex(32), service, list(RDS_GRANT_OPERATIONS),
                        {"EncryptionContextSubset": {f"aws:rds:{kind}-id": storage_id}}, service,
                    )  # fmt: skip
                    grant.creation_date = context.clock.time()
                    grant.rds_database = storage_id
                holders.add(holder)
                self.used(key_id, "GenerateDataKeyWithoutPlaintext", by_rds=True)

        def release_for_rds(self, key_id: str, storage_id: str, holder: str) -> None:
            """RDS no longer uses the key for this; with the last use the grant goes."""
            with self.lock:
                key = self.keys.get(self.any_id_to_key_id(key_id))
                if key is None:
                    return
                holders = key.__dict__.get("rds_holders", {}).get(storage_id, set())
                holders.discard(holder)
                if not holders:
                    for grant in [g for g in key.grants.values() if getattr(g, "rds_database", "") == storage_id]:
                        del key.grants[grant.id]

    # -- wire ----------------------------------------------------------------------------------------------------------

    create_key_of_moto = KmsResponse.create_key

    def create_key(self: Any) -> str:
        answer = str(create_key_of_moto(self))
        key = self.kms_backend.find(json.loads(answer)["KeyMetadata"]["KeyId"])
        # Of whoever brings a policy KMS asks for the right to change it later, unless he waives the question.
        bypass = bool(self._get_param("BypassPolicyLockoutSafetyCheck"))
        asked = {"kms:BypassPolicyLockoutSafetyCheck": "false"}
        if (
            self._get_param("Policy")
            and not bypass
            and not context.authorizer.allows("kms:PutKeyPolicy", key.arn, asked)
        ):
            self.kms_backend.forget(key)
            raise _error("MalformedPolicyDocumentException", LOCKED_OUT)
        return answer

    def schedule_key_deletion(self: Any) -> str:
        key_id = self._get_param("KeyId")
        self._validate_cmk_id(key_id)
        window = self._get_param("PendingWindowInDays")
        date = self.kms_backend.schedule_key_deletion(key_id, 30 if window is None else window)
        key = self.kms_backend.find(key_id)
        return json.dumps(
            {
                "KeyId": key.arn,
                "DeletionDate": date,
                "KeyState": key.key_state,
                "PendingWindowInDays": key.pending_window_in_days,
            }
        )

    def cancel_key_deletion(self: Any) -> str:
        key_id = self._get_param("KeyId")
        self._validate_cmk_id(key_id)
        self.kms_backend.cancel_key_deletion(key_id)
        return json.dumps({"KeyId": self.kms_backend.find(key_id).arn})

    def enable_key_rotation(self: Any) -> str:
        key_id = self._get_param("KeyId")
        self._validate_cmk_id(key_id)
        self.kms_backend.enable_key_rotation(key_id, self._get_param("RotationPeriodInDays") or 365)
        return json.dumps(None)

    def get_key_rotation_status(self: Any) -> str:
        key_id = self._get_param("KeyId")
        self._validate_cmk_id(key_id)
        key = self.kms_backend.manageable(key_id)
        answer: dict[str, Any] = {"KeyId": key.arn, "KeyRotationEnabled": bool(key.key_rotation_status)}
        if key.key_rotation_status:
            period = getattr(key, "rotation_period_days", 365)
            answer["RotationPeriodInDays"] = period
            answer["NextRotationDate"] = key.creation_date + period * 86400
        return json.dumps(answer)

    def list_grants(self: Any) -> str:
        key_id = self._get_param("KeyId")
        self._validate_cmk_id(key_id)
        key = self.kms_backend.manageable(key_id)
        wanted = {"GrantId": self._get_param("GrantId"), "GranteePrincipal": self._get_param("GranteePrincipal")}
        with self.kms_backend.lock:
            grants = [_described(grant, key) for grant in key.grants.values()]
        grants = [g for g in grants if all(value is None or g.get(name) == value for name, value in wanted.items())]
        return json.dumps({"Grants": grants, "Truncated": False})

    def _described(grant: Any, key: Any) -> dict[str, Any]:
        described = {
            **grant.to_json(),
            "KeyId": key.arn,
            "CreationDate": getattr(grant, "creation_date", key.creation_date),
            "IssuingAccount": f"arn:aws:iam::{context.account_id}:root",
        }
        return {name: value for name, value in described.items() if value is not None}

    def get_key_last_usage(self: Any) -> str:
        key_id = self._get_param("KeyId")
        # No alias here: the answer is about one key, and an alias may move.
        self._validate_cmk_id(key_id)
        key = self.kms_backend.find(key_id)
        answer: dict[str, Any] = {
            "KeyId": key.id,
            "TrackingStartDate": min(tracking_since, key.creation_date),
            "KeyCreationDate": key.creation_date,
        }
        if usage := getattr(key, "last_usage", None):
            answer["KeyLastUsage"] = {
                "Operation": usage[0], "Timestamp": usage[1], "KmsRequestId": secrets.token_hex(16),
                **({"CloudTrailEventId": usage[2]} if usage[2] else {}),
            }  # fmt: skip
        return json.dumps(answer)

    for method in (
        create_key, schedule_key_deletion, cancel_key_deletion, enable_key_rotation, get_key_rotation_status,
        list_grants, get_key_last_usage,
    ):  # fmt: skip
        setattr(KmsResponse, method.__name__, method)
    # CloudFormation makes a key with `enabled` set and its state left alone.
    made_by_stack = Key.create_from_cloudformation_json.__func__

    def create_from_cloudformation_json(cls: Any, *arguments: Any, **options: Any) -> Any:
        key = made_by_stack(cls, *arguments, **options)
        key.key_state = "Enabled" if key.enabled in (True, "true") else "Disabled"
        key.enabled = key.key_state == "Enabled"
        return key

    Key.create_from_cloudformation_json = classmethod(create_from_cloudformation_json)
    kms_backends.backend = StrictKms


def _check_policy(policy: Any) -> None:
    try:
        document = policy if isinstance(policy, dict) else json.loads(policy)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not document.get("Statement"):
        raise _error("MalformedPolicyDocumentException", "The policy is not a document with statements")
