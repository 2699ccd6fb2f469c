"""One new key per rotation, as strict as the old one, and no key touched by mistake."""

import json
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.stub import ANY, Stubber
from hypothesis import example, given
from hypothesis import strategies as st
from moto.backends import get_backend

from lambdas.rotation.aws.client import client, client_that_asks_once
from lambdas.rotation.aws.kms import AwsKms
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable, DefaultKeyPolicy, NameTaken
from lambdas.rotation.names import ROTATION_ID_TAG, our_tags
from lambdas.rotation.ports import KeyFacts
from tests.fakes import START

ALIAS = "alias/rds-rotation/orders/42"
OURS = our_tags("orders", "42")
WITH_KMSS_OWN_POLICY = {"Description": ANY, "KeySpec": ANY, "KeyUsage": ANY, "Tags": ANY}


@pytest.fixture
def kms() -> AwsKms:
    return AwsKms()


def made(**parameters: Any) -> str:
    return str(client("kms").create_key(**parameters)["KeyMetadata"]["Arn"])


def ensured(kms: AwsKms, like: KeyFacts | None, alias: str = ALIAS, default_policy: bool = False) -> str:
    arn = kms.create_key("orders", OURS, like=like, default_policy=default_policy)
    kms.complete_key(arn, alias, like)
    return arn


def policy_of(arn: str) -> Any:
    return json.loads(client("kms").get_key_policy(KeyId=arn, PolicyName="default")["Policy"])


def policy(resource: Any) -> str:
    owner = {"AWS": "arn:aws:iam::123456789012:root"}
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": owner, "Action": "kms:*", "Resource": resource}],
        }
    )


@pytest.fixture
def old(kms: AwsKms) -> KeyFacts:
    tags = [{"TagKey": "team", "TagValue": "pay"}, {"TagKey": ROTATION_ID_TAG, "TagValue": "earlier"}]
    return kms.describe_key(made(Policy=policy("*"), Tags=tags))


def test_facts_of_a_key(kms: AwsKms, old: KeyFacts) -> None:
    assert ("CUSTOMER", "Enabled", False) == (old.manager, old.state, old.multi_region)
    assert old.tags == {"team": "pay", ROTATION_ID_TAG: "earlier"}
    assert kms.created_at(old.arn) == old.created_at


def test_makes_one_key_with_alias_tags_and_rotation(kms: AwsKms, old: KeyFacts) -> None:
    client("kms").enable_key_rotation(KeyId=old.arn)

    arn = ensured(kms, old)
    kms.complete_key(arn, ALIAS, old)

    assert kms.describe_key(ALIAS).arn == arn
    assert kms.describe_key(arn).tags == {"team": "pay", **OURS}
    assert client("kms").get_key_rotation_status(KeyId=arn)["KeyRotationEnabled"] is True
    assert 2 == len(client("kms").list_keys()["Keys"])


def test_a_lost_answer_leaves_one_key_which_is_found_by_its_description(kms: AwsKms, old: KeyFacts) -> None:
    """Repeated by the SDK, CreateKey makes a second key, which nobody finds and somebody pays for."""
    events = client_that_asks_once("kms").meta.events
    lost: list[str] = []

    def lose_the_answer(**_: Any) -> None:
        lost.append(planted("orders"))
        raise ReadTimeoutError(endpoint_url="kms")

    events.register_first("before-send.kms.CreateKey", lose_the_answer)
    try:
        with pytest.raises(AwsUnavailable):
            ensured(kms, old)
    finally:
        events.unregister("before-send.kms.CreateKey", lose_the_answer)

    assert [kms.find_key("orders", OURS[ROTATION_ID_TAG])] == lost


def planted(description: str, rotation_id: str = OURS[ROTATION_ID_TAG]) -> str:
    tags = our_tags("orders", rotation_id)
    return made(Description=description, Tags=[{"TagKey": name, "TagValue": value} for name, value in tags.items()])


