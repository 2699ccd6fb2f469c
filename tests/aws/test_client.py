"""A wrong translation turns a throttle into a rollback, or retries a denial until the budget is spent."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError, ReadTimeoutError

from lambdas.rotation.aws.client import calls, client
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable, NameTaken


def answered(code: str, status: int = 400) -> ClientError:
    error = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(error, "ModifyDBInstance")


@pytest.mark.parametrize(
    "error",
    [
        answered("Throttling"),
        answered("ThrottlingException"),
        answered("RequestLimitExceeded"),
        answered("InternalFailure", 500),
        answered("Whatever", 503),
        EndpointConnectionError(endpoint_url="https://rds"),
        ReadTimeoutError(endpoint_url="https://rds"),
    ],
)
def test_what_may_pass_is_retryable(error: Exception) -> None:
    with pytest.raises(AwsUnavailable), calls("rds:ModifyDBInstance"):
        raise error


@pytest.mark.parametrize("code", ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"])
def test_a_denial_names_the_call(code: str) -> None:
    with pytest.raises(AccessRefused, match="rds:ModifyDBInstance"), calls("rds"):
        raise answered(code)


def test_a_refusal_carries_awss_code_without_its_random_suffix() -> None:
    with pytest.raises(AwsRefused, match="rds:ModifyDBInstance: DBInstanceNotFound: why") as refused, calls("rds"):
        raise answered("DBInstanceNotFoundFault", 404)

    assert refused.value.code == "DBInstanceNotFound"


def test_a_wrong_parameter_is_not_retried() -> None:
    with pytest.raises(AwsRefused), calls("rds"):
        raise ParamValidationError(report="Unknown parameter")


def test_our_own_errors_pass_through() -> None:
    with pytest.raises(NameTaken), calls("rds"):
        raise NameTaken("orders")


def test_clients_give_up_before_the_function_does() -> None:
    config = client("rds").meta.config

    assert (5, 10, 3) == (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"])
    assert client("rds") is client("rds")
