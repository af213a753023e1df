//go:build lab

package instanceimages

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// version is what is installed: the stand-in, or the real one where DOLIBARR_SOURCE_DIR has it.
const version = "19.0.4"

// mostMemory is what database and application of an idle instance may have resident, in MiB.
const mostMemory = 180

// host is the machine that the images run on.
type host struct {
	*testing.T
	ctx context.Context
	vm  *lab.VM
}

func TestImages(t *testing.T) {
	bin := os.Getenv("INFRACTL_BIN")
	if bin == "" {
		t.Fatal("INFRACTL_BIN must name the folder of the built programs; use make e2e-all")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "infractl-images-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	site, err := demo.Boot(ctx, demo.Options{Root: "../../..", Bin: bin, Dir: dir, Name: "instance-images", Bare: true, Out: os.Stderr,
		Customize: func(cfg *lab.Config) {
			cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool { return vm.Name != demo.Prod })
			cfg.VMs[0].NestedDocker = true
		}})
	if site != nil {
		t.Cleanup(func() { _ = site.Down(context.WithoutCancel(ctx)) })
	}
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t, ctx, site.Lab.VM(demo.Prod)}
	begin := time.Now()
	for _, build := range []func(context.Context) (string, error){
		site.Lab.MariadbImage, site.Lab.FrontImage, func(ctx context.Context) (string, error) { return site.Lab.DolibarrImage(ctx, version) },
	} {
		h.load(build)
	}
	t.Logf("images built and loaded in %s", time.Since(begin).Round(time.Second))
	h.layOut()
	t.Run("database", func(t *testing.T) { (&host{t, ctx, h.vm}).database() })
	t.Run("application", func(t *testing.T) { (&host{t, ctx, h.vm}).application() })
	t.Run("front", func(t *testing.T) { (&host{t, ctx, h.vm}).front() })
}

func (h *host) load(build func(context.Context) (string, error)) {
	h.Helper()
	file, err := build(h.ctx)
	if err != nil {
		h.Fatal(err)
	}
	archive, err := os.Open(file)
	if err != nil {
		h.Fatal(err)
	}
	defer archive.Close()
	ctx, cancel := context.WithTimeout(h.ctx, 5*time.Minute)
	defer cancel()
	if r, err := h.vm.ExecIn(ctx, archive, "docker", "load", "-q"); err != nil || r.Code != 0 {
		h.Fatalf("docker load: %v %s", err, r.Stderr)
	}
}

// try runs a command in the machine and returns its exit code and everything it printed.
func (h *host) try(stdin string, argv ...string) (int, string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, 2*time.Minute)
	defer cancel()
	r, err := h.vm.ExecIn(ctx, strings.NewReader(stdin), argv...)
	if err != nil {
		h.Fatal(err)
	}
	return r.Code, r.Stdout + r.Stderr
}

// docker runs a command of the engine that has to succeed.
func (h *host) docker(args ...string) string {
	h.Helper()
	code, out := h.try("", append([]string{"docker"}, args...)...)
	if code != 0 {
		h.Fatalf("docker %s: exit code %d: %s", strings.Join(args, " "), code, out)
	}
	return strings.TrimSpace(out)
}

func secrets() map[string]string {
	return map[string]string{"db-root": "rootSecret1234567890abcd", "db": "dbSecret1234567890abcdef", "admin": "adminSecret1234567890abc",
		"unique-id": "uniqueId1234567890abcdef", "cron-key": "cronKey1234567890abcdefg", "other": "otherSecret1234567890abc"}
}

