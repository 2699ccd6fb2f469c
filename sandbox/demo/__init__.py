"""The demonstration: a database with data, writers that never pause, one rotation, and a count of what survived.

It stands on the customer's side: it knows the sandbox's AWS APIs, its DNS server and SQL, and nothing else of it.
"""

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run ``python -m sandbox demo`` with these arguments; the exit code is 0 only if nothing at all went wrong."""
    from sandbox.demo.flow import main as flow

    return flow(argv)
