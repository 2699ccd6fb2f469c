"""SDK clients, and the one place where the SDK's errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
)

from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable, RotationError

_CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": 3},
    connect_timeout=5,
    read_timeout=10,
)

_UNAVAILABLE = frozenset(
    {
        "DependencyTimeoutException",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServiceError",
        "InternalServiceErrorException",
        "KMSInternalException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation"})


@cache
def client(service: str, *region: str) -> Any:
    """Of the function's own Region, unless one is named."""
    return boto3.client(service, *region, config=_CONFIG)


@cache
def client_that_asks_once(service: str, *region: str) -> Any:
    """For a call that the SDK must not repeat by itself when its answer is lost: the step looks first, and asks again.

    One that makes something without a name or a token would make a second. One that deletes what permissions know by
    its tags would be denied: what is gone has none.
    """
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.client(service, *region, config=_CONFIG.merge(once))


@cache
def client_in_a_hurry(service: str, *region: str) -> Any:
    """For questions whose answers are worth a few seconds: whoever asks goes on without. One takes 11 s at most."""
    briefly = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=2, read_timeout=3)
    return boto3.client(service, *region, config=_CONFIG.merge(briefly))


@cache
def client_of_a_search(service: str) -> Any:
    """For one of many questions that have little time together: whoever throttles is asked again, 24 s at most."""
    return boto3.client(service, config=_CONFIG.merge(Config(connect_timeout=2, read_timeout=5)))


@cache
def table(name: str) -> Any:
    return boto3.resource("dynamodb", config=_CONFIG).Table(name)


@contextmanager
def calls(call: str) -> Iterator[None]:
    """Translate the SDK's errors of ``service:Operation`` (``service`` alone will do). A decorator, too.

    Raises:
        AwsUnavailable: retryable; throttled, failed inside, or the answer did not arrive: it may have taken effect.
        AccessRefused: terminal; names the call, so that the permission matrix can be compared.
        AwsRefused: terminal; ``code`` is AWS's code without the suffix "Fault", which RDS uses at random.
    """
    try:
        yield
    except RotationError:
        raise
    except ClientError as error:
        raise _translated(call, error) from error
    except (ConnectionError, HTTPClientError, IncompleteReadError, CredentialRetrievalError) as error:
        raise AwsUnavailable(f"{call}: {type(error).__name__}") from error
    except BotoCoreError as error:
        raise AwsRefused(f"{call}: {type(error).__name__}: {error}", type(error).__name__) from error


@contextmanager
def tolerating(*codes: str) -> Iterator[None]:
    """Leave a refusal with one of these codes to the next visit. Around `calls`, which gives refusals their codes."""
    try:
        yield
    except AwsRefused as refused:
        if refused.code not in codes:
            raise


def _translated(call: str, error: ClientError) -> RotationError:
    answer = error.response.get("Error", {})
    code = str(answer.get("Code", "")).removesuffix("Fault")
    message = str(answer.get("Message", ""))
    call = f"{call.partition(':')[0]}:{error.operation_name}"
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _UNAVAILABLE or status >= 500:
        return AwsUnavailable(f"{call}: {code or status}: {message}")
    if code in _DENIED:
        return AccessRefused(f"{call}: {message}")
    return AwsRefused(f"{call}: {code}: {message}", code)


def pages(service: str, operation: str, key: str, *region: str, **arguments: Any) -> list[Any]:
    """Every item under ``key`` of a paginated read, in order; ``operation`` in the SDK's snake case."""
    with calls(service):
        return [item for page in each_page(client(service, *region), operation, key, **arguments) for item in page]


def each_page(aws: Any, operation: str, key: str, **arguments: Any) -> Iterator[list[Any]]:
    """The same page by page, for whoever may have to stop in between; the SDK's errors are its caller's to translate"""
    if aws.can_paginate(operation):
        for page in aws.get_paginator(operation).paginate(**arguments):
            yield page.get(key) or []
        return
    # Some of DMS's reads have pages for which the SDK has no paginator.
    while True:
        page = getattr(aws, operation)(**arguments)
        yield page.get(key) or []
        if not page.get("Marker"):
            return
        arguments["Marker"] = page["Marker"]
