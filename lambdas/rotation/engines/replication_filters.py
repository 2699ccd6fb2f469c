"""What MariaDB and MySQL are told to leave out of replication. Without a driver: parameter groups say it, too."""

import re

OF_A_REPLICA = (
    "replicate-do-db", "replicate-do-table", "replicate-ignore-db", "replicate-ignore-table", "replicate-wild-do-table",
    "replicate-wild-ignore-table",
)  # fmt: skip
"""As parameter groups call them (RDS User Guide: replication filters with MySQL, and with MariaDB); servers write
underscores."""
OF_A_BINARY_LOG = ("binlog-do-db", "binlog-ignore-db")
"""What does not even get into it: in groups of clusters (Aurora User Guide: replication filters with Aurora MySQL)."""

# What RDS lists in replicate_ignore_table of each of its servers, under no parameter group's name.
_NOT_REPLICATED_BY_RDS = re.compile(r" *(mysql\.(rds_\w+|plugin)|innodb_memcache\.\w+) *")


def leaves_out(name: str, value: str) -> bool:
    """Whether a replica with this setting lacks something of its source's; RDS sets one for tables of its own.

    >>> leaves_out("replicate_ignore_table", "mysql.rds_history,innodb_memcache.cache_policies")
    False
    >>> leaves_out("replicate-ignore-table", "mysql.rds_history,shop.orders"), leaves_out("replicate_do_db", "shop")
    (True, True)
    """
    variable = name.replace("-", "_")
    if variable == "replicate_ignore_table":
        return any(_NOT_REPLICATED_BY_RDS.fullmatch(table) is None for table in value.split(",") if table)
    if variable == "replicate_events_marked_for_skip":
        return value != "REPLICATE"
    return value != "" and any(part in variable for part in ("_do_", "_ignore_", "_rewrite_"))
