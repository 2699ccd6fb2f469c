"""A target that RDS is making, whichever way: can it be used yet, and is it under the right key?"""

from lambdas.rotation.errors import Terminal, WrongKey
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Rotation


def waiting_for(rotation: Rotation, target: Instance | None, given_up: type[Terminal]) -> list[str]:
    """What it is still being waited for; nothing, when it is available under the new key.

    Raises:
        WrongKey: terminal; RDS has ignored the key.
        ``given_up``: terminal; RDS has.
    """
    if target is None:
        return ["the target to appear"]
    found, wanted = target.database.kms_key_arn, rotation.keyed().arn
    if found is not None and found != wanted:
        raise WrongKey(f"{target.database.identifier} is encrypted under {found}, not under {wanted}")
    if target.is_unusable:
        raise given_up(f"{target.database.identifier} is {target.status}")
    if target.status != "available":
        return [f"the target to be available (it is {target.status})"]
    if found is None:
        raise WrongKey(f"{target.database.identifier} is not encrypted")
    return []
