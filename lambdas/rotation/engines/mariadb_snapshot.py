"""MariaDB, where the target is restored from a snapshot of the fenced source: nothing replicates.

So the target has everything if it has the marker, the last commit of all. What its GTIDs say is less: whether RDS
restores the binary log is documented nowhere, and what the target has written itself has numbers of the same kind.
"""

from lambdas.rotation.engines.mysql import MariadbEngine, gtids
from lambdas.rotation.state import Position


class MariadbSnapshot(MariadbEngine):
    """`ports.Engine` of a source, or of what was restored from it."""

    REPLAYED = "SELECT @@global.gtid_binlog_pos"

    def has_replayed(self, position: Position) -> bool:
        """Unless its binary log is the source's, and ends before. Where it has none of it only the marker tells."""
        with self._control_session() as sql:
            there = gtids(sql.value("SELECT @@global.gtid_binlog_state"))
        ends = {(domain, server): number for domain, server, number in there}
        return all(ends.get((domain, server), number) >= number for domain, server, number in gtids(position))
