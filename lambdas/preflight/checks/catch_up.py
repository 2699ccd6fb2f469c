"""What keeps a restored copy of an instance from catching up with it (ADR 17). The databases say the rest."""

from collections.abc import Iterator

from lambdas.rotation.engines import CATCHING_UP
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Finding


def engine(source: Instance) -> Iterator[Finding]:
    if source.database.engine not in CATCHING_UP:
        yield Finding(
            name="EngineNotSupported",
            message=f"strategy catch-up does not know the replication of {source.database.engine}",
            advice=f"it knows that of {', '.join(CATCHING_UP)}; by snapshot others are rotated, too",
        )


def warnings(source: Instance) -> Iterator[Finding]:
    identifier = source.database.identifier
    if source.database.engine == "mariadb":
        yield Finding(
            name="LogIsKept",
            message=f"until the cutover, days perhaps, {identifier} keeps its binary log: nothing bounds how much",
            advice="give it storage for what is written in up to four days",
        )
        return
    yield Finding(
        name="SchemaStands",
        message=f"until the cutover, hours perhaps, no table, function or grant of {identifier} may be changed or "
        "made, or the rotation goes back",
        advice="start it when no migration is due, and stop what makes partitions, VACUUM FULL and CLUSTER",
    )
    yield Finding(
        name="RolesAreCopied",
        message=f"roles are those of the snapshot: a password that is changed on {identifier} before the cutover is "
        "the old one on the target",
        advice="change it again on the target, or change none meanwhile",
    )
