"""The filters of Describe calls."""

from collections.abc import Mapping

from sandbox.rds.errors import invalid_value
from sandbox.rds.operations import Params


def passes(params: Params, facts: Mapping[str, list[str]]) -> bool:
    """Whether a resource passes a request's filters; ``facts`` gives its values by filter name.

    Raises:
        InvalidParameterValue: a filter that the call does not have.
    """
    filters = params.get("Filters") or []
    for wanted in filters:
        if wanted["Name"] not in facts:
            raise invalid_value(f"Unrecognized filter name: {wanted['Name']}")
    return all(
        {value.lower() for value in wanted["Values"]} & {fact.lower() for fact in facts[wanted["Name"]]}
        for wanted in filters
    )
