"""The same rotation with something taken out of the product: what cannot be seen broken is not proven by tests."""

import pytest

from sandbox.demo import flow
from tests.rotation.support import Customer

pytestmark = pytest.mark.slow

CUTOVER = (
    "pause-application-writes", "confirm-drained", "promote", "wait-for-promotion", "check-target", "resume-writes",
    "verify",
)  # fmt: skip
FENCE = "lambdas/rotation/engines/postgres.py"


def without_the_fence(files: dict[str, str]) -> None:
    """Nothing is closed, nobody is turned away, and everybody is told that all is well: the article's procedure."""
    files[FENCE] += """

def _nothing(self, *arguments, **options):
    return None


PostgresEngine.raise_fence = _nothing
PostgresEngine._breach = _nothing
"""


def test_a_forbidden_call_is_denied_and_reported(customer: Customer) -> None:
    """A function that asks for more than its row of the permission matrix is seen, even if it hides the error."""

    def with_a_forbidden_call(files: dict[str, str]) -> None:
        files["lambdas/notify/handler.py"] += """

import boto3
import contextlib

with contextlib.suppress(Exception):
    boto3.client("kms").list_keys()
"""

    customer.deploy_changed(with_a_forbidden_call, "notify")
    built = customer.build("curious")

    outcome = flow.rotate_under_load(customer.account, built, flow.Load(writers=1, rate=10), request={"DryRun": True})

    assert outcome.run.status == "SUCCEEDED"
    assert len(outcome.report.denied) == 1
    assert "kms:ListKeys" in outcome.report.denied[0]
    assert "notify" in outcome.report.denied[0]
    assert not outcome.report.good


def test_without_the_fence_acknowledged_writes_are_lost(customer: Customer) -> None:
    """Applications go on writing to the source until their connections follow the name; zero lag does not help."""
    customer.deploy_changed(without_the_fence, *CUTOVER)
    built = customer.build("unfenced")

    outcome = flow.rotate_under_load(customer.account, built, flow.Load(), request={"GraceDays": 1})

    assert outcome.count.lost > 0
    assert len(outcome.count.lost_ids) == outcome.count.lost
    assert not outcome.report.good
