"""RDS for SQL Server, Standard Edition, whose servers are PostgreSQL's here."""

from sandbox.demo.dialects.foreign import Foreign
from sandbox.demo.dialects.postgres import Postgres


class SqlServer(Foreign):
    engine = "sqlserver-se"
    port = 1433
    databases = ("orders", Postgres.databases[1])
    # RDS makes none, and refuses a name for one.
    names_database = False


DIALECT = SqlServer()
