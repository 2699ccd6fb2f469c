"""The sandbox that the tests of a file share. A file that needs it otherwise has a fixture of its own."""

from collections.abc import Iterator

import pytest

from tests.sandbox.rds_sandbox import Sandbox, running


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running() as sandbox:
        yield sandbox