// layOut writes tool and secrets, and makes the network of one instance, as an agent does.
func (h *host) layOut() {
	h.Helper()
	for name, value := range secrets() {
		if err := h.vm.WriteFile(h.ctx, "/srv/trial/secrets/"+name, 0o444, []byte(value)); err != nil {
			h.Fatal(err)
		}
	}
	tool := dolibarr.Tool()
	names, err := fs.Glob(tool, "*")
	if err != nil {
		h.Fatal(err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(tool, name)
		if err == nil {
			err = h.vm.WriteFile(h.ctx, path.Join("/srv/trial/tool", name), 0o444, data)
		}
		if err != nil {
			h.Fatal(err)
		}
	}
	h.try("", "install", "-d", "-o", "33", "-g", "33", "-m", "0700", "/srv/trial/conf")
	h.docker("network", "create", "--subnet", "10.210.0.0/28", "trial")
}

// databaseArgs are the arguments of a database container as instances have it.
func databaseArgs(more ...string) []string {
	args := []string{"run", "-d", "--name", "db", "--hostname", "db", "--network", "trial", "--network-alias", "db",
		"-v", "/srv/trial/secrets/db-root:/run/secrets/db-root:ro", "-v", "/srv/trial/secrets/db:/run/secrets/db:ro",
		"-e", "MARIADB_ROOT_PASSWORD_FILE=/run/secrets/db-root", "-e", "MARIADB_ROOT_HOST=localhost", "-e", "MARIADB_DATABASE=dolibarr",
		"-e", "MARIADB_USER=dolibarr", "-e", "MARIADB_PASSWORD_FILE=/run/secrets/db", "-e", "MARIADB_MYSQL_LOCALHOST_USER=1",
		"-v", "trial-data:/var/lib/mysql", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER",
		"--cap-add", "SETUID", "--cap-add", "SETGID", "--security-opt", "no-new-privileges"}
	return append(append(args, more...), "infractl/mariadb:10.11")
}

func (h *host) startDatabase(more ...string) {
	h.Helper()
	h.try("", "docker", "rm", "-f", "db") // of a part of the test that failed
	begin := time.Now()
	h.docker(databaseArgs(more...)...)
	for end := begin.Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		code, out := h.try("", "docker", "exec", "db", "healthcheck.sh", "--connect", "--innodb_initialized")
		if code == 0 {
			h.Logf("database healthy after %s", time.Since(begin).Round(10*time.Millisecond))
			return
		}
		if time.Now().After(end) {
			h.Fatalf("the database does not become healthy: %s\n%s", out, h.docker("logs", "db"))
		}
	}
}

// sql runs statements as root inside the container.
func (h *host) sql(text string) string {
	h.Helper()
	code, out := h.try(text, "docker", "exec", "-i", "db", "sh", "-c", `MYSQL_PWD=$(cat /run/secrets/db-root) exec mariadb -uroot -BN`)
	if code != 0 {
		h.Fatalf("%s: %s", text, out)
	}
	return strings.TrimSpace(out)
}

