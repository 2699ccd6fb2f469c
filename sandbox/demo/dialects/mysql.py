"""RDS for MySQL, whose servers are MariaDB's here."""

from sandbox.demo.dialects.mariadb import Mariadb


class Mysql(Mariadb):
    engine = "mysql"
    takes_login = False
    # Its events run unless somebody says that they shall not, and RDS's copy would run them, too.
    settings = {**Mariadb.settings, "event_scheduler": "OFF"}


DIALECT = Mysql()
