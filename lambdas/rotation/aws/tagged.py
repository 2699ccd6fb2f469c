"""Tags as RDS gives and takes them, and what they say about who made something."""

from collections.abc import Callable, Mapping
from typing import Any

from lambdas.rotation import names
from lambdas.rotation.aws.client import calls, client
from lambdas.rotation.errors import AwsRefused, NameTaken, RetirementRefused
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Database


def tags_of(raw: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in raw.get("TagList") or ()}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]


def set_tags(arn: str, tags: Mapping[str, str]) -> None:
    with calls("rds:AddTagsToResource"):
        client("rds").add_tags_to_resource(ResourceName=arn, Tags=tag_list(tags))


def refuse_foreign(kind: str, identifier: str, found: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Raises: NameTaken (terminal) when what exists was not made by the rotation that ``ours`` names."""
    if found.get(names.ROTATION_ID_TAG) != ours.get(names.ROTATION_ID_TAG):
        raise NameTaken(
            f"a {kind} named {identifier} exists and was not made by this rotation; rename it or delete it, "
            "then start again"
        )


def refuse_to_delete(looked_at: Database, found: Instance) -> None:
    """The last look before a deletion, whatever reasons the caller has: RDS deletes by name, and names change hands.

    Raises:
        RetirementRefused: terminal; the name leads to another database by now, or to one that is neither made by a
            rotation nor marked for removal by one.
    """
    identifier, resource_id = looked_at.identifier, found.database.resource_id
    if resource_id != looked_at.resource_id:
        raise RetirementRefused(f"{identifier} is {resource_id}, not {looked_at.resource_id} any more")
    if not {names.ROTATION_ID_TAG, names.DECOMMISSION_TAG} & set(found.tags):
        raise RetirementRefused(f"{identifier} was neither made by a rotation nor marked for removal by one")


def ask_once(adopted: Callable[[], bool], ask: Callable[[], None], *, exists: str) -> None:
    """Ask for something by name, unless it is there and ours.

    Args:
        exists: the code by which RDS says that the name is taken: perhaps by an earlier attempt of the same request.
    """
    if adopted():
        return
    try:
        ask()
    except AwsRefused as refused:
        if refused.code != exists or not adopted():
            raise
