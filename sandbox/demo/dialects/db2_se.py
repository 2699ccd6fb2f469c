"""RDS for Db2, Standard Edition, whose servers are PostgreSQL's here."""

from sandbox.demo.dialects.foreign import Foreign
from sandbox.demo.dialects.postgres import Postgres


class Db2(Foreign):
    engine = "db2-se"
    port = 50000
    databases = ("ORDERS", Postgres.databases[1])


DIALECT = Db2()
