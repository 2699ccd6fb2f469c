"""What every test shares: the order in which files are run, and the examples that property tests are given."""

import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine; `--hypothesis-profile=explore` looks further.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=5000, deadline=None)
settings.load_profile("fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole rotations first: with two workers the longest files must not be the last to begin."""
    items.sort(key=lambda item: "tests/rotation/" not in item.path.as_posix())
