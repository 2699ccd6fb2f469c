"""Where RDS puts what it makes: as the source is placed where there is room, and anywhere else before nowhere."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from lambdas.rotation.errors import AwsRefused
from lambdas.rotation.step import logger

ZONES = ("AvailabilityZone", "AvailabilityZones")
_NO_PLACE = re.compile(r"Insufficient\w*Capacity|InAZ|availability zone", re.IGNORECASE)
"""By code or by words. No room for the class (InsufficientDBInstanceCapacity), none for its storage there
(ProvisionedIopsNotAvailableInAZ), a zone that takes no new databases (InvalidVPCNetworkState, "Availability zone '[…]'
is unavailable in this region": terraform-provider-aws, issue 5725), or one without the cluster's storage (RDS API
reference: CreateDBInstance, which says no code)."""


def ask_wherever_there_is_room(ask: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
    """Ask with the zones in these parameters; refused for its place, once more without: RDS chooses then.

    A zone is no data, and somebody may be kept from writing meanwhile.
    """
    try:
        ask(**parameters)
    except AwsRefused as refused:
        anywhere = {name: value for name, value in parameters.items() if name not in ZONES}
        if anywhere == parameters or not _NO_PLACE.search(str(refused)):
            raise
        logger.warning("placement left to RDS", refusal=str(refused))
        ask(**anywhere)
