package dolibarr

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	suspendedMode = v1.InstanceMode_INSTANCE_MODE_SUSPENDED
	dupID         = "dddddddd"
)

// adoptedRig is dup, made by the original scripts, beside acme, which is ours.
func adoptedRig(t *testing.T) (r *taskRig, dup, acme *v1.InstanceSpec) {
	t.Helper()
	r = newTaskRig(t)
	r.cfg.Clock = clock.NewFake(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r.foreignClient("dup", "15")
	r.engine.containers["nginx"] = &testContainer{Container: docker.Container{ID: "nginx", Name: "infra_Nginx", State: "running", Networks: []string{"dup_network"}}}
	acme = testInstance(acmeID, "acme")
	acme.Mode, acme.Cron = runningMode, true
	r.placed(acme)
	dup = &v1.InstanceSpec{Name: "dup", Id: dupID, Mode: runningMode, Version: "15", Domains: []string{"dup.example.test"}, Language: "fr", AdminLogin: "InfraS",
		Limits: &v1.InstanceLimits{}, Secrets: []*v1.SecretRef{{Name: "instance/" + dupID + "/admin", Version: "v1"}},
		Adopted: &v1.AdoptedInstance{AppContainer: "dup_dolibarr", DbContainer: "dup_mariadb", Network: "dup_network", Folder: "/working_dir/clients/dup",
			Volumes: []string{"dup_data"}}}
	return r, dup, acme
}

func with(inst *v1.InstanceSpec, change func(*v1.InstanceSpec)) *v1.InstanceSpec {
	inst = proto.CloneOf(inst)
	change(inst)
	return inst
}

func (r *taskRig) states(names ...string) string {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	var out []string
	for _, name := range names {
		if c := r.engine.find(name); c != nil {
			out = append(out, c.State)
		} else {
			out = append(out, "gone")
		}
	}
	return strings.Join(out, " ")
}

// calls notes what changes the engine.
func (r *taskRig) calls() func() []string {
	var list []string
	r.engine.fault = func(op string) error { list = append(list, op); return nil }
	return func() []string { out := list; list = nil; return out }
}

func TestAdoptionChangesNothingButTheFront(t *testing.T) {
	r, dup, acme := adoptedRig(t)
	must(t, r.apply(acme))
	env, err := r.host.ReadFile("/working_dir/clients/dup/.env")
	must(t, err)
	calls := r.calls()
	must(t, r.apply(acme, dup))
	if got := calls(); len(got) != 2 || got[0] != "connect" || !strings.HasPrefix(got[1], "run caddy") {
		t.Errorf("the adoption did %q", got)
	}
	if now, err := r.host.ReadFile("/working_dir/clients/dup/.env"); err != nil || !bytes.Equal(now, env) {
		t.Errorf("its .env changed: %v", err)
	}
	if !slices.Contains(r.front().Networks, "dup_network") || !strings.Contains(r.engine.loaded, `"dup_dolibarr:80"`) {
		t.Errorf("the front is in %q, and has %s", r.front().Networks, r.engine.loaded)
	}
	pl, err := r.Plan(t.Context(), want(acme, dup))
	if err != nil || len(pl.Changes) > 0 {
		t.Errorf("planned %v, %v", pl.Changes, err)
	}
}

func TestAdoptedIsSuspendedAndResumed(t *testing.T) {
	r, dup, acme := adoptedRig(t)
	must(t, r.apply(acme, dup))
	var stops []string
	r.engine.fault = func(op string) error {
		if op == "stop" {
			stops = append(stops, r.engine.find("dup_dolibarr").State+" "+r.engine.find("dup_mariadb").State)
		}
		return nil
	}
	still := with(dup, func(i *v1.InstanceSpec) { i.Mode = suspendedMode })
	must(t, r.apply(acme, still))
	if !slices.Equal(stops, []string{"running running", "exited running"}) {
		t.Errorf("stops began at %q: the application comes first", stops)
	}
	if got := r.states("dup_dolibarr", "dup_mariadb", "infractl-"+acmeID+"-app"); got != "exited exited running" {
		t.Errorf("suspended: %s", got)
	}
	if slices.Contains(r.front().Networks, "dup_network") || !strings.Contains(r.engine.loaded, "dup.example.test") {
		t.Error("the front is still in its network, or does not know its name")
	}
	r.harm("dup_mariadb", func(c *testContainer) { c.State = "running" }) // its compose file says always, and the host was restarted
	if done, err := r.Repair(t.Context()); err != nil || !slices.Equal(done, []string{"instance dup: its container db ran, and is stopped again"}) {
		t.Errorf("repaired %q, %v", done, err)
	}
	must(t, r.apply(acme, dup))
	if got := r.states("dup_dolibarr", "dup_mariadb"); got != "running running" {
		t.Errorf("resumed: %s", got)
	}
	must(t, r.apply(acme)) // it is let go
	if got := r.states("dup_dolibarr", "dup_mariadb"); got != "running running" || r.host.Exists(r.folder(dupID)) {
		t.Errorf("let go: %s", got)
	}
}

func TestAdoptedThatDiesComesBackAndWhatIsGoneIsTold(t *testing.T) {
	r, dup, acme := adoptedRig(t)
	must(t, r.apply(acme, dup))
	r.harm("dup_dolibarr", func(c *testContainer) { c.State = "exited" })
	if done, err := r.Repair(t.Context()); err != nil || len(done) != 1 || r.states("dup_dolibarr") != "running" {
		t.Errorf("done %q, %v", done, err)
	}
	for name, harm := range map[string]func(){
		"container dup_mariadb is gone": func() { delete(r.engine.containers, "dupmariadb") },
		"not in the network": func() {
			r.engine.find("dup_dolibarr").Networks = nil
		},
		"network dup_network is gone": func() { delete(r.engine.networks, "dup_network") },
	} {
		r, dup, acme = adoptedRig(t)
		must(t, r.apply(acme, dup))
		harm()
		if _, err := r.Repair(t.Context()); strings.HasPrefix(name, "container") && (err == nil || !strings.Contains(err.Error(), name)) {
			t.Errorf("%s, repaired: %v", name, err)
		}
		if err := r.Verify(t.Context(), want(acme, dup)); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "docker ") {
			t.Errorf("%s, verified: %v", name, err)
		}
		if err := r.apply(acme, dup); !errs.Is(err, errs.RolledBack) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s, applied: %v", name, err)
		}
		if !r.running("infractl-" + acmeID + "-app") {
			t.Errorf("%s: acme went with it", name)
		}
	}
}

