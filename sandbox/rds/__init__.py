"""RDS with real servers, put into moto."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.context import Context
    from sandbox.rds.durations import Durations
    from sandbox.rds.service import RdsService


def install_rds(context: Context, durations: Durations | None = None, **options: Any) -> RdsService:
    """Put the sandbox's RDS into moto. After ``install_kms``, and before the first call of RDS."""
    from sandbox.rds.service import RdsService

    return RdsService(context, durations, **options)


__all__ = ["install_rds"]
