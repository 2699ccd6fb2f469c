"""What every test shares: the order in which files are run, and the examples that property tests are given."""

import os
import tempfile

import pytest
from hypothesis import settings

from sandbox import scratch

# The same examples in every run, however slow the machine; `--hypothesis-profile=explore` looks further.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=5000, deadline=None)
settings.load_profile("fixed")


# Before anybody asks for a temporary directory; what a test starts finds it in its environment.
os.environ["TMPDIR"] = tempfile.tempdir = scratch.directory()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole rotations first: with two workers the longest files must not be the last to begin."""
    items.sort(key=lambda item: "tests/rotation/" not in item.path.as_posix())
