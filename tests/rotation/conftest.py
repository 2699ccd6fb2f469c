"""One sandbox for all rotations: ``python -m sandbox up`` in another process, reached by its APIs, DNS and SQL only."""

from collections.abc import Iterator

import pytest

from sandbox.client import SandboxProcess
from tests.rotation.support import Customer


@pytest.fixture(scope="session")
def customer() -> Iterator[Customer]:
    with SandboxProcess() as sandbox:
        yield Customer.of(sandbox)


@pytest.fixture(scope="module")
def customer_of_their_own() -> Iterator[Customer]:
    """For tests that change the deployed product itself."""
    with SandboxProcess() as sandbox:
        yield Customer.of(sandbox)
