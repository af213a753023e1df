package dolibarr

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const acmeID = "aaaaaaaa"

// checkInstalled fails unless an instance is installed whole, and shows nothing that it should not.
func (r *taskRig) checkInstalled(id string) {
	r.t.Helper()
	if have, err := r.readInstalled(id); err != nil || have == nil || have.Version != "19.0.4" {
		r.t.Errorf("mark = %v, %v", have, err)
	}
	if r.host.Exists(r.installingFile(id)) {
		r.t.Error("it is still marked as being installed")
	}
	list, err := r.engine.Containers(r.t.Context(), LabelID+"="+id)
	must(r.t, err)
	if len(list) != 1 || list[0].Name != containerName(id, "db") || list[0].State != "running" {
		r.t.Errorf("containers %v, want the database alone", list)
		return
	}
	c := r.engine.find(list[0].ID)
	if c.Labels[labelWish] == "" {
		r.t.Error("the database's container does not carry its wish: the next apply makes it anew")
	}
	if slices.Contains(c.spec.Env, "INFRACTL_UNSAFE_IO=1") || c.spec.Restart != "unless-stopped" {
		r.t.Errorf("the database stays as it was for the installation: %v", c.spec.Env)
	}
	paths, err := r.volumePaths(r.t.Context(), id)
	must(r.t, err)
	for _, file := range []string{paths["data"] + "/dolibarr/llx_const.ibd", paths["documents"] + "/install.lock", r.confDir(id) + "/conf.php"} {
		if !r.host.Exists(file) {
			r.t.Errorf("%s is missing", file)
		}
	}
	for _, name := range []string{"db", "dbroot", "admin", "uniqueid", "cronkey"} {
		if strings.Contains(r.exposed(), "VALUEOF"+name) {
			r.t.Errorf("the secret %s is seen", name)
		}
	}
}

func stepNames(out *v1.InstanceResult) []string {
	var names []string
	for _, s := range out.GetSteps() {
		names = append(names, s.GetName())
	}
	return names
}

func TestColdInstall(t *testing.T) {
	r := newTaskRig(t)
	out := r.do(installTask(testInstance(acmeID, "acme"), false))
	if out.GetVersion() != "19.0.4" || out.GetFromTemplate() || !slices.Equal(out.GetModules(), []string{"Cron", "Societe"}) {
		t.Errorf("got %v", out)
	}
	for _, want := range []string{"start", "install", "install part", "stop", "sync", "restart"} {
		if !slices.Contains(stepNames(out), want) {
			t.Errorf("no step %q in %v", want, stepNames(out))
		}
	}
	if in := r.engine.inputs; len(in) != 1 || !strings.Contains(in[0], `"url":"https://acme.example.test"`) || !strings.Contains(in[0], "Acme SARL") {
		t.Errorf("input %v", in)
	}
	r.checkInstalled(acmeID)

	again := r.do(installTask(testInstance(acmeID, "acme"), true))
	if len(r.engine.verbs) != 1 || again.GetVersion() != "19.0.4" || again.GetFromTemplate() {
		t.Errorf("asked again: %v, %v", again, r.engine.verbs)
	}
}

func TestWarmInstallReplacesWhatLetsSomebodyIn(t *testing.T) {
	r := newTaskRig(t)
	r.do(templateTask())
	if len(r.engine.containers)+len(r.engine.networks)+len(r.engine.volumes) > 0 || r.host.Exists(r.folder(templateID)) {
		t.Error("what the template was made of is left")
	}
	if r.do(templateTask()); len(r.engine.verbs) != 1 {
		t.Error("a good template is made again")
	}
	inst := testInstance(acmeID, "acme")
	inst.AdminLogin = "boss"
	out := r.do(installTask(inst, true))
	if !out.GetFromTemplate() || !slices.Equal(r.engine.verbs, []string{"install", "configure", "password"}) {
		t.Errorf("got %v, %v", out, r.engine.verbs)
	}
	r.checkInstalled(acmeID)
	if len(r.engine.sqls) != 1 {
		t.Fatalf("statements %q", r.engine.sqls)
	}
	for _, want := range []string{"'root'@'localhost' IDENTIFIED BY 'VALUEOFdbroot0v1'", "'dolibarr'@'%' IDENTIFIED BY 'VALUEOFdb0v1'", "login = 'boss'"} {
		if !strings.Contains(r.engine.sqls[0], want) {
			t.Errorf("no %s in %s", want, r.engine.sqls[0])
		}
	}
	if data, err := r.host.ReadFile(r.confDir(acmeID) + "/conf.php"); err != nil || string(data) != "<?php // configure" {
		t.Errorf("conf.php is %q, %v", data, err)
	}
	paths, err := r.volumePaths(t.Context(), acmeID)
	must(t, err)
	if r.host.Exists(paths["data"] + "/ibtmp1") {
		t.Error("waste of the template was copied")
	}
}

