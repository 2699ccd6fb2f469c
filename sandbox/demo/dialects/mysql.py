"""RDS for MySQL, whose servers are MariaDB's here."""

from sandbox.demo.dialects.mariadb import Mariadb


class Mysql(Mariadb):
    engine = "mysql"


DIALECT = Mysql()
