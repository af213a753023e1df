//go:build lab

package instances

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
)

// client makes by plain docker commands what the original scripts make of a client: its network, which the proxy's container joins, its two
// containers from the images that are there, its folder with .env and a link to the compose file of all clients, and an installed Dolibarr.
const client = `set -e
N=%[1]s; X=$N
db=$(docker images --format '{{.Repository}}:{{.Tag}}' | grep '^infractl/mariadb:' | head -1)
app=$(docker images --format '{{.Repository}}:{{.Tag}}' | grep '^infractl/dolibarr:%[2]s$')
mkdir -p /working_dir/clients/$N /working_dir/clients/000_default
echo 'services: {}' > /working_dir/clients/000_default/dolibarr.yml
ln -sf /working_dir/clients/000_default/dolibarr.yml /working_dir/clients/$N/dolibarr.yml
cat > /working_dir/clients/$N/.env <<EOF
NOM_CLIENT=$N
MDP_CLIENT=byhand0user
DOLI_VERSION='19'
DOLI_DB_PASSWORD='byhand0user'
DOLI_ADMIN_LOGIN=admin
DOLI_ADMIN_PASSWORD='byhand0user'
EOF
docker network create ${N}_network --attachable >/dev/null
docker inspect infra_Nginx >/dev/null 2>&1 || docker run -d --pull never --name infra_Nginx --entrypoint sleep $app 100000 >/dev/null
docker network connect ${N}_network infra_Nginx
docker run -d --pull never --name ${N}_mariadb --network ${N}_network -v ${N}_data:/var/lib/mysql --restart always -e MARIADB_ROOT_PASSWORD=root \
  -e MARIADB_DATABASE=$N -e MARIADB_USER=$N -e MARIADB_PASSWORD=byhand0user $db --character-set-server=utf8mb4 --collation-server=utf8mb4_unicode_ci >/dev/null
docker run -d --pull never --name ${N}_dolibarr --network ${N}_network --restart always -e DOLI_INSTALL_AUTO=0 $app >/dev/null
until docker exec ${N}_mariadb healthcheck.sh --connect --innodb_initialized >/dev/null 2>&1; do sleep 0.1; done
until docker exec ${N}_mariadb mariadb -h127.0.0.1 -u$N -pbyhand0user $N -e 'SELECT 1' >/dev/null 2>&1; do sleep 0.1; done
docker exec -u root ${N}_dolibarr sh -c ': > /var/www/html/conf/conf.php && chown 33:33 /var/www/html/conf/conf.php'
docker exec -u 33 -w /var/www/html/install ${N}_dolibarr sh -c "php step1.php set auto /var/www/html /var/www/documents http://${N}_dolibarr '' '' mysqli ${N}_mariadb $N $N byhand0user 3306 llx_ 0 0 >/dev/null \
  && php step2.php set auto >/dev/null && php step5.php '' '' auto set admin byhand0user byhand0user 444 >/dev/null"
docker exec ${N}_mariadb mariadb -uroot -proot $N -e "UPDATE llx_user SET pass_crypted = MD5('byhand0user') WHERE login = 'admin';
  DELETE FROM llx_const WHERE name IN ('MAIN_SECURITY_HASH_ALGO', 'MAIN_SECURITY_SALT')"
`

// original makes a client, and returns what of it must not change: ids, times of start, the .env.
func original(t *testing.T, name string) (sight func() string) {
	t.Helper()
	const file = "/tmp/client.sh"
	if err := fleet.Lab.VM(demo.Prod).WriteFile(t.Context(), file, 0o700, fmt.Appendf(nil, client, name, Version)); err != nil {
		t.Fatal(err)
	}
	if out, code := in(t, demo.Prod, "timeout", "180", "sh", file); code != 0 {
		t.Fatalf("the client by hand: %s", out)
	}
	return func() string {
		t.Helper()
		out, _ := in(t, demo.Prod, "sh", "-c", fmt.Sprintf(`docker inspect -f '{{.Name}} {{.Id}} {{.State.StartedAt}} {{.State.Status}} {{.HostConfig.Memory}}' %[1]s_dolibarr %[1]s_mariadb
docker network inspect -f '{{.Id}} {{.Labels}}' %[1]s_network; sha256sum /working_dir/clients/%[1]s/.env; readlink /working_dir/clients/%[1]s/dolibarr.yml`, name))
		return out
	}
}

