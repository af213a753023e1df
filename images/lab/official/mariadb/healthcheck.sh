#!/bin/bash
# --connect, --innodb_initialized: as the user healthcheck, whose password lies in the data folder. Without that file it is root without a
# password, hence a refusal.
set -eo pipefail
extra=
if [ -f /var/lib/mysql/.my-healthcheck.cnf ]; then extra=--defaults-extra-file=/var/lib/mysql/.my-healthcheck.cnf; fi
ask() { mariadb $extra --protocol socket -B --skip-column-names -e "$1"; }
[ $# -gt 0 ] || { echo "name a check" >&2; exit 1; }
for check; do
  case $check in
    --connect) [ "$(ask 'SELECT @@skip_networking')" = 0 ] || { echo "healthcheck connect failed" >&2; exit 1; } ;;
    --innodb_initialized)
      [ "$(ask "SELECT 1 FROM information_schema.ENGINES WHERE engine = 'innodb' AND support IN ('YES', 'DEFAULT')")" = 1 ] ||
        { echo "healthcheck innodb_initialized failed" >&2; exit 1; } ;;
    *) echo "there is no check $check" >&2; exit 1 ;;
  esac
done