func (h *host) database() {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no root password": {[]string{"-e", "MARIADB_DATABASE=x"}, "no root password is given"},
		"a variable and its file": {[]string{"-e", "MARIADB_ROOT_PASSWORD=x", "-e", "MARIADB_ROOT_PASSWORD_FILE=/run/secrets/x"},
			"both MARIADB_ROOT_PASSWORD and MARIADB_ROOT_PASSWORD_FILE are set"},
		"a file that is not there": {[]string{"-e", "MARIADB_ROOT_PASSWORD_FILE=/run/secrets/x"}, "MARIADB_ROOT_PASSWORD_FILE cannot be read"},
		"a name with a quote":      {[]string{"-e", "MARIADB_ROOT_PASSWORD=x", "-e", "MARIADB_DATABASE=a`; DROP"}, "bad name: MARIADB_DATABASE"},
	} {
		args := append([]string{"docker", "run", "--rm", "--network", "none"}, append(c.args, "infractl/mariadb:10.11")...)
		if code, out := h.try("", args...); code == 0 || !strings.Contains(out, c.want) {
			h.Errorf("%s: exit code %d, %s", name, code, out)
		}
	}
	// A first start that was broken off begins anew.
	h.docker("run", "--rm", "--entrypoint", "sh", "-v", "trial-data:/var/lib/mysql", "infractl/mariadb:10.11", "-c",
		"mkdir -p /var/lib/mysql/.infractl-init/mysql && echo broken > /var/lib/mysql/ibdata1 && chown -R mysql /var/lib/mysql")
	h.startDatabase("-e", "INFRACTL_UNSAFE_IO=1")
	if got := h.sql("SHOW CREATE DATABASE dolibarr"); !strings.Contains(got, "utf8mb4_unicode_ci") {
		h.Errorf("the database: %s", got)
	}
	users := h.sql("SELECT CONCAT(user, '@', host) FROM mysql.global_priv ORDER BY 1")
	if want := "dolibarr@%\nhealthcheck@localhost\nmariadb.sys@localhost\nmysql@localhost\nroot@localhost"; users != want {
		h.Errorf("users:\n%s\nwant\n%s", users, want)
	}
	if grants := h.sql("SHOW GRANTS FOR dolibarr@'%'"); strings.Count(grants, "\n") != 1 || !strings.Contains(grants, "ALL PRIVILEGES ON `dolibarr`.*") {
		h.Errorf("rights of the user: %s", grants)
	}
	if code, out := h.try("SELECT CURRENT_USER()", "docker", "exec", "-i", "-u", "mysql", "db", "mariadb", "-BN"); code != 0 || strings.TrimSpace(out) != "mysql@localhost" {
		h.Errorf("mysql by the socket: %d %s", code, out)
	}
	for _, where := range []string{h.docker("inspect", "db"), h.docker("logs", "db"), h.docker("top", "db", "-eo", "pid,args")} {
		for name, value := range secrets() {
			if strings.Contains(where, value) {
				h.Errorf("the secret %s is to be seen", name)
			}
		}
	}
	h.docker("stop", "-t", "60", "db")
	h.docker("rm", "db")
	// Variables act on an empty folder only.
	h.startDatabase("-e", "MARIADB_DATABASE=another", "-v", "/srv/trial/secrets/other:/run/secrets/other:ro", "-e", "MARIADB_PASSWORD_FILE=/run/secrets/other")
	if got := h.sql("SHOW DATABASES LIKE 'another'"); got != "" {
		h.Error("a variable acted on a folder that was not empty")
	}
	if code, out := h.try("", "docker", "exec", "db", "mariadb", "-udolibarr", "-h127.0.0.1", "-p"+secrets()["db"], "dolibarr", "-e", "SELECT 1"); code != 0 {
		h.Errorf("the first password: %s", out)
	}
	h.docker("rm", "-f", "db")
	h.docker("volume", "rm", "trial-data")
}

// appArgs are the arguments of a container of the application, up to its image.
func appArgs(more ...string) []string {
	args := []string{"run", "--network", "trial", "-v", "trial-documents:/var/www/documents", "-v", "trial-custom:/var/www/html/custom",
		"-v", "/srv/trial/secrets:/run/secrets:ro", "-v", "/srv/trial/tool:" + dolibarr.ToolDir + ":ro", "--cap-drop", "ALL",
		"--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/var/lib/php/sessions:uid=33,mode=0700"}
	return append(append(args, more...), "infractl/dolibarr:"+version)
}

// tool runs a verb in a container of its own.
func (h *host) tool(verb string, input any, more ...string) dolibarr.Answer {
	h.Helper()
	text, err := json.Marshal(input)
	if err != nil {
		h.Fatal(err)
	}
	args := append([]string{"docker"}, appArgs(append(more, "--rm", "-i")...)...)
	code, out := h.try(string(text), append(args, "php", dolibarr.ToolFile, verb)...)
	answer, err := dolibarr.ReadAnswer(strings.NewReader(out), func(s dolibarr.Step) { h.Logf("%s: %s %s", verb, s.Name, s.Duration()) })
	if err != nil || code != 0 {
		h.Fatalf("%s: %v\n%s", verb, err, out)
	}
	return answer
}