func TestAdoptedGetsTheLimitsThatSomebodySet(t *testing.T) {
	r, dup, acme := adoptedRig(t)
	must(t, r.apply(acme, dup))
	limits := func(name string) (out [3]int64) {
		c := r.engine.find(name).spec
		return [3]int64{c.MemoryBytes / mib, c.MilliCPUs, c.PIDs}
	}
	some := with(dup, func(i *v1.InstanceSpec) { i.Limits.MemoryBytes = 800 * mib })
	must(t, r.apply(acme, some))
	if got, db := limits("dup_dolibarr"), limits("dup_mariadb"); got != [3]int64{500, 0, 0} || db != [3]int64{300, 0, 0} {
		t.Errorf("memory alone: %v, %v", got, db)
	}
	all := with(some, func(i *v1.InstanceSpec) { i.Limits.MilliCpus, i.Limits.Pids = 1000, 200 })
	must(t, r.apply(acme, all))
	if got, db := limits("dup_dolibarr"), limits("dup_mariadb"); got != [3]int64{500, 1000, 200} || db != [3]int64{300, 1000, dbPIDs} {
		t.Errorf("all: %v, %v", got, db)
	}
	// Made anew by its compose file it has none.
	delete(r.engine.containers, "dupdolibarr")
	r.engine.containers["anew"] = &testContainer{Container: docker.Container{ID: "anew", Name: "dup_dolibarr", State: "running", Networks: []string{"dup_network"}}}
	must(t, r.apply(acme, all))
	if got := limits("dup_dolibarr"); got != [3]int64{500, 1000, 200} {
		t.Errorf("made anew: %v", got)
	}
}

