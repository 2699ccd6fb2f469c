"""MariaDB comes from the distribution, so it may be missing; where it must not be, a missing one is a failure."""

import os

import pytest

from sandbox.mariadb import HOW_TO_INSTALL, is_installed


def need_mariadb() -> None:
    """Skip the test when MariaDB is not installed; with ``REQUIRE_MARIADB`` in the environment, fail it."""
    if is_installed():
        return
    if os.environ.get("REQUIRE_MARIADB"):
        pytest.fail(f"MariaDB is required here and not installed: {HOW_TO_INSTALL}")
    pytest.skip(f"MariaDB is not installed: {HOW_TO_INSTALL}")
