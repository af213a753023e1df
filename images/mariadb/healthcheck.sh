#!/bin/sh
# healthcheck.sh [--connect] [--innodb_initialized]: it answers, and InnoDB works. The user healthcheck may log in as mysql by the socket
# and has no password, so nothing of it is copied with a data folder.
query="SELECT 1 FROM information_schema.ENGINES WHERE ENGINE = 'InnoDB' AND SUPPORT IN ('YES', 'DEFAULT')"
set -- mariadb --no-defaults --protocol=socket --socket=/run/mysqld/mysqld.sock --user=healthcheck --connect-timeout=5 --batch --skip-column-names -e "$query"
if [ "$(id -u)" = 0 ]; then
  set -- setpriv --reuid=mysql --regid=mysql --clear-groups "$@"
fi
[ "$("$@")" = 1 ]