func TestPasswordOfTheHealthCheckIsNotCopied(t *testing.T) {
	r := newTaskRig(t)
	_, err := r.host.WriteFile("/data/"+healthFile, []byte("[mariadb-client]\nport=3306\nuser=healthcheck\npassword=old\n"), 0o600)
	must(t, err)
	inst := testInstance(acmeID, "acme")
	must(t, r.writeSecrets(t.Context(), inst))
	statements, _, err := r.freshPasswords(inst, "/data")
	must(t, err)
	data, err := r.host.ReadFile("/data/" + healthFile)
	must(t, err)
	fresh := strings.TrimSpace(string(data[strings.Index(string(data), "password=")+len("password="):]))
	if fresh == "old" || !strings.Contains(statements, "'healthcheck'@'localhost' IDENTIFIED BY '"+fresh+"'") || !strings.HasPrefix(string(data), "[mariadb-client]\nport") {
		t.Errorf("file %q, statements %q", data, statements)
	}
}

func TestBadTemplatesAreNotUsed(t *testing.T) {
	for name, harm := range map[string]func(r *taskRig, dir string){
		"none":             func(r *taskRig, dir string) { must(r.t, os.RemoveAll(dir)) },
		"a missing file":   func(r *taskRig, dir string) { must(r.t, os.Remove(dir+"/data/dolibarr/llx_const.ibd")) },
		"a changed file":   func(r *taskRig, dir string) { must(r.t, os.WriteFile(dir+"/conf/conf.php", []byte("x"), 0o600)) },
		"a missing folder": func(r *taskRig, dir string) { must(r.t, os.RemoveAll(dir+"/documents")) },
		"no manifest":      func(r *taskRig, dir string) { must(r.t, os.Remove(dir+"/manifest.json")) },
		"a cut manifest":   func(r *taskRig, dir string) { must(r.t, os.WriteFile(dir+"/manifest.json", []byte("{"), 0o600)) },
		"another image":    func(r *taskRig, _ string) { r.engine.images["infractl/mariadb:10.11"] = "sha256:newer" },
		"statements fail": func(r *taskRig, _ string) {
			r.engine.fault = func(op string) error {
				if strings.HasPrefix(op, "run sh with input") {
					return errs.New(errs.Internal, "ERROR 1045 near 'VALUEOFdb0v1'")
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTaskRig(t)
			r.do(templateTask())
			dirs, err := filepath.Glob(r.host.Path(r.templatesDir()) + "/19.0.4-*")
			if err != nil || len(dirs) != 1 {
				t.Fatalf("templates %v, %v", dirs, err)
			}
			harm(r, dirs[0])
			if out := r.do(installTask(testInstance(acmeID, "acme"), true)); out.GetFromTemplate() {
				t.Error("it was used")
			}
			r.engine.fault = func(string) error { return nil }
			r.checkInstalled(acmeID)
		})
	}
}

func TestWhatTheDatabaseSaysHoldsNoSecret(t *testing.T) {
	r := newTaskRig(t)
	r.do(installTask(testInstance(acmeID, "acme"), false))
	r.engine.fault = func(string) error { return errs.New(errs.Internal, "ERROR 1064 near 'VALUEOFdb0v1'").WithHint("look") }
	err := r.sql(t.Context(), containerName(acmeID, "db"), "ALTER USER x IDENTIFIED BY 'VALUEOFdb0v1'", "VALUEOFdb0v1")
	if err == nil || strings.Contains(err.Error(), "VALUEOF") || !strings.Contains(err.Error(), "1064 near '***'") || errs.HintOf(err) != "look" {
		t.Errorf("err = %v", err)
	}
}

func TestTemplatesOfFormerImagesGo(t *testing.T) {
	r := newTaskRig(t)
	r.do(templateTask())
	r.engine.images["infractl/mariadb:10.11"] = "sha256:newer"
	r.do(templateTask())
	if dirs, err := r.host.Glob(r.templatesDir() + "/*"); err != nil || len(dirs) != 1 {
		t.Errorf("templates %v, %v", dirs, err)
	}
}

func TestTemplatesThatNobodyUsesAreListedAndGo(t *testing.T) {
	r := newTaskRig(t)
	r.do(templateTask())
	must(t, r.host.Mkdir(r.templatesDir()+"/22.0.1-0123.part", 0o700))
	listed := func() (out []string) {
		for _, f := range r.do(&v1.InstanceTask{Action: &v1.InstanceTask_Inventory{Inventory: &v1.InventoryInstances{}}}).GetFound() {
			if f.GetKind() == "template" {
				out = append(out, f.GetVersion())
			}
		}
		return out
	}
	if got := listed(); !slices.Equal(got, []string{"19.0.4", "22.0.1"}) {
		t.Errorf("listed: %q", got)
	}
	drop := func(version string) *v1.InstanceTask {
		return &v1.InstanceTask{Instance: &v1.InstanceSpec{Version: version}, Action: &v1.InstanceTask_DropTemplate{DropTemplate: &v1.DropTemplate{}}}
	}
	for range 2 { // again after a crash
		r.do(drop("19.0.4"))
	}
	if got := listed(); !slices.Equal(got, []string{"22.0.1"}) {
		t.Errorf("left: %q", got)
	}
	for _, version := range []string{"", "*", "../x", "19.0"} {
		if _, err := r.Do(t.Context(), drop(version)); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", version, err)
		}
	}
}

