#!/bin/sh
# healthcheck.sh [--connect] [--innodb_initialized]: it answers, and InnoDB works. The user healthcheck logs in by the socket and has no
# password, so that nothing of it is copied with a data folder. In a container that runs as mysql it is mysql@localhost, where it exists.
query="SELECT 1 FROM information_schema.ENGINES WHERE ENGINE = 'InnoDB' AND SUPPORT IN ('YES', 'DEFAULT')"
user=mysql
[ "$(id -u)" != 0 ] || user=healthcheck
set -- mariadb --no-defaults --protocol=socket --socket=/run/mysqld/mysqld.sock --user="$user" --connect-timeout=5 --batch --skip-column-names -e "$query"
if [ "$user" = healthcheck ]; then
  set -- setpriv --reuid=healthcheck --regid=healthcheck --clear-groups "$@"
fi
[ "$("$@")" = 1 ]
