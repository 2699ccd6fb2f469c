"""RDS for Oracle, Standard Edition 2, whose servers are PostgreSQL's here."""

from sandbox.demo.dialects.foreign import Foreign
from sandbox.demo.dialects.postgres import Postgres


class Oracle(Foreign):
    engine = "oracle-se2"
    port = 1521
    # The first is its SID.
    databases = ("ORCL", Postgres.databases[1])


DIALECT = Oracle()
