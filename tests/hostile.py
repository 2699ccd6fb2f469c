"""What people and other systems may hand in, as strategies: everything that is allowed, and everything that is not."""

import re
from typing import Any

from hypothesis import strategies as st

IDENTIFIER = re.compile(r"[a-z](-?[a-z0-9])*")
"""RDS: letters, digits and single hyphens; a letter first, no hyphen last. Instances have at most 63 of them."""


def instance_identifiers(max_size: int = 63) -> st.SearchStrategy[str]:
    """As RDS stores them, in lower case. Many are long, and made of words that a rotation itself puts into names."""
    words = st.sampled_from(["rot", "kept", "rekeyed", "source", "orders", "0a1b2c3d", "x" * 40]) | st.text(
        "abz019", min_size=1, max_size=30
    )
    joined = st.lists(words, min_size=1, max_size=6).map(lambda parts: "-".join(parts)[:max_size].rstrip("-"))
    return joined.filter(lambda name: IDENTIFIER.fullmatch(name) is not None)


def rotation_ids() -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=8, max_size=8)


def any_text(max_size: int = 80) -> st.SearchStrategy[str]:
    """Every character that UTF-8 can carry, NUL included; and what others read a meaning into."""
    pieces = st.sampled_from(["'", '"', '""', "\\", "%s", "$$", ":x", "--", "/*", "\n", "\0", "{0}", "ü", "\\999"])
    return st.lists(pieces | st.characters(), max_size=max_size).map("".join)


def any_json(max_leaves: int = 8) -> st.SearchStrategy[Any]:
    """Every value that Python reads from JSON, numbers without bounds included."""
    numbers = st.integers() | st.just(10**400) | st.floats()
    leaves = st.none() | st.booleans() | numbers | any_text(8)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text(4), inner, max_size=4),
        max_leaves=max_leaves,
    )