// TestInstallGoesOnAfterAFaultAnywhere fails every call and every change of a file once, as a crash would, and asks again with a new process.
func TestInstallGoesOnAfterAFaultAnywhere(t *testing.T) {
	for _, warm := range []bool{false, true} {
		t.Run(fmt.Sprintf("warm %t", warm), func(t *testing.T) {
			points := 0
			for n := 1; ; n++ {
				r := newTaskRig(t)
				if warm {
					r.do(templateTask())
				}
				count := 0
				fault := func(op string) error {
					if count++; count == n {
						return errs.New(errs.Internal, "fault at %s", op)
					}
					return nil
				}
				r.engine.fault = fault
				r.Provider = New(Config{FrontWait: 500 * time.Millisecond, Host: host.New(host.Config{Root: r.root, Fault: func(op string) error {
					r.engine.mu.Lock()
					defer r.engine.mu.Unlock()
					return fault(op)
				}}), Engine: r.engine, Images: testImages{r.engine}, Fetcher: testFetcher{}, Transport: r.engine})
				_, _ = r.Do(t.Context(), installTask(testInstance(acmeID, "acme"), warm)) // it may fail, or go round the fault
				r.engine.fault = func(string) error { return nil }
				if count < n {
					break
				}
				points++
				r.restarted()
				r.do(installTask(testInstance(acmeID, "acme"), warm))
				r.checkInstalled(acmeID)
			}
			if points < 20 {
				t.Errorf("only %d points", points)
			}
		})
	}
}

func TestDataOfOthersIsNotThrownAway(t *testing.T) {
	for name, file := range map[string]string{"tables": "data/dolibarr/llx_societe.ibd", "documents": "documents/install.lock"} {
		t.Run(name, func(t *testing.T) {
			r := newTaskRig(t)
			inst := testInstance(acmeID, "acme")
			must(t, r.ensureVolumes(t.Context(), inst))
			part, rest, _ := strings.Cut(file, "/")
			paths, err := r.volumePaths(t.Context(), acmeID)
			must(t, err)
			_, err = r.host.WriteFile(paths[part]+"/"+rest, []byte("precious"), 0o600)
			must(t, err)
			if _, err = r.Do(t.Context(), installTask(inst, false)); !errs.Is(err, errs.Precondition) {
				t.Errorf("err = %v", err)
			}
			if !r.host.Exists(paths[part] + "/" + rest) {
				t.Error("it is gone")
			}
		})
	}
}

func TestDatabaseThatHadToBeKilledIsNoInstallation(t *testing.T) {
	r := newTaskRig(t)
	r.engine.dirty = true
	if _, err := r.Do(t.Context(), installTask(testInstance(acmeID, "acme"), false)); err == nil || !strings.Contains(err.Error(), "cleanly") {
		t.Errorf("err = %v", err)
	}
	if have, err := r.readInstalled(acmeID); have != nil || err != nil {
		t.Errorf("mark %v, %v", have, err)
	}
}

func TestImageOfAnotherVersionIsRefused(t *testing.T) {
	r := newTaskRig(t)
	r.engine.version = "18.0.1"
	if _, err := r.Do(t.Context(), installTask(testInstance(acmeID, "acme"), false)); !errs.Is(err, errs.Precondition) || errs.HintOf(err) == "" {
		t.Errorf("err = %v", err)
	}
}

