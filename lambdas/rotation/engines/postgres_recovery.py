"""Where the recovery of a restored target ended: the position from which it has to catch up."""

import re
from collections.abc import Callable, Iterable

from lambdas.rotation.errors import CatchUpFailed
from lambdas.rotation.state import Position

_WORDS = "redo done at"
# As the server itself writes it, in either format: the words may stand in a statement that is logged, too. With what
# follows (since PostgreSQL 14): a position that was cut off would be another one.
_LINE = re.compile(r"""[^'"\t]*(?:LOG: +|,LOG,00000,")redo done at ([0-9A-F]+)/([0-9A-F]+) system usage:""")


def end_of_recovery(begun: Position, log_lines: Callable[[str], Iterable[str]]) -> Position | None:
    """The last record that the target has replayed, as its log says; None while the log does not have it.

    The disk that was copied has the source's logs as well, so a line from before the capture is an older crash of the
    source. Two that lie behind it would be the source's and the target's, or two of the target's: nobody can tell.

    Raises:
        CatchUpFailed: terminal; there is more than one.
    """
    found = {_number(*match.groups()): match for line in log_lines(_WORDS) if (match := _LINE.match(line)) is not None}
    ends = sorted(position for position in found if position >= _number(*begun.split("/")))
    if len(ends) > 1:
        raise CatchUpFailed("the target has recovered more than once since the capture began: start anew")
    return Position("/".join(found[ends[0]].groups())) if ends else None


def _number(high: str, low: str) -> int:
    """
    >>> _number("1", "2000100") == 0x1_02000100
    True
    """
    return (int(high, 16) << 32) + int(low, 16)
