"""A sandbox for each file: ``python -m sandbox up`` in another process, reached by its APIs, DNS and SQL only.

Not one for all: a key that one test has retired is deleted in the middle of another, whose clock goes on.
"""

from collections.abc import Iterator

import pytest

from sandbox.client import SandboxProcess
from tests.rotation.support import Customer


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with SandboxProcess() as sandbox:
        yield Customer.of(sandbox)
