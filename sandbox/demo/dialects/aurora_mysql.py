"""Aurora MySQL, whose servers are PostgreSQL's here."""

from sandbox.demo.dialects.foreign import Foreign


class AuroraMysql(Foreign):
    engine = "aurora-mysql"
    port = 3306


DIALECT = AuroraMysql()
