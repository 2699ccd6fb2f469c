"""A key that cannot be used is refused everywhere, and is gone only when its window has passed."""

from __future__ import annotations

import json

import pytest

from tests.sandbox.rds_sandbox import Sandbox, code_of


def new_key(sandbox: Sandbox) -> str:
    return str(sandbox.kms.create_key()["KeyMetadata"]["KeyId"])


@pytest.mark.parametrize("form", ["id", "arn"])
def test_deletion_is_scheduled_by_id_or_arn_and_happens_when_its_time_has_come(sandbox: Sandbox, form: str) -> None:
    kms, key = sandbox.kms, new_key(sandbox)
    arn = kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
    kms.create_alias(AliasName=f"alias/{form}", TargetKeyId=key)
    scheduled = kms.schedule_key_deletion(KeyId=arn if form == "arn" else key, PendingWindowInDays=7)
    assert (scheduled["KeyId"], scheduled["KeyState"], scheduled["PendingWindowInDays"]) == (arn, "PendingDeletion", 7)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["DeletionDate"] == scheduled["DeletionDate"]
    assert code_of(kms.schedule_key_deletion, KeyId=key) == "KMSInvalidStateException"
    sandbox.jump(days=6)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    sandbox.jump(days=2)
    assert code_of(kms.describe_key, KeyId=key) == "NotFoundException"
    assert f"alias/{form}" not in [a["AliasName"] for a in kms.list_aliases()["Aliases"]]


@pytest.mark.parametrize("days", [3, 6, 31])
def test_the_window_has_bounds(sandbox: Sandbox, days: int) -> None:
    key = new_key(sandbox)
    assert code_of(sandbox.kms.schedule_key_deletion, KeyId=key, PendingWindowInDays=days) == "ValidationException"
    assert sandbox.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"


def test_a_cancelled_deletion_leaves_the_key_disabled(sandbox: Sandbox) -> None:
    kms, key = sandbox.kms, new_key(sandbox)
    assert code_of(kms.cancel_key_deletion, KeyId=key) == "KMSInvalidStateException"
    kms.schedule_key_deletion(KeyId=key)
    assert kms.cancel_key_deletion(KeyId=key)["KeyId"].endswith(key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    kms.enable_key(KeyId=key)
    sandbox.jump(days=31)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"


def test_a_policy_comes_from_whoever_may_change_it_later_or_waives_the_question(sandbox: Sandbox) -> None:
    """KMS asks for kms:PutKeyPolicy on the new key, by its policy together with IAM's (CreateKey, Policy)."""
    statement = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "kms:*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement | {"Resource": "*"}]})
    before = len(sandbox.kms.list_keys()["Keys"])
    sandbox.do("deny", actions=["kms:PutKeyPolicy"])
    try:
        assert code_of(sandbox.kms.create_key, Policy=policy) == "MalformedPolicyDocumentException"
        assert before == len(sandbox.kms.list_keys()["Keys"])
        new_key(sandbox)
        sandbox.kms.create_key(Policy=policy, BypassPolicyLockoutSafetyCheck=True)
    finally:
        sandbox.do("deny", actions=[])
    sandbox.kms.create_key(Policy=policy)
    assert before + 3 == len(sandbox.kms.list_keys()["Keys"])


def test_states_are_enforced(sandbox: Sandbox) -> None:
    kms, key = sandbox.kms, new_key(sandbox)
    secret = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    arn = kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
    grant = {"KeyId": key, "GranteePrincipal": "arn:aws:iam::123456789012:root", "Operations": ["Decrypt"]}

    def refusals() -> set[str]:
        return {
            code_of(kms.encrypt, KeyId=arn, Plaintext=b"x"), code_of(kms.decrypt, CiphertextBlob=secret),
            code_of(kms.generate_data_key, KeyId=key, KeySpec="AES_256"), code_of(kms.create_grant, **grant),
            code_of(kms.enable_key_rotation, KeyId=key),
        }  # fmt: skip

    kms.disable_key(KeyId=arn)
    assert refusals() == {"DisabledException"}
    kms.schedule_key_deletion(KeyId=key)
    assert refusals() == {"KMSInvalidStateException"}
    for call in (kms.disable_key, kms.enable_key, kms.list_grants):
        assert code_of(call, KeyId=key) == "KMSInvalidStateException"
    alias = {"AliasName": "alias/late", "TargetKeyId": key}
    assert code_of(kms.create_alias, **alias) == "KMSInvalidStateException"


def test_keys_of_aws_cannot_be_touched(sandbox: Sandbox) -> None:
    kms = sandbox.kms
    key = kms.describe_key(KeyId="alias/aws/rds")["KeyMetadata"]
    assert key["KeyManager"] == "AWS"
    policy = json.dumps({"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]})
    for call, more in (
        (kms.disable_key, {}),
        (kms.schedule_key_deletion, {}),
        (kms.put_key_policy, {"PolicyName": "default", "Policy": policy}),
    ):
        assert code_of(call, KeyId=key["KeyId"], **more) == "AccessDeniedException"
    assert kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] == "Enabled"


def test_rotation_settings(sandbox: Sandbox) -> None:
    kms, key = sandbox.kms, new_key(sandbox)
    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is False
    kms.enable_key_rotation(KeyId=key, RotationPeriodInDays=180)
    status = kms.get_key_rotation_status(KeyId=key)
    assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 180)


def test_last_usage_is_tracked_and_absent_for_a_key_never_used(sandbox: Sandbox) -> None:
    kms, key = sandbox.kms, new_key(sandbox)
    unused = kms.get_key_last_usage(KeyId=key)
    assert "KeyLastUsage" not in unused
    assert unused["KeyCreationDate"] >= unused["TrackingStartDate"]
    kms.encrypt(KeyId=key, Plaintext=b"x")
    assert kms.get_key_last_usage(KeyId=key)["KeyLastUsage"]["Operation"] == "Encrypt"
    assert code_of(kms.get_key_last_usage, KeyId="alias/aws/rds") == "NotFoundException"


def test_a_grant_names_the_database_it_is_for(sandbox: Sandbox) -> None:
    key = sandbox.key()
    instance = sandbox.create("orders", StorageEncrypted=True, KmsKeyId=key)
    (grant,) = sandbox.kms.list_grants(KeyId=key)["Grants"]
    assert grant["GranteePrincipal"] == "rds.eu-central-1.amazonaws.com"
    assert grant["Constraints"] == {"EncryptionContextSubset": {"aws:rds:db-id": instance["DbiResourceId"]}}
    assert grant["KeyId"] == key
