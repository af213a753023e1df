package instances

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/demo"
)

// pair starts a database and an application beside each other by hand, from the images that instances run, and waits until the database answers;
// "db" and "app" are the containers, X their prefix.
const pair = `set -e
X=byhand
docker rm -f $X-db $X-app >/dev/null 2>&1 || true; docker network rm $X >/dev/null 2>&1 || true; docker volume rm -f $X-data >/dev/null 2>&1 || true
begun=$(date +%%s.%%N)
docker network create --subnet 10.211.0.0/28 $X >/dev/null
docker run -d --pull never --name $X-db --network $X --network-alias db -v $X-data:/var/lib/mysql -e MARIADB_ROOT_PASSWORD=byhand0root -e MARIADB_DATABASE=dolibarr \
  -e MARIADB_USER=dolibarr -e MARIADB_PASSWORD=byhand0user %[1]s --character-set-server=utf8mb4 --collation-server=utf8mb4_unicode_ci >/dev/null
docker run -d --pull never --name $X-app --network $X -e DOLI_INSTALL_AUTO=0 %[2]s >/dev/null
until docker exec $X-db healthcheck.sh --connect --innodb_initialized >/dev/null 2>&1; do sleep 0.1; done
app() { docker exec -i -u root $X-app "$@"; }
app sh -c 'mkdir -p /var/www/documents && chown 33:33 /var/www/documents && : > /var/www/html/conf/conf.php && chown 33:33 /var/www/html/conf/conf.php && chmod 600 /var/www/html/conf/conf.php'
`

// plainInstall is Dolibarr's own command-line installer, typed.
const plainInstall = `docker exec -u 33 -w /var/www/html/install $X-app sh -c "php step1.php set auto /var/www/html /var/www/documents http://127.0.0.1 '' '' mysqli db dolibarr dolibarr byhand0user 3306 llx_ 0 0 >/dev/null \
  && php step2.php set auto >/dev/null && php step5.php '' '' auto set admin byhand0admin byhand0admin 444 >/dev/null"
`

// rawImport is what the original scripts do: every SQL file by a client process of its own, cleaned with sed, then a user and a conf.php.
const rawImport = `docker exec -i $X-app tar -C /var/www/html/install/mysql -c . | docker exec -i $X-db sh -c 'mkdir -p /tmp/sql && tar -C /tmp/sql -x'
docker exec $X-db sh -c 'cd /tmp/sql; for f in $(ls tables/*.sql | grep -v "\.key\.sql") tables/*.key.sql functions/*.sql data/*.sql; do [ -f "$f" ] || continue
  sed "s/--.*//g" "$f" | mariadb -h127.0.0.1 -udolibarr -pbyhand0user dolibarr >/dev/null 2>&1; done
  mariadb -h127.0.0.1 -udolibarr -pbyhand0user -f dolibarr -e "DELETE FROM llx_const WHERE name = \"MAIN_NOT_INSTALLED\";
    INSERT INTO llx_const (name, value, type, entity) VALUES (\"MAIN_VERSION_LAST_INSTALL\", \"%[3]s\", \"chaine\", 0);
    INSERT INTO llx_user (login, pass_crypted, lastname, admin, statut, entity) VALUES (\"admin\", MD5(\"byhand0admin\"), \"admin\", 1, 1, 0)" >/dev/null 2>&1; true'
app sh -c 'cat > /var/www/html/conf/conf.php' <<'PHP'
<?php
$dolibarr_main_url_root="http://127.0.0.1"; $dolibarr_main_document_root="/var/www/html"; $dolibarr_main_data_root="/var/www/documents";
$dolibarr_main_db_host="db"; $dolibarr_main_db_port="3306"; $dolibarr_main_db_name="dolibarr"; $dolibarr_main_db_prefix="llx_"; $dolibarr_main_db_user="dolibarr";
$dolibarr_main_db_pass="byhand0user"; $dolibarr_main_db_type="mysqli"; $dolibarr_main_db_character_set="utf8"; $dolibarr_main_db_collation="utf8_unicode_ci";
$dolibarr_main_authentication="dolibarr"; $dolibarr_main_prod="1"; $dolibarr_main_instance_unique_id="byhand";
PHP
`

// pageSeen waits for the login page inside the application's container, and prints how long all of it took.
const pageSeen = `for i in $(seq 300); do
  docker exec $X-app php -r '$s = @fsockopen("127.0.0.1", 80) or exit(9); fwrite($s, "GET /index.php HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
exit(preg_match("/@ [0-9.]+<\/title>/", stream_get_contents($s)) ? 0 : 9);' && break; sleep 0.1
  [ $i -lt 300 ] || { docker logs $X-app >&2; exit 1; }
done
echo SECONDS $(echo "$begun $(date +%%s.%%N)" | awk '{print $2 - $1}')
docker rm -f $X-db $X-app >/dev/null; docker network rm $X >/dev/null; docker volume rm -f $X-data >/dev/null
`

// ByHand are the ways without infractl that it is compared with.
type ByHand string

// The two ways: the original scripts', and Dolibarr's command-line installer typed in the same containers.
const (
	Original ByHand = pair + rawImport + pageSeen
	Plain    ByHand = pair + plainInstall + pageSeen
)

// byHandLimit is how long one of these may take: hundreds of client processes, one after the other.
const byHandLimit = 5 * time.Minute

// ByHand makes an instance without infractl on the production host, from empty volumes to the login page inside the host, and returns the
// seconds that it took. No name, proxy or certificate is part of it. It is removed again.
func (f *Fleet) ByHand(ctx context.Context, way ByHand) (float64, error) {
	images, err := f.Lab.VM(demo.Prod).Must(ctx, "docker", "images", "--format", "{{.Repository}}:{{.Tag}}")
	if err != nil {
		return 0, err
	}
	find := func(prefix string) string {
		for line := range strings.Lines(images) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, prefix) {
				return line
			}
		}
		return ""
	}
	db, app := find("infractl/mariadb:"), find("infractl/dolibarr:")
	if db == "" || app == "" {
		return 0, errs.New(errs.Precondition, "the host has no images for it: %s", images)
	}
	const file = "/tmp/byhand.sh"
	script := fmt.Sprintf(string(way)+"# %[1]s %[2]s %[3]s\n", db, app, Version)
	if err := f.Lab.VM(demo.Prod).WriteFile(ctx, file, 0o700, []byte(script)); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, byHandLimit)
	defer cancel()
	out, err := f.Lab.VM(demo.Prod).Must(ctx, "sh", file)
	if err != nil {
		return 0, err
	}
	_, seconds, _ := strings.Cut(strings.TrimSpace(out), "SECONDS ")
	n, err := strconv.ParseFloat(strings.TrimSpace(seconds), 64)
	return n, errs.Wrap("read the time", err)
}