func TestPurgeOfAnAdoptedLeavesNothing(t *testing.T) {
	r, dup, acme := adoptedRig(t)
	must(t, r.apply(acme, with(dup, func(i *v1.InstanceSpec) { i.Mode = suspendedMode })))
	must(t, r.apply(acme))
	r.engine.find("dup_dolibarr").Mounts = []docker.Mount{{Host: "/working_dir/clients/dup/www", Target: "/var/www"}, {Host: "/srv/else", Target: "/x"}}
	must(t, os.MkdirAll(r.host.Path("/srv/else"), 0o755))
	before := r.inventoryLines()
	if _, err := r.Do(t.Context(), purgeTask(dup)); !errs.Is(err, errs.Precondition) || !strings.Contains(err.Error(), "/srv/else") {
		t.Errorf("with a folder elsewhere: %v", err)
	}
	if got := r.inventoryLines(); !slices.Equal(got, before) {
		t.Errorf("something went all the same: %q", got)
	}
	must(t, r.host.RemoveAll("/srv/else"))
	// Each part that fails is told of, and the purge goes on with what is left.
	var removed []string
	for n := range 5 {
		calls := 0
		r.engine.fault = func(op string) error {
			if calls++; strings.HasPrefix(op, "remove") && calls > n {
				return errs.New(errs.Internal, "the engine is away")
			}
			return nil
		}
		out, _ := r.Do(t.Context(), purgeTask(dup))
		removed = append(removed, out.GetRemoved()...)
	}
	r.engine.fault = func(string) error { return nil }
	removed = append(removed, r.do(purgeTask(dup)).GetRemoved()...)
	slices.Sort(removed)
	if !slices.Equal(removed, []string{"container dup_dolibarr", "container dup_mariadb", "folder /working_dir/clients/dup", "network dup_network", "volume dup_data"}) {
		t.Errorf("removed %q", removed)
	}
	if got := r.inventoryLines(); slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, "dup") }) {
		t.Errorf("left: %q", got)
	}
	if nginx := r.engine.find("infra_Nginx"); nginx.State != "running" || len(nginx.Networks) > 0 || !r.running("infractl-"+acmeID+"-app") {
		t.Errorf("others: %v", nginx)
	}
}

func TestWishesThatNameOthersPartsAreRefused(t *testing.T) {
	_, dup, _ := adoptedRig(t)
	for name, change := range map[string]func(*v1.AdoptedInstance){
		"a container of ours":  func(a *v1.AdoptedInstance) { a.AppContainer = "infractl-" + acmeID + "-app" },
		"one container":        func(a *v1.AdoptedInstance) { a.DbContainer = a.AppContainer },
		"no network":           func(a *v1.AdoptedInstance) { a.Network = "" },
		"the front's network":  func(a *v1.AdoptedInstance) { a.Network = frontNetwork },
		"a folder of the host": func(a *v1.AdoptedInstance) { a.Folder = "/var/lib/dup" },
		"all folders":          func(a *v1.AdoptedInstance) { a.Folder = "/working_dir/clients/.." },
		"a path as a volume":   func(a *v1.AdoptedInstance) { a.Volumes = []string{"/etc"} },
	} {
		inst := with(dup, func(i *v1.InstanceSpec) { change(i.Adopted) })
		if err := check(&v1.DolibarrSpec{Instances: []*v1.InstanceSpec{inst}}); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
		r := newTaskRig(t)
		if _, err := r.Do(t.Context(), purgeTask(inst)); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s, purged: %v", name, err)
		}
	}
	if err := check(&v1.DolibarrSpec{Instances: []*v1.InstanceSpec{dup}}); err != nil {
		t.Error(err)
	}
}

