"""A step that is called as a function, without its handler, measures all the same; nobody sends that anywhere."""

from collections.abc import Iterator

import pytest

from lambdas.rotation.step import metrics


@pytest.fixture(autouse=True)
def forget_what_was_measured() -> Iterator[None]:
    """A hundred values of one metric would be sent by themselves, to a namespace that is not configured here."""
    yield
    metrics.clear_metrics()
