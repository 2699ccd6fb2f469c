"""What a rotation by snapshot costs those who write."""

from collections.abc import Iterator

from lambdas.preflight.checks import login
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation


def downtime(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """RDS takes a snapshot, copies all of it and restores the copy while nobody can write."""
    plan, _ = rotation.planned()
    if "downtime" not in plan.accept:
        yield Finding(
            name="Downtime",
            message=f"strategy snapshot keeps applications out of {source.database.identifier} "
            f"({source.raw.get('AllocatedStorage', 0)} GiB) while RDS copies all of it: for minutes to hours, "
            f"{plan.write_outage_budget_seconds} s at most",
            advice='time it on a copy, set WriteOutageBudgetSeconds, then accept it: "Accept": ["downtime"]',
        )


def warnings(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    yield from login.warnings(rotation, ports)
    yield Finding(
        name="LoadsLazily",
        message=f"what is restored loads its storage while it is used: the target of {source.database.identifier} "
        "answers slowly at first",
        advice="read the tables that matter once after the cutover, or choose read-replica",
    )
