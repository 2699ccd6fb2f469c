"""Tags as RDS gives and takes them, and what they say about who made something."""

from collections.abc import Mapping
from typing import Any

from lambdas.rotation import names
from lambdas.rotation.errors import NameTaken


def tags_of(raw: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in raw.get("TagList") or ()}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]


def refuse_foreign(kind: str, identifier: str, found: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Raises: NameTaken (terminal) when what exists was not made by the rotation that ``ours`` names."""
    if found.get(names.ROTATION_ID_TAG) != ours.get(names.ROTATION_ID_TAG):
        raise NameTaken(
            f"a {kind} named {identifier} exists and was not made by this rotation; rename it or delete it, "
            "then start again"
        )