func TestAnotherVersionIsNotInstalledOver(t *testing.T) {
	r := newTaskRig(t)
	r.do(installTask(testInstance(acmeID, "acme"), false))
	inst := testInstance(acmeID, "acme")
	inst.Version = "20.0.0"
	if _, err := r.Do(t.Context(), installTask(inst, false)); !errs.Is(err, errs.Conflict) {
		t.Errorf("err = %v", err)
	}
}

func TestTasksThatCannotBe(t *testing.T) {
	bad := func(change func(*v1.InstanceSpec)) *v1.InstanceTask {
		inst := testInstance(acmeID, "acme")
		change(inst)
		return installTask(inst, false)
	}
	for name, task := range map[string]*v1.InstanceTask{
		"nothing":         {},
		"no id":           bad(func(i *v1.InstanceSpec) { i.Id = "" }),
		"an id with a /":  bad(func(i *v1.InstanceSpec) { i.Id = "../../etc" }),
		"the template's":  bad(func(i *v1.InstanceSpec) { i.Id = templateID }),
		"no domain":       bad(func(i *v1.InstanceSpec) { i.Domains = nil }),
		"no image":        bad(func(i *v1.InstanceSpec) { i.AppImage = nil }),
		"no version":      bad(func(i *v1.InstanceSpec) { i.Version = "19" }),
		"a strange login": bad(func(i *v1.InstanceSpec) { i.AdminLogin = "x' OR 1" }),
		"no action":       {Instance: testInstance(acmeID, "acme")},
	} {
		r := newTaskRig(t)
		if _, err := r.Do(t.Context(), task); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
		if r.engine.n > 0 {
			t.Errorf("%s: something was made", name)
		}
	}
}

func TestPasswordAndModules(t *testing.T) {
	r := newTaskRig(t)
	inst := testInstance(acmeID, "acme")
	password := &v1.InstanceTask{Instance: inst, Action: &v1.InstanceTask_Password{Password: &v1.PasswordInstance{}}}
	if _, err := r.Do(t.Context(), password); !errs.Is(err, errs.Precondition) {
		t.Errorf("without a database: %v", err)
	}
	r.do(installTask(inst, false))
	for _, s := range inst.Secrets {
		if strings.HasSuffix(s.Name, "/admin") {
			s.Version = "v2"
		}
	}
	r.do(password)
	out := r.do(&v1.InstanceTask{Instance: inst, Action: &v1.InstanceTask_Modules{Modules: &v1.ModulesInstance{Enable: []string{"Facture"}}}})
	if !slices.Equal(out.GetModules(), []string{"Cron", "Societe"}) || !strings.Contains(r.engine.inputs[2], `"enable":["Facture"]`) {
		t.Errorf("got %v, input %v", out, r.engine.inputs)
	}
	if data, err := r.host.ReadFile(r.webSecretsDir(acmeID) + "/admin"); err != nil || string(data) != "VALUEOFadmin0v2" {
		t.Errorf("the tool has %q, %v", data, err)
	}
	r.checkInstalled(acmeID)
}

func TestRefusalOfTheToolKeepsItsHint(t *testing.T) {
	r := newTaskRig(t)
	r.do(installTask(testInstance(acmeID, "acme"), false))
	r.engine.refuse = `{"ok":false,"error":"there is no administrator boss","hint":"active: admin"}`
	_, err := r.Do(t.Context(), &v1.InstanceTask{Instance: testInstance(acmeID, "acme"), Action: &v1.InstanceTask_Password{Password: &v1.PasswordInstance{}}})
	if !errs.Is(err, errs.Precondition) || !strings.HasPrefix(err.Error(), "instance acme: ") || errs.HintOf(err) != "active: admin" {
		t.Errorf("err = %v", err)
	}
}

func TestProbe(t *testing.T) {
	probe := func(inst *v1.InstanceSpec) *v1.InstanceTask {
		return &v1.InstanceTask{Instance: inst, Action: &v1.InstanceTask_Probe{Probe: &v1.ProbeInstance{}}}
	}
	r, spec := frontRig(t)
	inst := testInstance(acmeID, "acme")
	short := func(task *v1.InstanceTask) error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := r.Do(ctx, task)
		return err
	}
	if err := short(probe(inst)); !errs.Is(err, errs.Precondition) {
		t.Errorf("without a front: %v", err)
	}
	must(t, r.frontApply(t.Context(), spec))
	if out := r.do(probe(inst)); out.GetVersion() != "19.0.4" || len(out.GetSteps()) != 1 {
		t.Errorf("got %v", out)
	}
	if err := short(probe(testInstance("cccccccc", "nobody"))); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("of nobody: %v", err)
	}
	r.engine.version = "18.0.1"
	if err := short(probe(inst)); !errs.Is(err, errs.Precondition) {
		t.Errorf("of another version: %v", err)
	}
	r.engine.version = "is locked"
	if err := short(probe(inst)); err == nil || !strings.Contains(err.Error(), "no version") {
		t.Errorf("of another page: %v", err)
	}
}