func TestToolRunsInTheContainerOfAnAdopted(t *testing.T) {
	r, dup, _ := adoptedRig(t)
	out := r.do(&v1.InstanceTask{Instance: dup, Action: &v1.InstanceTask_Password{Password: &v1.PasswordInstance{}}})
	if out.GetVersion() != "19.0.4" || !slices.Equal(r.engine.verbs, []string{"password"}) {
		t.Errorf("%v, verbs %q", out, r.engine.verbs)
	}
	if got := r.engine.inputs[0]; !strings.Contains(got, `"admin_login":"InfraS"`) || strings.Contains(r.exposed(), "VALUEOF") {
		t.Errorf("input %s", got)
	}
	if r.host.Exists(r.folder(dupID)) {
		t.Error("a secret of it may be on the disk")
	}
	r.engine.refuse = `{"ok":false,"error":"its container has no php or no tar","hint":"do it in Dolibarr itself"}`
	_, err := r.Do(t.Context(), &v1.InstanceTask{Instance: dup, Action: &v1.InstanceTask_Modules{Modules: &v1.ModulesInstance{Enable: []string{"Societe"}}}})
	if err == nil || !strings.Contains(err.Error(), "no php") || errs.HintOf(err) == "" {
		t.Errorf("refused: %v", err)
	}
	r.harm("dup_dolibarr", func(c *testContainer) { c.State = "exited" })
	_, err = r.Do(t.Context(), &v1.InstanceTask{Instance: dup, Action: &v1.InstanceTask_Password{Password: &v1.PasswordInstance{}}})
	if !errs.Is(err, errs.Precondition) || !strings.Contains(errs.HintOf(err), "resume") {
		t.Errorf("stopped: %v", err)
	}
	if _, err = r.Do(t.Context(), installTask(dup, false)); !errs.Is(err, errs.Invalid) {
		t.Errorf("installed over it: %v", err)
	}
}

// TestScriptOfTheToolCleansUp runs the script with another program in the tool's place, which says what it sees.
func TestScriptOfTheToolCleansUp(t *testing.T) {
	for name, code := range map[string]string{"the tool succeeds": "0", "the tool fails": "1"} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			see := `<?php $dir = getenv("INFRACTL_SECRETS"); printf("%s %o %s %s %s %d %s", getenv("INFRACTL_HTDOCS"), fileperms("$dir/admin") & 0777,
				file_get_contents("$dir/admin"), $argv[2], stream_get_contents(STDIN), is_readable($argv[1]), dirname($dir)); exit(` + code + `);`
			for file, text := range map[string]string{"see.php": see, "var/www/dup/htdocs/conf/conf.php": "<?php\n", "shm/x": ""} {
				must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755))
				must(t, os.WriteFile(filepath.Join(root, file), []byte(text), 0o644))
			}
			files, err := toolFiles(map[string][]byte{"admin": []byte("hidden")}, map[string]string{"a": "b"})
			must(t, err)
			memory := filepath.Join(root, "shm")
			script := strings.NewReplacer("/var/www", filepath.Join(root, "var/www"), "/dev/shm", memory, `php "$dir`, "php "+root+`/see.php "$dir`).Replace(adoptedScript)
			cmd := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", "dup", "password")
			cmd.Stdin = bytes.NewReader(files)
			out, err := cmd.CombinedOutput()
			if (err != nil) != (code == "1") {
				t.Errorf("%v: %s", err, out)
			}
			if !strings.HasPrefix(string(out), filepath.Join(root, "var/www/dup/htdocs")+` 400 hidden password {"a":"b"} 1 `+memory) {
				t.Errorf("it saw %s", out)
			}
			if left, err := os.ReadDir(memory); err != nil || len(left) != 1 {
				t.Errorf("left in memory: %v, %v", left, err)
			}
		})
	}
}
