//go:build lab

package dolibarr

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// These tests run inside a VM of the lab, on its own engine; package internal/lab/instancetasks builds and starts them there.

type realImages struct{ *docker.Engine }

func (i realImages) Stage(ctx context.Context, image *v1.StackImage) error {
	_, err := i.ImageID(ctx, image.GetUse())
	return err
}

func (i realImages) Pin(ctx context.Context, image *v1.StackImage) (string, error) {
	return i.ImageID(ctx, image.GetUse())
}

func sh(t *testing.T, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// figure prints a measurement for whoever started the test.
func figure(name string, began time.Time, out *v1.InstanceResult) {
	fmt.Printf("FIGURE %s %.3f\n", name, time.Since(began).Seconds())
	for _, s := range out.GetSteps() {
		fmt.Printf("  %-28s %.3f\n", s.GetName(), s.GetTook().AsDuration().Seconds())
	}
}

// address is the machine's first one that is not Docker's.
func address(t *testing.T) string {
	t.Helper()
	for _, text := range strings.Fields(sh(t, "hostname", "-I")) {
		if a, err := netip.ParseAddr(text); err == nil && a.Is4() && !strings.HasPrefix(text, "172.") {
			return text
		}
	}
	t.Fatal("no address")
	return ""
}

func curl(t *testing.T, at, name, path string, more ...string) string {
	t.Helper()
	return sh(t, append([]string{"curl", "-sS", "-m", "10", "-o", "/tmp/page", "-w", "%{http_code}", "-H", "Host: " + name}, append(more, "http://"+at+path)...)...)
}

func TestRealInstances(t *testing.T) {
	e, err := docker.New(docker.Config{})
	must(t, err)
	p := New(Config{Host: host.New(host.Config{}), Engine: e, Images: realImages{e}, Fetcher: testFetcher{}, Dir: t.TempDir() + "/instances"})
	ctx := t.Context()
	do := func(task *v1.InstanceTask) *v1.InstanceResult {
		t.Helper()
		out, err := p.Do(ctx, task)
		if err != nil {
			t.Fatalf("%T: %v", task.GetAction(), err)
		}
		return out
	}
	real := func(id, name, subnet string) *v1.InstanceSpec {
		inst := testInstance(id, name)
		inst.Version, inst.Subnet, inst.Mode, inst.Cron = os.Getenv("INFRACTL_VERSION"), subnet, runningMode, true
		inst.AppImage.Use, inst.DbImage.Use = os.Getenv("INFRACTL_APP_IMAGE"), os.Getenv("INFRACTL_DB_IMAGE")
		return inst
	}
	cold, warm := real("aaaaaaaa", "acme", "10.210.0.16/28"), real("bbbbbbbb", "beta", "10.210.0.32/28")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("sh", "-c", "docker ps -a; docker logs --tail 20 infractl-front; docker logs --tail 20 infractl-aaaaaaaa-app").CombinedOutput()
			t.Logf("%s", out)
		}
		_ = p.frontApply(context.Background(), &v1.DolibarrSpec{})
		for _, id := range []string{"aaaaaaaa", "bbbbbbbb", templateID} {
			_, _ = p.purge(context.Background(), id)
		}
	})

	began := time.Now()
	out := do(installTask(cold, false))
	figure("cold_install_s", began, out)
	began = time.Now()
	tmpl := templateTask()
	tmpl.Instance.Version, tmpl.Instance.AppImage, tmpl.Instance.DbImage = cold.Version, cold.AppImage, cold.DbImage
	out = do(tmpl)
	figure("template_s", began, out)
	fmt.Println(sh(t, "du", "-sh", p.templatesDir()))
	for n := range 3 {
		if n > 0 {
			do(purgeTask(warm))
		}
		began = time.Now()
		out = do(installTask(warm, true))
		figure("warm_install_s", began, out)
		if !out.GetFromTemplate() {
			t.Fatal("the template was not used")
		}
	}

	at := address(t)
	spec := &v1.DolibarrSpec{Instances: []*v1.InstanceSpec{cold, warm}, Front: &v1.FrontSpec{ListenAddresses: []string{at}, Port: 80,
		Image: &v1.StackImage{Use: "infractl/front:1"}}}
	apply := func() {
		t.Helper()
		began := time.Now()
		pl, err := p.Plan(ctx, wish{Spec: spec})
		must(t, err)
		must(t, p.Apply(ctx, pl))
		figure("apply_s", began, nil)
		must(t, p.Verify(ctx, wish{Spec: spec}))
		if pl, err = p.Plan(ctx, wish{Spec: spec}); err != nil || len(pl.Changes) > 0 {
			t.Errorf("after an apply: %v, %v", pl.Changes, err)
		}
	}
	apply()
	for _, inst := range spec.Instances {
		began = time.Now()
		out = do(&v1.InstanceTask{Instance: inst, Action: &v1.InstanceTask_Probe{Probe: &v1.ProbeInstance{}}})
		figure("probe_s", began, out)
	}
	began = time.Now()
	for range 20 {
		_, err := p.Plan(ctx, wish{Spec: spec})
		must(t, err)
	}
	fmt.Printf("FIGURE noop_plan_ms %.1f\n", time.Since(began).Seconds()*1000/20)

	t.Run("paths and names", func(t *testing.T) {
		for path, want := range map[string]string{"/": "200", "/index.php": "200", "/install/": "404", "/Install/index.php": "404", "//install/": "404",
			"/x/../install/": "404", "/%69nstall/": "404", "/conf/conf.php": "404", healthPath: "200"} {
			if got := curl(t, at, "acme.example.test", path, "--path-as-is"); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		if got := curl(t, at, "nobody.example.test", "/"); got != "404" {
			t.Errorf("an unknown name: %s", got)
		}
	})
	t.Run("suspended, under load", func(t *testing.T) {
		bad := make(chan string, 1)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					close(bad)
					return
				default:
				}
				c := exec.Command("curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: acme.example.test", "http://"+at+"/index.php")
				if got, err := c.CombinedOutput(); err != nil || string(got) != "200" {
					select {
					case bad <- fmt.Sprintf("%s %v", got, err):
					default:
					}
				}
			}
		}()
		warm.Mode = v1.InstanceMode_INSTANCE_MODE_SUSPENDED
		apply()
		if got := curl(t, at, "beta.example.test", "/", "-D", "/tmp/headers"); got != "503" || !strings.Contains(sh(t, "cat", "/tmp/headers"), "Retry-After: 3600") ||
			!strings.Contains(sh(t, "cat", "/tmp/page"), "Service suspendu") {
			t.Errorf("suspended: %s", got)
		}
		warm.Mode = v1.InstanceMode_INSTANCE_MODE_CLOSED
		apply()
		if got := curl(t, at, "beta.example.test", "/"); got != "503" || !strings.Contains(sh(t, "cat", "/tmp/page"), "Maintenance") {
			t.Errorf("closed: %s", got)
		}
		warm.Mode = runningMode
		apply()
		close(stop)
		for b := range bad {
			t.Errorf("the other instance answered %s", b)
		}
	})
	t.Run("nothing of the template is left", func(t *testing.T) {
		dirs, err := p.host.Glob(p.templatesDir() + "/*/conf/conf.php")
		if err != nil || len(dirs) != 1 {
			t.Fatal(dirs, err)
		}
		ours, tmpl := sh(t, "cat", p.confFile("bbbbbbbb")), sh(t, "cat", dirs[0])
		for _, line := range strings.Split(tmpl, "\n") {
			if (strings.Contains(line, "pass") || strings.Contains(line, "unique_id") || strings.Contains(line, "url_root ")) && strings.Contains(ours, line) {
				t.Errorf("conf.php has the template's %.60s", line)
			}
		}
		sh(t, "docker", "exec", "infractl-bbbbbbbb-db", "mariadb", "-h127.0.0.1", "-udolibarr", "-pVALUEOFdb0v1", "dolibarr", "-e", "SELECT 1")
		if err := exec.Command("docker", "exec", "-u", "mysql", "infractl-bbbbbbbb-db", "mariadb", "-uroot", "-pVALUEOFdbroot0v1", "-e", "SELECT 1").Run(); err != nil {
			t.Error("root does not get in with its own password")
		}
		theirs, _ := p.host.Glob(p.templatesDir() + "/*/data/" + healthFile) // of the official image, no other one has it
		for _, file := range theirs {
			paths, err := p.volumePaths(ctx, "bbbbbbbb")
			must(t, err)
			mine := paths["data"] + "/" + healthFile
			if same := exec.Command("cmp", "-s", file, mine).Run() == nil; same || sh(t, "stat", "-c", "%a %u", mine) != "600 999" {
				t.Errorf("the password of the health check: the template's %t, %s", same, sh(t, "stat", "-c", "%a %u", mine))
			}
		}
		healthy(t, "bbbbbbbb")
		if got := sh(t, "docker", "inspect", "infractl-bbbbbbbb-db", "infractl-bbbbbbbb-app", "infractl-bbbbbbbb-cron"); strings.Contains(got, "VALUEOF") {
			t.Error("docker inspect shows a secret")
		}
	})
	t.Run("whatever the image, no right and nothing of its own start", func(t *testing.T) { isolated(t, p) })
	if strings.HasPrefix(cold.AppImage.Use, "dolibarr/") {
		t.Run("its own start would have done it", func(t *testing.T) { ownStart(t, cold.AppImage.Use) })
	}
	t.Run("killed and back", func(t *testing.T) {
		for _, part := range []string{partApp, partDB} {
			sh(t, "docker", "kill", containerName("aaaaaaaa", part))
			apply()
			if out := do(&v1.InstanceTask{Instance: cold, Action: &v1.InstanceTask_Probe{Probe: &v1.ProbeInstance{}}}); out.GetVersion() != cold.Version {
				t.Errorf("after the %s was killed: %v", part, out)
			}
		}
		healthy(t, "aaaaaaaa")
	})
	t.Run("the jobs end when they are told to", func(t *testing.T) {
		began := time.Now()
		sh(t, "docker", "stop", "-t", "30", containerName("aaaaaaaa", partCron))
		figure("cron_stop_s", began, nil)
		if code := sh(t, "docker", "inspect", "-f", "{{.State.ExitCode}}", containerName("aaaaaaaa", partCron)); code != "0" {
			t.Errorf("exit code %s", code)
		}
		apply()
	})
	t.Run("password and modules", func(t *testing.T) {
		for _, s := range cold.Secrets {
			if strings.HasSuffix(s.Name, "/admin") {
				s.Version = "v2"
			}
		}
		began := time.Now()
		out := do(&v1.InstanceTask{Instance: cold, Action: &v1.InstanceTask_Password{Password: &v1.PasswordInstance{}}})
		figure("password_s", began, out)
		began = time.Now()
		out = do(&v1.InstanceTask{Instance: cold, Action: &v1.InstanceTask_Modules{Modules: &v1.ModulesInstance{Enable: []string{"Facture"}}}})
		figure("modules_s", began, out)
		if !slices.Contains(out.GetModules(), "Facture") {
			t.Errorf("modules %v", out.GetModules())
		}
	})
	t.Run("purge", func(t *testing.T) {
		spec.Instances = spec.Instances[:1]
		apply()
		began := time.Now()
		out := do(purgeTask(warm))
		figure("purge_s", began, out)
		t.Log(out.GetRemoved())
		if got := sh(t, "docker", "ps", "-aq", "--filter", "label=infractl.id=bbbbbbbb") + sh(t, "docker", "volume", "ls", "-q", "--filter", "label=infractl.id=bbbbbbbb") +
			sh(t, "docker", "network", "ls", "-q", "--filter", "label=infractl.id=bbbbbbbb"); got != "" || p.host.Exists(p.folder("bbbbbbbb")) {
			t.Errorf("left: %s", got)
		}
		began = time.Now()
		inventory := do(&v1.InstanceTask{Action: &v1.InstanceTask_Inventory{Inventory: &v1.InventoryInstances{}}})
		figure("inventory_s", began, inventory)
		if n := len(inventory.GetFound()); n != 9 { // db, app, cron, network, 3 volumes, folder, front
			t.Errorf("%d found: %v", n, inventory.GetFound())
		}
	})
}

