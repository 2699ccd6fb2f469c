"""What the stack's configuration lists, by patterns as IAM has them in the functions' permissions."""

from fnmatch import fnmatchcase

from lambdas.rotation.ports import Ports


def is_listed(name: str, under: str, ports: Ports) -> bool:
    """Whether ``under``, one of the stack's defaults, has a pattern for this name; an empty list has none."""
    return any(fnmatchcase(name, pattern) for pattern in ports.settings.defaults.get(under) or ())
