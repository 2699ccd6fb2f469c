"""Marks: tags that permissions hang on, set by one step for another one, or for itself."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from math import ceil

from lambdas.rotation import names
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Deployment, Rotation

SETTLES_IN = timedelta(minutes=10)
"""By then a mark counts: RDS caches tags for permissions, so that "several minutes can pass" (RDS User Guide: tagging).
`Describe…` shows it long before, because it asks elsewhere."""


def seconds_to_settle(marked_at: datetime | None, now: datetime) -> int:
    """Zero once a refusal would be meant. ``marked_at``: None where nothing had to be marked."""
    if marked_at is None:
        return 0
    return max(0, ceil((marked_at + SETTLES_IN - now).total_seconds()))


def green_marked(rotation: Rotation, deployment: Deployment, greens: Iterable[Instance], ports: Ports) -> Deployment:
    """With the mark by which permissions tell green from production; RDS takes it away when green becomes that.

    Allowed only of what has the deployment's tag, which green has from blue. The journal has the time first: an attempt
    that dies here leaves a mark that is as new for the next one.
    """
    unmarked = [green for green in greens if green.tags.get(names.GREEN_TAG) != rotation.rotation_id]
    if unmarked:
        deployment = deployment.having(marked_at=ports.clock.now())
        ports.ledger.record(rotation.having(deployment=deployment))
    for green in unmarked:
        ports.rds.set_tags(green.database.arn, {names.GREEN_TAG: rotation.rotation_id})
    return deployment
