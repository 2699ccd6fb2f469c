"""Logins to PostgreSQL that do not compute a password's proof anew each time: here somebody logs in ten times a second.

RFC 5802 (5.1) lets a client keep what it has computed of a password and a salt; the driver does not. It was a sixth of
all that a rotation computed.
"""

import hashlib
from functools import lru_cache
from typing import Any

import scramp.utils

_computed = lru_cache(maxsize=64)(hashlib.pbkdf2_hmac)


def remember() -> None:
    """From now on, in this process."""

    def remembered(hash_: Any, password: bytes, salt: bytes, iterations: Any) -> bytes:
        return _computed(hash_().name, password, salt, int(iterations))

    scramp.utils.pbkdf2_hmac_hashlib = remembered
