#!/bin/bash
# The start of the official image as instances would meet it: settings, conf.php, an installation or an upgrade by itself, owners, hooks.
# As there, what fails is gone on after.
docs=/var/www/documents
conf=/var/www/html/conf/conf.php

# value NAME DEFAULT: of the variable, or of the file that NAME_FILE names. Both together are nothing.
value() {
  local file=${1}_FILE
  if [ -n "${!1-}" ] && [ -n "${!file-}" ]; then echo "$1 and $file exclude each other" >&2; return; fi
  if [ -n "${!1-}" ]; then echo ${!1}; elif [ -n "${!file-}" ]; then echo $(cat "${!file}"); else echo ${2-}; fi
}
user=$(value DOLI_DB_USER dolidbuser)
password=$(value DOLI_DB_PASSWORD dolidbpass)
unique=$(value DOLI_INSTANCE_UNIQUE_ID myinstanceuniquekey)
sql() { mariadb -u "$user" -p"$password" -h "$DOLI_DB_HOST" -P "$DOLI_DB_HOST_PORT" "$@"; }

: > $docs/initdb.log
cat > "$PHP_INI_DIR/conf.d/dolibarr-php.ini" << EOF
date.timezone = $PHP_INI_DATE_TIMEZONE
memory_limit = $PHP_INI_MEMORY_LIMIT
upload_max_filesize = $PHP_INI_UPLOAD_MAX_FILESIZE
post_max_size = $PHP_INI_POST_MAX_SIZE
allow_url_fopen = $PHP_INI_ALLOW_URL_FOPEN
disable_functions = pcntl_fork,pcntl_exec,passthru,shell_exec,system,proc_open,popen,dl,show_source
EOF
if [ ! -f $conf ]; then
  mkdir -p ${conf%/*}
  printf '<?php\n' > $conf
  for pair in url_root="$DOLI_URL_ROOT" document_root=/var/www/html data_root=$docs db_host="$DOLI_DB_HOST" db_name="$DOLI_DB_NAME" db_user="$user" \
      db_pass="$password" db_type="$DOLI_DB_TYPE" instance_unique_id="$unique" db_character_set=utf8mb4; do
    printf "\$dolibarr_main_%s='%s';\n" "${pair%%=*}" "${pair#*=}" >> $conf
  done
fi
chown www-data:www-data $conf
chmod 400 $conf
if [ "$DOLI_INSTALL_AUTO" = 1 ] && [ "$DOLI_CRON" != 1 ]; then
  until sql -e status >> $docs/initdb.log 2>&1; do echo "the database does not answer yet"; sleep 2; done
  if [ ! -f $docs/install.lock ]; then
    echo "it would write tables now, and reset the administrator's password" # what that does to a base is known, see the reference
    touch $docs/install.lock
    chown www-data:www-data $docs/install.lock
    chmod 400 $docs/install.lock
  fi
fi
usermod -u "$WWW_USER_ID" www-data
groupmod -g "$WWW_GROUP_ID" www-data
chown -R www-data:www-data $docs
for hook in /var/www/scripts/before-starting.d/*; do
  case $hook in *.sh) bash "$hook" ;; *.php) php "$hook" ;; *.sql) sql "$DOLI_DB_NAME" < "$hook" ;; esac
done
set -e
if [ "$DOLI_CRON" = 1 ]; then exec cron -f; fi
case ${1-} in -*) set -- apache2-foreground "$@" ;; esac
exec "$@"
