"""Answers that do not come: whether AWS has done what was asked, nobody hears."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ReadTimeoutError

from lambdas.rotation.aws.client import client, client_that_asks_once


@contextmanager
def losing(service: str, operation: str) -> Iterator[list[str]]:
    """Every answer of this operation gets lost, whichever client asks; yields an entry for each call."""
    asked: list[str] = []

    def lose_the_answer(**_: Any) -> None:
        asked.append(operation)
        raise ReadTimeoutError(endpoint_url=service)

    event, clients = f"before-send.{service}.{operation}", (client(service), client_that_asks_once(service))
    for aws in clients:
        aws.meta.events.register_first(event, lose_the_answer)
    try:
        yield asked
    finally:
        for aws in clients:
            aws.meta.events.unregister(event, lose_the_answer)
