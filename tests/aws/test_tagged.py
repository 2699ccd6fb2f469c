"""A request that is repeated finds what the lost answer was about; nothing else is taken for that."""

from collections.abc import Iterator

import pytest

from lambdas.rotation.aws.tagged import ask_once
from lambdas.rotation.errors import AwsRefused

EXISTS = "DBSnapshotAlreadyExists"


def asked(*looks: bool, refused: str | None = None) -> int:
    """How many times it is asked for, when these looks find it, or do not."""
    found: Iterator[bool] = iter(looks)
    times = 0

    def ask() -> None:
        nonlocal times
        times += 1
        if refused:
            raise AwsRefused("no", refused)

    ask_once(lambda: next(found), ask, exists=EXISTS)
    return times


def test_what_is_there_is_not_asked_for() -> None:
    assert (0, 1) == (asked(True), asked(False))


def test_a_name_that_is_taken_since_the_look_is_looked_at_again() -> None:
    assert asked(False, True, refused=EXISTS) == 1


@pytest.mark.parametrize(("then", "code"), [(False, EXISTS), (True, "SnapshotQuotaExceeded")])
def test_every_other_refusal_is_one(then: bool, code: str) -> None:
    """Where nothing of ours is there, or RDS has another reason, nothing was made for this request."""
    with pytest.raises(AwsRefused):
        asked(False, then, refused=code)