func (h *host) application() {
	h.startDatabase("-e", "INFRACTL_UNSAFE_IO=1")
	begin := time.Now()
	answer := h.tool(dolibarr.VerbInstall, dolibarr.InstallInput{URL: "https://acme.example.test", DBHost: "db", DBName: "dolibarr", DBUser: "dolibarr",
		Company: "Acme", Country: "FR", Language: "fr", Timezone: "Europe/Paris", Modules: []string{"societe", "facture"}}, "-v", "/srv/trial/conf:"+dolibarr.Conf)
	h.Logf("installed in %s", time.Since(begin).Round(10*time.Millisecond))
	if answer.BaseVersion != version || !answer.Locked {
		h.Errorf("answer = %+v", answer)
	}
	h.docker("stop", "-t", "60", "db")
	h.docker("rm", "db")
	h.startDatabase()
	begin = time.Now()
	h.docker(slices.Insert(appArgs("-v", "/srv/trial/conf:"+dolibarr.Conf+":ro"), 1, "-d", "--name", "app", "--hostname", "app")...)
	for end := begin.Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		code, out := h.try("", "docker", "exec", "app", "infractl-healthcheck")
		if code == 0 {
			break
		}
		if time.Now().After(end) {
			h.Fatalf("the application does not become healthy: %s\n%s", out, h.docker("logs", "app"))
		}
	}
	h.Logf("application healthy after %s", time.Since(begin).Round(10*time.Millisecond))
	h.pages()
	h.insides()
	h.memory()
	h.jobs()
	h.docker("stop", "-t", "60", "db")
	if code, out := h.try("", "docker", "exec", "app", "infractl-healthcheck"); code == 0 {
		h.Errorf("without a database it is healthy: %s", out)
	}
	begin = time.Now()
	h.docker("stop", "-t", "30", "app")
	h.Logf("application stopped in %s", time.Since(begin).Round(10*time.Millisecond))
	h.docker("rm", "app", "db")
}

// pages asks the application as its front does.
func (h *host) pages() {
	get := func(page string) string {
		return h.docker("exec", "app", "curl", "-s", "-H", "X-Forwarded-Proto: https", "-H", "X-Forwarded-For: 198.51.100.7", "-w", "\n%{http_code}", "http://app"+page) // as from its network, not from itself
	}
	login := get("/index.php")
	if !strings.HasSuffix(login, "\n200") || !regexp.MustCompile(`<title>[^<]* @ `+regexp.QuoteMeta(version)+`</title>`).MatchString(login) {
		h.Errorf("login page: %.300s", login)
	}
	for _, page := range []string{"/install/index.php", "/install/", "/conf/conf.php", "/.git/config", "/install.lock"} {
		if got := get(page); !strings.HasSuffix(got, "\n404") {
			h.Errorf("%s: %.200s", page, got)
		}
	}
	head := h.docker("exec", "app", "curl", "-sI", "-H", "X-Forwarded-Proto: https", "http://127.0.0.1/index.php")
	if !regexp.MustCompile(`(?i)set-cookie: [^\n]*secure`).MatchString(head) || strings.Contains(head, "PHP/") || strings.Contains(head, "Debian") {
		h.Errorf("headers: %s", head)
	}
	if logs := h.docker("logs", "app"); !strings.Contains(logs, "198.51.100.7 ") || strings.Contains(logs, "infractl-healthcheck") {
		h.Errorf("the log has not the visitor's address, or has the health checks:\n%.2000s", logs)
	}
}

// insides looks at users, rights, extensions and what an image must not hold.
func (h *host) insides() {
	if got := h.docker("exec", "app", "id", "-u"); got != "33" {
		h.Errorf("it runs as %s", got)
	}
	if users := h.docker("top", "app", "-eo", "pid,uid"); regexp.MustCompile(`(?m)\s0$`).MatchString(users) {
		h.Errorf("a process of root: %s", users)
	}
	writable := h.docker("run", "--rm", "--network", "none", "infractl/dolibarr:"+version, "sh", "-c",
		"find /var/www /etc /usr -xdev -writable ! -type l ! -path '/var/www/documents*' ! -path '/var/www/html/custom*' ! -path '/var/www/html/conf*' 2>/dev/null | head -5")
	if writable != "" {
		h.Errorf("the application may write %q", writable)
	}
	for _, program := range []string{"gcc", "make", "git", "sudo"} {
		if code, _ := h.try("", "docker", "exec", "app", "sh", "-c", "command -v "+program); code == 0 {
			h.Errorf("%s is in the image", program)
		}
	}
	loaded := strings.Fields(strings.ToLower(h.docker("exec", "app", "php", "-m")))
	for _, extension := range []string{"gd", "intl", "imap", "imagick", "gmp", "bcmath", "xmlrpc", "ldap", "calendar", "zip", "mysqli", "curl", "mbstring", "soap", "xml"} {
		if !slices.Contains(loaded, extension) {
			h.Errorf("the extension %s is missing", extension)
		}
	}
	if got := h.docker("exec", "app", "sh", "-c", "ls /var/www/html/conf; stat -c %a:%u /var/www/html/conf/conf.php"); got != "conf.php\n400:33" {
		h.Errorf("conf: %q", got)
	}
}

