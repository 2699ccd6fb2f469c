"""What every test shares: the order in which files are run."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole rotations first: with two workers the longest files must not be the last to begin."""
    items.sort(key=lambda item: "tests/rotation/" not in item.path.as_posix())
