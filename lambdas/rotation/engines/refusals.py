"""What every engine refuses, and what it does with a database's own refusals."""

from collections.abc import Iterator
from contextlib import contextmanager

from lambdas.rotation.errors import SqlRefused
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.state import Finding

CONTROL_DATABASE_TAKEN = Finding(
    name="ControlDatabaseTaken",
    message=f"a database {CONTROL_DATABASE} exists that no rotation made",
    advice="rename it; the rotation needs the name",
)


@contextmanager
def suppress_states(*states: str) -> Iterator[None]:
    """For the block, these refusals are the answer that was expected. Whatever else is raised goes on."""
    try:
        yield
    except SqlRefused as refused:
        if refused.state not in states:
            raise
