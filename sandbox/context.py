"""What the parts of one sandbox share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.clock import VirtualClock

if TYPE_CHECKING:
    from sandbox.cloudtrail import Trail
    from sandbox.dns import NameTable
    from sandbox.iam import Authorizer
    from sandbox.reaper import Reaper
    from sandbox.tls_front import CertificateAuthority

ACCOUNT_ID = "123456789012"
DEFAULT_REGION = "eu-central-1"


@dataclass
class Context:
    """One sandbox: where it keeps things, what time it is, which names exist, and who decides on its calls."""

    work_dir: Path
    region: str
    account_id: str
    clock: VirtualClock
    names: NameTable
    ca: CertificateAuthority
    authorizer: Authorizer
    reaper: Reaper
    trail: Trail | None = None
