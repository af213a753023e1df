#!/bin/bash
# The start of the official image of MariaDB, as far as an instance's database meets it: as root it reads files and gives away folders, then
# it begins again as mysql, whose first start makes a data folder with a server that has no network.
set -eo pipefail
data=/var/lib/mysql
socket=/run/mysqld/mysqld.sock
say() { echo "[Entrypoint]: $*"; }
fail() { echo "[ERROR] [Entrypoint]: $*" >&2; exit 1; }

# setting NAME DEFAULT: MARIADB_NAME, from itself, from its file or from the same with MYSQL_.
setting() {
  local name prefix file
  for prefix in MYSQL MARIADB; do
    name=${prefix}_$1; file=${name}_FILE
    if [ -n "${!name-}" ] && [ -n "${!file-}" ]; then fail "$name and $file exclude each other"; fi
    if [ -n "${!file-}" ]; then export "$name"="$(< "${!file}")"; fi
    unset "$file"
  done
  local mysql=MYSQL_$1 maria=MARIADB_$1
  export "$maria"="${!maria:-${!mysql:-${2-}}}"
}
client() { mariadb --protocol=socket -uroot -hlocalhost --socket="$socket" "$@"; }

health_users() {
  local password host
  password=$(tr -dc 'A-Za-z0-9!%&()*+,./:;<>?@[]^_{|}~-' < /dev/urandom | head -c 32 || true)
  for host in 127.0.0.1 ::1 localhost; do
    echo "CREATE USER IF NOT EXISTS healthcheck@'$host' IDENTIFIED BY '$password';"
    echo "GRANT USAGE ON *.* TO healthcheck@'$host';"
  done
  (umask 0077; printf '[mariadb-client]\nport=3306\nsocket=%s\nuser=healthcheck\npassword=%s\n\n' "$socket" "$password" > $data/.my-healthcheck.cnf)
}

statements() {
  echo "DROP USER IF EXISTS root@'127.0.0.1', root@'::1', root@'$(hostname)';"
  echo "SET PASSWORD FOR root@localhost = PASSWORD('$MARIADB_ROOT_PASSWORD');"
  if [ "$MARIADB_ROOT_HOST" != localhost ]; then
    echo "CREATE USER root@'$MARIADB_ROOT_HOST' IDENTIFIED BY '$MARIADB_ROOT_PASSWORD';"
    echo "GRANT ALL ON *.* TO root@'$MARIADB_ROOT_HOST' WITH GRANT OPTION;"
  fi
  if [ -n "${MARIADB_MYSQL_LOCALHOST_USER-}" ]; then
    echo "CREATE USER mysql@localhost IDENTIFIED VIA unix_socket;"
    [ -z "${MARIADB_MYSQL_LOCALHOST_GRANTS-}" ] || echo "GRANT $MARIADB_MYSQL_LOCALHOST_GRANTS ON *.* TO mysql@localhost;"
  fi
  health_users
  [ -z "$MARIADB_DATABASE" ] || echo "CREATE DATABASE IF NOT EXISTS \`$MARIADB_DATABASE\`;"
  if [ -n "$MARIADB_USER" ] && [ -n "$MARIADB_PASSWORD" ]; then
    echo "CREATE USER '$MARIADB_USER'@'$MARIADB_USER_HOST' IDENTIFIED BY '$MARIADB_PASSWORD';"
    [ -z "$MARIADB_DATABASE" ] || echo "GRANT ALL ON \`${MARIADB_DATABASE//_/\\_}\`.* TO '$MARIADB_USER'@'$MARIADB_USER_HOST';"
  fi
}

first_start() {
  [ -n "$MARIADB_ROOT_PASSWORD" ] || fail "a first start needs a password of root"
  say "making the data folder"
  mariadb-install-db --datadir=$data --rpm --auth-root-authentication-method=normal "${@:2}" --skip-test-db --skip-log-bin >/dev/null
  "$@" --skip-networking --socket="$socket" &
  local server=$! i
  for i in {30..0}; do
    if MYSQL_PWD='' client --database=mysql <<< 'SELECT 1' &> /dev/null; then break; fi
    sleep 1
  done
  [ "$i" != 0 ] || fail "the server of the first start does not answer"
  if [ -z "${MARIADB_INITDB_SKIP_TZINFO-}" ]; then mariadb-tzinfo-to-sql --skip-write-binlog /usr/share/zoneinfo 2>/dev/null | client --database=mysql; fi
  statements | client --database=mysql --binary-mode
  for file in /docker-entrypoint-initdb.d/*.sql; do
    if [ -f "$file" ]; then MYSQL_PWD=$MARIADB_ROOT_PASSWORD client ${MARIADB_DATABASE:+--database="$MARIADB_DATABASE"} < "$file"; fi
  done
  kill $server
  wait $server
  say "the first start is done"
}

if [ "${1:0:1}" = - ]; then set -- mariadbd "$@"; fi
if [ "${1-}" != mariadbd ]; then exec "$@"; fi
"$@" --verbose --help > /dev/null 2>&1 || fail "mariadbd refuses its options"
setting ROOT_HOST %
setting USER_HOST %
for name in DATABASE USER PASSWORD ROOT_PASSWORD; do setting $name; done
if [ "$(id -u)" = 0 ]; then
  find $data ! -user mysql -exec chown mysql: '{}' +
  find ${socket%/*} -maxdepth 0 ! -user mysql -exec chown mysql: '{}' +
  say "going on as mysql"
  exec setpriv --reuid=mysql --regid=mysql --init-groups "$0" "$@"
fi
if [ ! -d $data/mysql ]; then
  first_start "$@"
elif [ ! -f $data/.my-healthcheck.cnf ]; then
  say "without MARIADB_AUTO_UPGRADE nobody makes the users of the health check"
fi
unset MARIADB_ROOT_PASSWORD MYSQL_ROOT_PASSWORD MARIADB_PASSWORD MYSQL_PASSWORD
exec "$@"
