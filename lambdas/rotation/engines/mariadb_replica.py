"""MariaDB, where RDS makes a replica of the running server: the target by read-replica, and green.

It begins with a snapshot that is taken while applications write, and goes on by the binary log. What a recovery does
not bring to where the log stands, and what no snapshot has, is therefore wrong on it, and stays so.
"""

from collections.abc import Iterable, Iterator, Sequence

from lambdas.rotation.engines.mysql import MariadbEngine, Row, Session, tables_apart
from lambdas.rotation.state import Finding


class MariadbReplica(MariadbEngine):
    """`ports.Engine` of a source, or of its target, by a strategy that replicates."""

    def _by_tables(self, sql: Session) -> tuple[Sequence[str], Sequence[Finding]]:
        """A statement that reads a MEMORY table finds nothing in it on the target, and writes that down elsewhere.

        Also where the table is empty now, or was accepted: what it had may be in the log already.
        """
        apart = tables_apart(sql, besides=("InnoDB",))
        reads_memory = any(engine == "MEMORY" for _, engine, _ in apart)
        return ("ROW",) if reads_memory else self.LOG_FORMATS, [*_not_recovered(apart)]


def _not_recovered(apart: Iterable[Row]) -> Iterator[Finding]:
    for schema, engine, count in apart:
        if engine != "MEMORY":
            yield Finding(
                name="TablesNotRecovered",
                message=f"{count} table(s) of engine {engine} in {schema}: a snapshot of a running server may lack "
                "rows of theirs, from before the place in the binary log that the replica goes on from",
                advice="ALTER TABLE … ENGINE=InnoDB, or choose snapshot, where nobody writes meanwhile",
            )
