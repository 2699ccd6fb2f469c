"""What every engine does with a database's own refusals."""

from collections.abc import Iterator
from contextlib import contextmanager

from lambdas.rotation.errors import SqlRefused


@contextmanager
def suppress_states(*states: str) -> Iterator[None]:
    """For the block, these refusals are the answer that was expected. Whatever else is raised goes on."""
    try:
        yield
    except SqlRefused as refused:
        if refused.state not in states:
            raise