// isolated looks at what an instance's containers may do, and at what the start of the official image would have left.
func isolated(t *testing.T, p *Provider) {
	for _, part := range []string{partApp, partCron} {
		name := containerName("aaaaaaaa", part)
		settings := "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} {{.HostConfig.SecurityOpt}}"
		if got := sh(t, "docker", "inspect", "-f", settings, name); got != "33:33 true [ALL] [] [no-new-privileges]" {
			t.Errorf("%s: %s", part, got)
		}
		if got := sh(t, "docker", "exec", name, "grep", "-E", "^Cap(Prm|Bnd)", "/proc/1/status"); strings.Trim(got, "CapPrmBnd:\t\n0") != "" {
			t.Errorf("%s has capabilities: %s", part, got)
		}
		for _, file := range []string{"/var/www/html/index.php", "/var/www/html/conf/conf.php", "/usr/local/bin/x"} {
			if exec.Command("docker", "exec", name, "sh", "-c", "chmod u+w "+file+"; echo >> "+file).Run() == nil {
				t.Errorf("%s may write %s", part, file)
			}
		}
	}
	app := containerName("aaaaaaaa", partApp)
	if users := sh(t, "docker", "top", app, "-eo", "pid,uid,comm"); strings.Contains(users, " 0 apache2") {
		t.Errorf("a process of root: %s", users)
	}
	conf := sh(t, "cat", p.confFile("aaaaaaaa"))
	if !strings.Contains(conf, "https://acme.example.test") || strings.Contains(conf, "myinstanceuniquekey") || strings.Contains(conf, "dolidb") {
		t.Error("conf.php is not ours")
	}
	if left := sh(t, "docker", "exec", app, "sh", "-c", "ls /var/www/documents /usr/local/etc/php/conf.d 2>/dev/null | grep -E 'initdb|dolibarr-php|migration' || true"); left != "" {
		t.Errorf("the image's own start was run: %s", left)
	}
	// PHP of the web server and of the jobs has our settings, in whichever folder the image keeps its own.
	for _, part := range []string{partApp, partCron} {
		got := sh(t, "docker", "exec", containerName("aaaaaaaa", part), "php", "-r",
			`echo ini_get("date.timezone"), " ", ini_get("allow_url_fopen") ? "open" : "closed", " ", function_exists("proc_open") ? "open" : "closed", " ", ini_get("session.save_path");`)
		if got != "Europe/Paris closed closed /var/lib/php/sessions" {
			t.Errorf("%s: %s", part, got)
		}
	}
	if logs := sh(t, "docker", "logs", app); strings.Contains(logs, "error") {
		t.Errorf("the application's log: %.2000s", logs)
	}
	healthy(t, "aaaaaaaa")
}

