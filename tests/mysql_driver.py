"""PyMySQL in the place of mysqlclient, which would have to be compiled."""

from __future__ import annotations

import pymysql


def install() -> None:
    pymysql.version_info = (2, 2, 4, "final", 0)  # what Django asks of mysqlclient
    pymysql.install_as_MySQLdb()