// memory adds up what is resident once some pages were asked for and the instance is idle again.
func (h *host) memory() {
	h.docker("exec", "app", "sh", "-c", "for i in $(seq 30); do curl -s -o /dev/null http://127.0.0.1/index.php; done")
	script := `for c in db app; do for p in $(docker top $c -eo pid | tail -n +2); do awk '/^Rss/{r=$2}/^Pss:/{print r, $2}' /proc/$p/smaps_rollup; done; done`
	_, out := h.try("", "sh", "-c", script)
	rss, pss := 0, 0
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) == 2 {
			r, _ := strconv.Atoi(words[0])
			p, _ := strconv.Atoi(words[1])
			rss, pss = rss+r/1024, pss+p/1024
		}
	}
	h.Logf("idle memory of database and application: %d MiB resident, %d MiB with shared pages counted once", rss, pss)
	if pss == 0 || pss > mostMemory {
		h.Errorf("idle memory %d MiB, at most %d wanted:\n%s", pss, mostMemory, out)
	}
}

// jobs runs the scheduled jobs' container.
func (h *host) jobs() {
	h.docker(append(slices.Insert(appArgs("-v", "/srv/trial/conf:"+dolibarr.Conf+":ro"), 1, "-d", "--name", "cron"), "sh", dolibarr.CronFile)...)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if logs := h.docker("logs", "cron"); strings.Contains(logs, `"code":0`) {
			break
		} else if time.Now().After(end) {
			h.Fatalf("the jobs: %s", logs)
		}
	}
	if code, out := h.try("", "docker", "exec", "cron", "infractl-healthcheck"); code != 0 {
		h.Errorf("the jobs' container is not healthy: %s", out)
	}
	h.docker("stop", "-t", "60", "cron")
	if got := h.docker("inspect", "-f", "{{.State.ExitCode}}", "cron"); got != "0" {
		h.Errorf("the jobs' container ended with %s", got)
	}
	h.docker("rm", "cron")
}

func (h *host) front() {
	const config = `{"admin":{"listen":"unix//run/caddy/admin.sock"},"apps":{"http":{"servers":{"front":{"listen":[":80"],"automatic_https":{"disable":true},
"routes":[{"match":[{"path":["/.infractl/health"]}],"handle":[{"handler":"static_response","status_code":%d}]}]}}}}}`
	write := func(code int) {
		if err := h.vm.WriteFile(h.ctx, "/srv/trial/front/caddy.json", 0o444, fmt.Appendf(nil, config, code)); err != nil {
			h.Fatal(err)
		}
	}
	get := func() string {
		return h.docker("exec", "front", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--retry", "20", "--retry-connrefused", "--retry-delay", "0", "http://127.0.0.1/.infractl/health")
	}
	write(200)
	h.docker("run", "-d", "--name", "front", "--network", "trial", "-v", "/srv/trial/front:/etc/caddy:ro", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "infractl/front:1")
	if got := get(); got != "200" {
		h.Errorf("health: %s", got)
	}
	write(204)
	h.docker("exec", "front", "caddy", "reload", "--config", "/etc/caddy/caddy.json", "--address", "unix//run/caddy/admin.sock")
	if got := get(); got != "204" {
		h.Errorf("after the new configuration: %s", got)
	}
	if got := h.docker("exec", "front", "id", "-un"); got != "caddy" {
		h.Errorf("it runs as %s", got)
	}
	h.docker("rm", "-f", "front")
}