def test_a_tag_makes_no_key_the_rotations(kms: AwsKms, old: KeyFacts) -> None:
    """The id of a rotation can be known before it begins, and be set on any key; the token cannot be known."""
    planted("RDS orders, rotation 42 (guessed)")
    client("kms").create_alias(AliasName=ALIAS, TargetKeyId=planted("").rpartition("/")[2])
    planted("orders", rotation_id="43")

    assert kms.find_key("orders", OURS[ROTATION_ID_TAG]) is None


def test_of_several_keys_of_one_description_the_oldest_is_the_rotations(kms: AwsKms, old: KeyFacts) -> None:
    """It can be read on the first one, and copied."""
    keys = get_backend("kms")["123456789012"]["eu-central-1"].keys
    arns = sorted((planted("orders") for _ in range(3)), reverse=True)
    for age, arn in enumerate(arns):
        keys[arn.rpartition("/")[2]].creation_date -= 600 + age
    kms.schedule_key_deletion(arns[-1], 7)

    assert arns[-1] == kms.find_key("orders", OURS[ROTATION_ID_TAG])


def test_a_key_that_kms_does_not_know_is_no_key(kms: AwsKms, old: KeyFacts) -> None:
    """The index of tags shows keys that KMS does not know yet, or not any more."""
    arn = planted("orders")
    with Stubber(client("kms")) as stub:
        stub.add_client_error("describe_key", "NotFoundException")
        assert kms.find_key("orders", OURS[ROTATION_ID_TAG]) is None

    assert arn == kms.find_key("orders", OURS[ROTATION_ID_TAG])


def test_somebody_elses_alias_is_not_taken(kms: AwsKms, old: KeyFacts) -> None:
    client("kms").create_alias(AliasName=ALIAS, TargetKeyId=made().rpartition("/")[2])

    with pytest.raises(NameTaken, match=ALIAS):
        ensured(kms, old)


def test_the_policy_is_copied_by_a_function_that_may_not_change_it_later(kms: AwsKms, old: KeyFacts) -> None:
    """KMS refuses it to such a function unless that waives the question; and it shall not become able to."""
    asked: list[dict[str, Any]] = []
    create = client_that_asks_once("kms").create_key

    def ask(**parameters: Any) -> Any:
        asked.append(parameters)
        return create(**parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_that_asks_once("kms"), "create_key", ask)
        ensured(kms, old)
        of_aws = KeyFacts(**{**old.__dict__, "manager": "AWS", "tags": {}})
        ensured(kms, of_aws, ALIAS + "1")

    assert [(True, True), (False, False)] == [
        ("Policy" in one, one.get("BypassPolicyLockoutSafetyCheck", False)) for one in asked
    ]


@pytest.mark.parametrize("as_list", [False, True])
def test_the_policy_is_copied_and_names_the_new_key(kms: AwsKms, as_list: bool) -> None:
    """A policy that goes on naming the old key's ARN allows nothing on the new one."""
    arn = made(Policy=policy("*"))
    client("kms").put_key_policy(KeyId=arn, PolicyName="default", Policy=policy([arn] if as_list else arn))

    new = ensured(kms, kms.describe_key(arn))

    assert json.loads(policy("*")) == policy_of(new)


@pytest.mark.parametrize("call", ["get_key_policy", "create_key"])
def test_a_policy_that_cannot_be_copied_makes_no_key_that_is_open_to_others(
    kms: AwsKms, old: KeyFacts, call: str
) -> None:
    """KMS's own policy, which it would get instead, lets in whomever IAM lets in."""
    with Stubber(client("kms")) as stub, Stubber(client_that_asks_once("kms")) as creation:
        if call == "get_key_policy":
            stub.add_client_error(call, "AccessDeniedException")
        else:
            stub.add_response("get_key_policy", {"Policy": policy("*")})
            creation.add_client_error(call, "MalformedPolicyDocumentException")

        with pytest.raises(DefaultKeyPolicy, match="default-key-policy"):
            ensured(kms, old)