// ownStart says that the official image, started as it wishes, does what isolated did not find: otherwise that proves nothing.
func ownStart(t *testing.T, image string) {
	id := sh(t, "docker", "run", "-d", "--network", "none", image)
	defer sh(t, "docker", "rm", "-f", "-v", id)
	sh(t, "docker", "exec", id, "sh", "-c", "until grep -q . /var/www/documents/initdb.log; do sleep 0.1; done") // it waits for a database
	if got := sh(t, "docker", "exec", id, "id", "-u"); got != "0" {
		t.Errorf("it runs as %s", got)
	}
	if conf := sh(t, "docker", "exec", id, "cat", "/var/www/html/conf/conf.php"); !strings.Contains(conf, "myinstanceuniquekey") || !strings.Contains(conf, "dolidbpass") {
		t.Errorf("conf.php: %s", conf)
	}
	sh(t, "docker", "exec", "-u", "33", id, "sh", "-c", "chmod u+w /var/www/html/index.php && echo >> /var/www/html/index.php")
}

// healthy asks the health checks as the engine does.
func healthy(t *testing.T, id string) {
	t.Helper()
	for part, check := range map[string][]string{partDB: {"healthcheck.sh", "--connect", "--innodb_initialized"}, partApp: {"sh", "/usr/local/lib/infractl/infractl-healthcheck"}} {
		sh(t, append([]string{"docker", "exec", containerName(id, part)}, check...)...)
	}
}