func TestPurgeLeavesNothingAndOthersAlone(t *testing.T) {
	r := newTaskRig(t)
	acme, beta := testInstance(acmeID, "acme"), testInstance("bbbbbbbb", "beta")
	beta.Subnet = "10.210.0.32/28"
	r.do(installTask(acme, false))
	r.do(installTask(beta, false))
	must(t, r.frontApply(t.Context(), frontSpec(frontInstance("acme", acmeID, "fr", runningMode))))
	out := r.do(purgeTask(acme))
	slices.Sort(out.Removed)
	want := []string{"container infractl-aaaaaaaa-db", "folder " + r.folder(acmeID), "network infractl-aaaaaaaa", "volume infractl-aaaaaaaa-custom",
		"volume infractl-aaaaaaaa-data", "volume infractl-aaaaaaaa-documents"}
	if !slices.Equal(out.Removed, want) {
		t.Errorf("removed %v", out.Removed)
	}
	found := r.do(&v1.InstanceTask{Action: &v1.InstanceTask_Inventory{Inventory: &v1.InventoryInstances{}}})
	for _, f := range found.GetFound() {
		if f.GetId() == acmeID {
			t.Errorf("%s %s is left", f.GetKind(), f.GetName())
		}
	}
	r.checkInstalled("bbbbbbbb")
	if again := r.do(purgeTask(acme)); len(again.Removed) > 0 {
		t.Errorf("purged again: %v", again.Removed)
	}
}

func TestPurgeGoesOnAfterAFaultAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		r := newTaskRig(t)
		r.do(installTask(testInstance(acmeID, "acme"), false))
		count := 0
		r.engine.fault = func(op string) error {
			if count++; count == n {
				return errs.New(errs.Internal, "fault at %s", op)
			}
			return nil
		}
		first, err := r.Do(t.Context(), purgeTask(testInstance(acmeID, "acme")))
		if count < n {
			if n < 5 {
				t.Errorf("only %d points", n)
			}
			return
		}
		if err == nil {
			t.Errorf("fault %d was not said", n)
		}
		r.engine.fault = func(string) error { return nil }
		second := r.do(purgeTask(testInstance(acmeID, "acme")))
		if got := len(first.GetRemoved()) + len(second.GetRemoved()); got != 6 {
			t.Errorf("fault %d: %d things were listed", n, got)
		}
	}
}

func TestApplyBesideATask(t *testing.T) {
	r := newTaskRig(t)
	inst := testInstance(acmeID, "acme")
	spec := &v1.DolibarrSpec{Instances: []*v1.InstanceSpec{inst}}
	r.working.Store(acmeID, true)
	if pl, err := r.Plan(t.Context(), wish{Spec: spec}); err != nil || len(pl.Changes) > 0 {
		t.Errorf("a plan has %v of an instance that a task works on: %v", pl.Changes, err)
	}
	r.working.Delete(acmeID)
	seen, err := r.look(t.Context(), spec)
	must(t, err)
	r.do(installTask(inst, false)) // between an apply's look and its change
	before, err := r.engine.Inspect(t.Context(), containerName(acmeID, "db"))
	must(t, err)
	must(t, r.change(t.Context(), seen.instances[0]))
	if after, err := r.engine.Inspect(t.Context(), containerName(acmeID, "db")); err != nil || after.ID != before.ID {
		t.Errorf("the apply made the database anew, as it had not seen what the task did: %v", err)
	}
	if pl, err := r.Plan(t.Context(), wish{Spec: spec}); err != nil || len(pl.Changes) > 0 {
		t.Errorf("after it a plan has %v: %v", pl.Changes, err)
	}
}

func TestClosedInstanceWithoutInstallationNeedsNoDatabase(t *testing.T) {
	r := newTaskRig(t)
	spec := &v1.DolibarrSpec{Instances: []*v1.InstanceSpec{testInstance(acmeID, "acme")}}
	pl, err := r.Plan(t.Context(), wish{Spec: spec})
	must(t, err)
	must(t, r.Apply(t.Context(), pl))
	if len(r.engine.containers) > 0 || len(r.engine.volumes) != 3 {
		t.Errorf("%d containers, %d volumes", len(r.engine.containers), len(r.engine.volumes))
	}
	must(t, r.Verify(t.Context(), wish{Spec: spec}))
	r.do(installTask(spec.Instances[0], false))
	r.checkInstalled(acmeID)
}