@pytest.mark.parametrize("accepted", [False, True])
def test_an_organization_may_forbid_to_make_a_key_that_its_maker_may_not_change(
    kms: AwsKms, old: KeyFacts, accepted: bool
) -> None:
    """Control Tower's CT.KMS.PV.3. A key with KMS's own policy needs no waiver, and is made where that is accepted."""
    denial = "not authorized to perform: kms:CreateKey with an explicit deny in a service control policy"
    with Stubber(client_that_asks_once("kms")) as creation:
        creation.add_client_error("create_key", "AccessDeniedException", denial)
        if not accepted:
            with pytest.raises(AccessRefused, match=r'organization .*"Accept": \["default-key-policy"\]'):
                ensured(kms, old)
            return
        new = made()
        creation.add_response("create_key", {"KeyMetadata": {"KeyId": "new", "Arn": new}}, WITH_KMSS_OWN_POLICY)

        assert new == ensured(kms, old, default_policy=True)


def test_a_policy_that_kms_refuses_is_not_copied_where_that_is_accepted(kms: AwsKms, old: KeyFacts) -> None:
    """It names principals that are gone, or would lock everybody out."""
    with Stubber(client("kms")) as stub, Stubber(client_that_asks_once("kms")) as creation:
        stub.add_response("get_key_policy", {"Policy": policy("*")})
        creation.add_client_error("create_key", "MalformedPolicyDocumentException")
        creation.add_response("create_key", {"KeyMetadata": {"KeyId": "new", "Arn": "arn:aws:kms:r:1:key/new"}})
        stub.add_response("create_alias", {})
        stub.add_response("get_key_rotation_status", {"KeyRotationEnabled": True, "RotationPeriodInDays": 180})
        new = "arn:aws:kms:r:1:key/new"
        stub.add_response("enable_key_rotation", {}, {"KeyId": new, "RotationPeriodInDays": 180})

        arn = ensured(kms, old, default_policy=True)

    assert arn == "arn:aws:kms:r:1:key/new"


def test_an_aws_managed_key_is_followed_by_one_that_rotates_yearly(kms: AwsKms, old: KeyFacts) -> None:
    of_aws = KeyFacts(**{**old.__dict__, "manager": "AWS", "tags": {}})

    arn = ensured(kms, of_aws)

    assert client("kms").get_key_rotation_status(KeyId=arn)["KeyRotationEnabled"] is True


def test_disables_enables_and_schedules(kms: AwsKms, old: KeyFacts) -> None:
    kms.disable_key(old.arn)
    assert kms.describe_key(old.arn).state == "Disabled"
    kms.enable_key(old.arn)
    assert kms.describe_key(old.arn).state == "Enabled"

    deletion_at = kms.schedule_key_deletion(old.arn, 30)

    facts = kms.describe_key(old.arn)
    assert ("PendingDeletion", deletion_at) == (facts.state, facts.deletion_at)


def test_a_deletion_that_was_scheduled_already_keeps_its_date(kms: AwsKms, old: KeyFacts) -> None:
    deletion_at = kms.schedule_key_deletion(old.arn, 30)
    metadata = client("kms").describe_key(KeyId=old.arn)["KeyMetadata"]
    with Stubber(client("kms")) as stub:
        stub.add_client_error("schedule_key_deletion", "KMSInvalidStateException")
        stub.add_response("describe_key", {"KeyMetadata": metadata})

        assert deletion_at == kms.schedule_key_deletion(old.arn, 7)


def test_an_alias_is_deleted_once(kms: AwsKms, old: KeyFacts) -> None:
    client("kms").create_alias(AliasName=ALIAS, TargetKeyId=old.arn.rpartition("/")[2])
    kms.delete_alias(ALIAS)
    kms.delete_alias(ALIAS)

    with pytest.raises(AwsRefused):
        kms.describe_key(ALIAS)


