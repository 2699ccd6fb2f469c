"""AWS KMS: the old key's facts, the new key, and the slow end of a key."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lambdas.rotation import names
from lambdas.rotation.aws.client import calls, client, client_that_asks_once, pages
from lambdas.rotation.errors import AccessRefused, AwsRefused, DefaultKeyPolicy, NameTaken
from lambdas.rotation.ports import KeyFacts
from lambdas.rotation.step import logger

_WAIVED = (
    "The old key's policy is given to the new one with BypassPolicyLockoutSafetyCheck. If a policy of your "
    "organization forbids that, let it except the function's role; or accept KMS's own key policy: "
    '"Accept": ["default-key-policy"]'
)


class AwsKms:
    """`ports.Kms`, of the function's own Region, unless one is named."""

    def __init__(self, *region: str) -> None:
        self._region = region

    def describe_key(self, key: str) -> KeyFacts:
        """Facts about a key, by ARN, id or alias. Tags that may not be read (another account's key) are left out."""
        metadata = self._metadata(key)
        regions = metadata.get("MultiRegionConfiguration") or {}
        return KeyFacts(
            arn=metadata["Arn"],
            manager=metadata["KeyManager"],
            state=metadata["KeyState"],
            multi_region=bool(metadata.get("MultiRegion")),
            tags=self._tags(metadata["Arn"]) if metadata["KeyManager"] == "CUSTOMER" else {},
            created_at=metadata["CreationDate"],
            deletion_at=metadata.get("DeletionDate"),
            has_replica_keys=bool(regions.get("ReplicaKeys")),
        )

    def key_state(self, key_arn: str) -> str:
        return str(self._metadata(key_arn)["KeyState"])

    def created_at(self, key_arn: str) -> datetime:
        created: datetime = self._metadata(key_arn)["CreationDate"]
        return created

    def owners_aliases(self, key_arn: str) -> list[str]:
        aliases = pages("kms", "list_aliases", "Aliases", *self._region, KeyId=key_arn)
        return [alias["AliasName"] for alias in aliases if names.is_owners_alias(alias["AliasName"])]

    def create_key(self, description: str, tags: Mapping[str, str], like: KeyFacts | None, default_policy: bool) -> str:
        """Ask for a key, once: CreateKey has no client token, and the SDK's own repetition would make another.

        It gets the old one's policy, and its tags where they can be read.

        Raises:
            AwsUnavailable: retryable; there may be one, which the index of tags shows before long (`find_key`).
            AccessRefused: terminal; by an organization's policy perhaps, which forbids to make a key that its maker
                may not change (Control Tower: CT.KMS.PV.3).
            DefaultKeyPolicy: terminal; the old key's policy cannot be read, or names principals that are gone. KMS's
                own would let in whomever IAM lets in.
        """
        inherited = names.owners_tags(like.tags) if like is not None else {}
        parameters: dict[str, Any] = {
            "Description": description,
            "KeySpec": "SYMMETRIC_DEFAULT",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "Tags": [{"TagKey": n, "TagValue": v} for n, v in (inherited | dict(tags)).items()],
        }
        if like is not None and like.multi_region:
            parameters["MultiRegion"] = True
        policy = self._policy_for_a_new_key(like, default_policy) if like is not None else None
        if like is not None and policy is not None:
            # Whoever brings a policy has to have kms:PutKeyPolicy by it, or to waive that (KMS API reference,
            # CreateKey). The function has not: it could let anybody in to a production key. The policy is one in force.
            copied = {"Policy": policy, "BypassPolicyLockoutSafetyCheck": True}
            try:
                return self._create_with(parameters | copied)
            except AccessRefused as refused:
                if not default_policy:
                    raise AccessRefused(f"{refused}. {_WAIVED}") from refused
                logger.warning("policy of the old key not copied", old_key=like.arn, refusal=str(refused))
            except AwsRefused as refused:
                if refused.code != "MalformedPolicyDocumentException":
                    raise
                _refuse_unless(default_policy, like, refused)
        return self._create_with(parameters)

    def complete_key(self, key_arn: str, alias: str, like: KeyFacts | None) -> None:
        """Give it its alias, and rotation of key material as the old one has it. Repeatable.

        KMS may not know a key, or what its tags permit, for minutes after CreateKey: it refuses with NotFoundException,
        with one about the key's state, or with AccessDenied (KMS Developer Guide: eventual consistency).

        Raises:
            NameTaken: terminal; the alias leads to another key.
        """
        self._ensure_alias(alias, key_arn)
        self._ensure_rotation(key_arn, like)

    def find_key(self, description: str, rotation_id: str) -> str | None:
        """The key with this rotation's tag and this very description; also one that waits for its deletion.

        A rotation's id can be known before the rotation, and its tag be set on any key; but not this description, which
        has a token. Of several the oldest: whoever has read it there can only have copied it later.
        """
        found = pages(
            "resourcegroupstaggingapi",
            "get_resources",
            "ResourceTagMappingList",
            *self._region,
            TagFilters=[{"Key": names.ROTATION_ID_TAG, "Values": [rotation_id]}],
            ResourceTypeFilters=["kms:key"],
        )
        keys = [self._metadata_if_any(resource["ResourceARN"]) for resource in found]
        ours = [key for key in keys if key is not None and key.get("Description") == description]
        return str(min(ours, key=lambda key: key["CreationDate"])["Arn"]) if ours else None

    def _create_with(self, parameters: Mapping[str, Any]) -> str:
        with calls("kms:CreateKey"):
            return str(client_that_asks_once("kms", *self._region).create_key(**parameters)["KeyMetadata"]["Arn"])

    def _ensure_alias(self, alias: str, arn: str) -> None:
        try:
            with calls("kms:CreateAlias"):
                client("kms", *self._region).create_alias(AliasName=alias, TargetKeyId=_key_id(arn))
        except AwsRefused as refused:
            if refused.code != "AlreadyExistsException":
                raise
            if self._metadata(alias)["Arn"] != arn:
                raise NameTaken(f"{alias} leads to a key that this rotation did not make") from refused

    def _ensure_rotation(self, arn: str, like: KeyFacts | None) -> None:
        """Yearly, as AWS rotates its own keys, unless the old key says otherwise."""
        enabled, days = True, None
        if like is not None and like.manager == "CUSTOMER":
            try:
                with calls("kms:GetKeyRotationStatus"):
                    status = client("kms", *self._region).get_key_rotation_status(KeyId=like.arn)
                enabled, days = status["KeyRotationEnabled"], status.get("RotationPeriodInDays")
            except (AccessRefused, AwsRefused):
                pass  # imported material or another account's key: the default is the stricter one
        if enabled:
            with calls("kms:EnableKeyRotation"):
                client("kms", *self._region).enable_key_rotation(
                    KeyId=arn, **({"RotationPeriodInDays": days} if days else {})
                )

    def delete_alias(self, alias: str) -> None:
        """An alias that does not exist is deleted."""
        try:
            with calls("kms:DeleteAlias"):
                client("kms", *self._region).delete_alias(AliasName=alias)
        except AwsRefused as refused:
            if refused.code != "NotFoundException":
                raise

    def disable_key(self, key_arn: str) -> None:
        with calls("kms:DisableKey"):
            client("kms", *self._region).disable_key(KeyId=_key_id(key_arn))

    def enable_key(self, key_arn: str) -> None:
        with calls("kms:EnableKey"):
            client("kms", *self._region).enable_key(KeyId=_key_id(key_arn))

    def schedule_key_deletion(self, key_arn: str, pending_window_days: int) -> datetime:
        """Schedule the deletion, once; returns the moment after which the key may be gone."""
        try:
            with calls("kms:ScheduleKeyDeletion"):
                answer = client("kms", *self._region).schedule_key_deletion(
                    KeyId=_key_id(key_arn), PendingWindowInDays=pending_window_days
                )
        except AwsRefused as refused:
            scheduled = self._metadata(key_arn).get("DeletionDate")
            if refused.code != "KMSInvalidStateException" or scheduled is None:
                raise
            answer = {"DeletionDate": scheduled}
        deletion_at: datetime = answer["DeletionDate"]
        return deletion_at

    def _metadata(self, key: str) -> Mapping[str, Any]:
        with calls("kms:DescribeKey"):
            metadata: Mapping[str, Any] = client("kms", *self._region).describe_key(KeyId=key)["KeyMetadata"]
        return metadata

    def _metadata_if_any(self, arn: str) -> Mapping[str, Any] | None:
        """The index of tags is behind: it may show a key that KMS does not know, not yet or not any more."""
        try:
            return self._metadata(arn)
        except AwsRefused as refused:
            if refused.code != "NotFoundException":
                raise
            return None

    def _tags(self, arn: str) -> dict[str, str]:
        try:
            found = pages("kms", "list_resource_tags", "Tags", *self._region, KeyId=arn)
        except (AccessRefused, AwsRefused):
            return {}
        return {tag["TagKey"]: tag["TagValue"] for tag in found}

    def _policy_for_a_new_key(self, like: KeyFacts, default_policy: bool) -> str | None:
        """The old key's policy for a key that does not exist yet: what it says of the old key it says of "this key".

        None of a key of AWS's, which has no policy of an owner's, and where KMS's own will do.
        """
        if like.manager != "CUSTOMER":
            return None
        try:
            with calls("kms:GetKeyPolicy"):
                text = str(client("kms", *self._region).get_key_policy(KeyId=like.arn, PolicyName="default")["Policy"])
        except (AccessRefused, AwsRefused) as refused:
            _refuse_unless(default_policy, like, refused)
            return None
        document = json.loads(text)
        named = [
            statement
            for statement in _as_list(document.get("Statement") or [])
            if any(_matches(pattern, like.arn) for pattern in _as_list(statement.get("Resource", "*")))
        ]
        for statement in named:
            statement["Resource"] = "*"
        # As it was written, or with nothing between its parts: a policy may fill all of KMS's 32 KB.
        return json.dumps(document, separators=(",", ":")) if named else text


def _refuse_unless(accepted: bool, like: KeyFacts, refused: Exception) -> None:
    """KMS's own policy lets in whomever IAM lets in."""
    if not accepted:
        raise DefaultKeyPolicy(
            f"the policy of {like.arn} cannot be given to a new key: {refused}. Correct it, or accept KMS's own: "
            '"Accept": ["default-key-policy"]'
        ) from refused
    logger.warning("policy of the old key not copied", old_key=like.arn, refusal=str(refused))


def _matches(pattern: str, arn: str) -> bool:
    """As IAM compares: a Deny on a part of the old key's ARN is a Deny on this key.

    >>> _matches("arn:aws:kms:*:key/1?34", "arn:aws:kms:eu-central-1:123456789012:key/1234"), _matches("[ab]", "a")
    (True, False)
    """
    wildcards = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return pattern != "*" and re.fullmatch(wildcards, arn, re.DOTALL) is not None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _key_id(arn: str) -> str:
    return arn.rpartition("/")[2]
