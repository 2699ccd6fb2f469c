"""Whether the source can be kept from everybody by its security groups, where nobody logs in to it."""

from collections.abc import Iterator

from lambdas.rotation.errors import DatabaseUnreachable
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation


def fence(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    plan, database = rotation.planned()
    if source.database.engine.startswith("custom-"):
        yield Finding(
            name="EngineNotSupported",
            message=f"{database.identifier} is of RDS Custom ({source.database.engine}), whose host is its owner's",
            advice="not supported; move its data yourself",
        )
        return
    if source.status != "available":
        return  # said elsewhere; who does not answer now is not asked
    try:
        yield from ports.engine(database, plan).limitations(plan.accept)
    except DatabaseUnreachable as unreachable:
        yield Finding(
            name="DatabaseUnreachable",
            message=str(unreachable),
            advice="look whether its endpoint has an address in the database's network",
        )