# -- policies that people have written ---------------------------------------------------------------------------------

KEY = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NEW_KEY = KEY.replace("1234abcd", "9876fedc")
RESOURCES = [
    "*",
    KEY,
    KEY[:-4] + "*",
    KEY.replace("12ab", "1?ab"),
    "arn:aws:kms:*:*:key/*",
    NEW_KEY + "0",
    "arn:aws:s3:::b",
]
PRINCIPALS = [{"AWS": "arn:aws:iam::123456789012:root"}, {"AWS": ["*"]}, "*", {"Service": "rds.amazonaws.com"}]

resources = st.sampled_from(RESOURCES)
statements = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Deny"]),
        "Principal": st.sampled_from(PRINCIPALS),
        "Action": st.sampled_from(["kms:*", ["kms:Decrypt", "kms:DescribeKey"]]),
        "Resource": resources | st.lists(resources, min_size=1, max_size=3),
    },
    optional={
        "Sid": st.sampled_from(["Größe", "a \\ b", "\u00ff"]),
        "Condition": st.sampled_from(
            [{"StringLike": {"kms:ViaService": "rds.*"}}, {"Bool": {"aws:SecureTransport": KEY}}]
        ),
    },
)


def applies(statement: dict[str, Any], key: str) -> bool:
    """By the plainest possible matcher."""

    def matches(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return matches(pattern[1:], name) or (bool(name) and matches(pattern, name[1:]))
        return bool(name) and pattern[0] in ("?", name[0]) and matches(pattern[1:], name[1:])

    listed = statement["Resource"]
    return any(matches(pattern, key) for pattern in (listed if isinstance(listed, list) else [listed]))


@given(written=statements | st.lists(statements, min_size=1, max_size=4), escaped=st.booleans())
@example(written=[{"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": KEY[:-4] + "*"}], escaped=True)
def test_what_holds_for_the_old_key_holds_for_the_new_one(written: Any, escaped: bool) -> None:
    """A Deny that got lost, or a grant that came along, would be seen by nobody until it is used."""
    policy = {"Version": "2012-10-17", "Statement": written}
    text = json.dumps(policy, ensure_ascii=escaped, separators=(",", ":"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client("kms"), "get_key_policy", lambda **asked: {"Policy": text})
        carried = AwsKms()._policy_for_a_new_key(facts_of(KEY), False)

    assert carried is not None
    assert len(carried) <= max(len(text), len(json.dumps(policy, separators=(",", ":"))))
    before, after = (one if isinstance(one, list) else [one] for one in (written, json.loads(carried)["Statement"]))
    for old, new in zip(before, after, strict=True):
        assert applies(old, KEY) == applies(new, NEW_KEY)
        assert {**old, "Resource": ""} == {**new, "Resource": ""}


def test_a_policy_that_fills_what_kms_takes_still_fits() -> None:
    """Written anew with spaces it would be too long, and no rotation away from this key would ever get further."""
    allow = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [allow | {"Resource": KEY}, *[allow] * 482]}
    text = json.dumps(policy, separators=(",", ":"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client("kms"), "get_key_policy", lambda **asked: {"Policy": text})
        carried = AwsKms()._policy_for_a_new_key(facts_of(KEY), False)

    assert 32_000 < len(text) <= 32_768
    assert carried is not None
    assert len(carried) <= len(text)


def facts_of(arn: str) -> KeyFacts:
    return KeyFacts(arn=arn, manager="CUSTOMER", state="Enabled", multi_region=False, tags={}, created_at=START)


def test_names_the_owners_aliases_of_a_key_alone(kms: AwsKms) -> None:
    key = made()
    for name in (ALIAS, "alias/prod-db", "alias/backups"):
        client("kms").create_alias(AliasName=name, TargetKeyId=key)
    client("kms").create_alias(AliasName="alias/of-another", TargetKeyId=made())

    assert ["alias/backups", "alias/prod-db"] == sorted(kms.owners_aliases(key))