func state(t *testing.T, container string) string {
	t.Helper()
	out, _ := in(t, demo.Prod, "docker", "inspect", "-f", "{{.State.Status}}", container)
	return strings.TrimSpace(out)
}

func TestWhatTheScriptsMadeIsAdopted(t *testing.T) {
	volumes, _ := in(t, demo.Prod, "sh", "-c", "docker volume ls -q | sort")
	sight := original(t, "dupont")
	before := sight()
	preview := infractl(t, 0, "instance", "import", demo.Prod)
	for _, want := range []string{"dupont", "ready", "none is made, changed or restarted", "remove or rename that one by hand", "nothing was changed"} {
		if !strings.Contains(preview, want) {
			t.Errorf("the preview says nothing of %q:\n%s", want, preview)
		}
	}
	if strings.Contains(preview, "byhand0") {
		t.Error("the preview shows a password")
	}
	begun := time.Now()
	out := infractl(t, 0, "instance", "import", demo.Prod, "dupont", "--yes")
	if _, err := fleet.WaitLogin(t.Context(), "dupont", pageLimit); err != nil {
		t.Fatal(err)
	}
	t.Logf("import to its login page on the internet: %.1f s\n%s", time.Since(begun).Seconds(), lastLines(out, 12))
	if after := sight(); after != before {
		t.Errorf("the adoption changed something:\n%s\nbecame\n%s", before, after)
	}
	if i := show(t, "dupont"); i.State != "INSTANCE_STATE_ACTIVE" || i.Version != Version || i.URL != URL("dupont") || i.Problem != "" {
		t.Errorf("instance show: %+v", i)
	}
	if err := fleet.LogIn(t.Context(), "dupont", "byhand0user"); err != nil {
		t.Errorf("its customer's login: %v", err)
	}
	if out := infractl(t, 0, "instance", "audit"); !strings.Contains(out, "records and reality agree") {
		t.Errorf("audit: %s", out)
	}
	wellOff(t)

	t.Run("suspend and resume", func(t *testing.T) {
		infractl(t, 0, "instance", "suspend", "dupont", "--yes")
		if _, err := fleet.WaitPage(t.Context(), URL("dupont"), pageLimit, suspended); err != nil {
			t.Error(err)
		}
		if app, db := state(t, "dupont_dolibarr"), state(t, "dupont_mariadb"); app != "exited" || db != "exited" {
			t.Errorf("suspended, and %s, %s", app, db)
		}
		infractl(t, 0, "instance", "audit")
		infractl(t, 0, "instance", "resume", "dupont")
		if _, err := fleet.WaitLogin(t.Context(), "dupont", pageLimit); err != nil {
			t.Error(err)
		}
	})
	t.Run("what dies comes back", func(t *testing.T) {
		for _, container := range []string{"dupont_dolibarr", "dupont_mariadb"} {
			if out, code := in(t, demo.Prod, "docker", "kill", container); code != 0 {
				t.Fatal(out)
			}
			if _, err := fleet.WaitLogin(t.Context(), "dupont", 90*time.Second); err != nil {
				t.Errorf("after the death of %s: %v", container, err)
			}
		}
	})
	t.Run("password, limits, logs and commands", func(t *testing.T) {
		file := fleet.dir + "/dupont.password"
		infractl(t, 0, "instance", "password", "dupont", "--password-file", file, "--yes")
		if err := fleet.LogIn(t.Context(), "dupont", strings.TrimSpace(readFile(t, file))); err != nil {
			t.Errorf("the new password: %v", err)
		}
		if out, _ := in(t, demo.Prod, "docker", "exec", "dupont_dolibarr", "sh", "-c", "ls -A /dev/shm /tmp | grep infractl"); out != "" {
			t.Errorf("the tool left %s", out)
		}
		if !strings.HasSuffix(strings.TrimSpace(strings.Split(sight(), "\n")[0]), " 0") {
			t.Error("it has a limit that nobody set")
		}
		infractl(t, 0, "instance", "limits", "dupont", "--memory", "640M")
		if first := strings.TrimSpace(strings.Split(sight(), "\n")[0]); strings.HasSuffix(first, " 0") {
			t.Errorf("no limit: %s", first)
		}
		if out := infractl(t, 0, "instance", "exec", "dupont", "-n", "--", "hostname"); strings.TrimSpace(out) == "" {
			t.Error("a command says nothing")
		}
		infractl(t, 0, "instance", "logs", "dupont", "db", "--tail", "3")
		if out := infractl(t, 1, "instance", "rename", "dupont", "durand", "--yes"); !strings.Contains(out, "adopted") {
			t.Errorf("renamed: %s", out)
		}
	})
	t.Run("what is gone is told", func(t *testing.T) {
		if out, code := in(t, demo.Prod, "sh", "-c", "docker rename dupont_mariadb elsewhere && docker stop elsewhere"); code != 0 {
			t.Fatal(out)
		}
		if out := infractl(t, 4, "instance", "audit"); !strings.Contains(out, "dupont_mariadb") {
			t.Errorf("audit: %s", out)
		}
		out := infractl(t, 12, "instance", "restart", "dupont", "--yes")
		if !strings.Contains(out, "dupont_mariadb is gone") || !strings.Contains(out, "docker compose -f /working_dir/clients/dupont/dolibarr.yml up -d") {
			t.Errorf("restart: %s", out)
		}
		if out, code := in(t, demo.Prod, "sh", "-c", "docker rename elsewhere dupont_mariadb && docker start dupont_mariadb"); code != 0 {
			t.Fatal(out)
		}
		infractl(t, 0, "instance", "restart", "dupont", "--yes")
		wellOff(t)
	})
	t.Run("purge leaves nothing", func(t *testing.T) {
		infractl(t, 0, "instance", "delete", "dupont", "--yes")
		out := infractl(t, 0, "instance", "purge", "dupont", "--early", "--yes")
		for _, want := range []string{"CERTIFICATE OF DESTRUCTION", "container dupont_dolibarr", "container dupont_mariadb", "network dupont_network", "volume dupont_data", "folder /working_dir/clients/dupont"} {
			if !strings.Contains(out, want) {
				t.Errorf("the certificate says nothing of %s:\n%s", want, out)
			}
		}
		gone(t, "dupont", "")
		if left, _ := in(t, demo.Prod, "sh", "-c", "docker ps -a --format '{{.Names}}'; docker network ls --format '{{.Name}}'; ls /working_dir/clients"); strings.Contains(left, "dupont") {
			t.Errorf("left: %s", left)
		}
		in(t, demo.Prod, "docker", "rm", "-fv", "infra_Nginx")
		if now, _ := in(t, demo.Prod, "sh", "-c", "docker volume ls -q | sort"); now != volumes {
			t.Errorf("volumes %s, before it was made %s", now, volumes)
		}
		infractl(t, 0, "instance", "audit")
		wellOff(t)
	})
}

func TestAnAdoptedOneIsLetGo(t *testing.T) {
	sight := original(t, "martin")
	before := sight()
	defer in(t, demo.Prod, "sh", "-c", "docker rm -fv martin_dolibarr martin_mariadb infra_Nginx; docker network rm martin_network; docker volume rm martin_data; rm -rf /working_dir")
	infractl(t, 0, "instance", "import", demo.Prod, "martin", "--yes")
	infractl(t, 0, "instance", "delete", "martin", "--disown", "--yes")
	if after := sight(); after != before {
		t.Errorf("adopted and let go:\n%s\nbecame\n%s", before, after)
	}
	if page, err := fleet.browse(t.Context(), URL("martin")); err != nil || page.Code == 200 {
		t.Errorf("it is still served: %d, %v", page.Code, err)
	}
	wellOff(t)
}
