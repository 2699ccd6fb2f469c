"""Names of hosts, however DNS lets them be spelled. Pure."""

import re


def normalised(name: str) -> str:
    r"""One spelling per name: lower case, no trailing dot, Route 53's octal escapes resolved.

    >>> normalised("DB.Example.com."), normalised("\\052.example.com")
    ('db.example.com', '*.example.com')
    """
    plain = name.lower().removesuffix(".")
    return re.sub(r"\\([0-3][0-7][0-7])", lambda escape: chr(int(escape[1], 8)), plain)


def are_same(one: str, other: str) -> bool:
    """Whether both are one name: an owner may write it in capitals, or with the dot at the end.

    >>> are_same("DB.Example.com.", "db.example.com"), are_same("db.example.com", "db.example.org")
    (True, False)
    """
    return normalised(one) == normalised(other)
