package dolibarr

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// testImages has all images that the engine has.
type testImages struct{ e *testEngine }

func (i testImages) Stage(ctx context.Context, image *v1.StackImage) error {
	_, err := i.e.ImageID(ctx, image.GetUse())
	return err
}

func (i testImages) Pin(ctx context.Context, image *v1.StackImage) (string, error) {
	return i.e.ImageID(ctx, image.GetUse())
}

// testFetcher gives each secret a value of its own.
type testFetcher struct{}

func (testFetcher) Secrets(_ context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error) {
	var out []*v1.SecretValue
	for _, r := range refs {
		name := r.GetName()[strings.LastIndex(r.GetName(), "/")+1:]
		out = append(out, &v1.SecretValue{Name: r.GetName(), Version: r.GetVersion(), Value: []byte("VALUEOF" + strings.ReplaceAll(name, "-", "") + "0" + r.GetVersion())})
	}
	return out, nil
}

// taskRig is a provider on a host of its own.
type taskRig struct {
	*Provider
	t      testing.TB
	engine *testEngine
	root   string
}

// folder is in memory where there is such a place: each write is synced.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newTaskRig(t testing.TB) *taskRig {
	t.Helper()
	root := folder(t)
	e := newTestEngine(root)
	h := host.New(host.Config{Root: root})
	return &taskRig{t: t, engine: e, root: root, Provider: New(Config{FrontWait: 500 * time.Millisecond, ConfWait: time.Millisecond, Host: h, Engine: e, Images: testImages{e}, Fetcher: testFetcher{}, Transport: e})}
}

// restarted is what a new process of the agent makes of the same host.
func (r *taskRig) restarted() {
	r.Provider = New(Config{FrontWait: 500 * time.Millisecond, ConfWait: time.Millisecond, Host: host.New(host.Config{Root: r.root}), Engine: r.engine, Images: testImages{r.engine}, Fetcher: testFetcher{}, Transport: r.engine})
}

func testInstance(id, name string) *v1.InstanceSpec {
	inst := &v1.InstanceSpec{Name: name, Id: id, Mode: v1.InstanceMode_INSTANCE_MODE_CLOSED, Version: "19.0.4", Subnet: "10.210.0.16/28",
		AppImage: &v1.StackImage{Use: "infractl/dolibarr:19.0.4"}, DbImage: &v1.StackImage{Use: "infractl/mariadb:10.11"},
		Domains: []string{name + ".example.test"}, Timezone: "Europe/Paris", Language: "fr", AdminLogin: "admin",
		Limits: &v1.InstanceLimits{MemoryBytes: 512 << 20, MilliCpus: 1000, Pids: 256}}
	for _, s := range []string{"admin", "cron-key", "db", "db-root", "unique-id"} {
		inst.Secrets = append(inst.Secrets, &v1.SecretRef{Name: "instance/" + id + "/" + s, Version: "v1"})
	}
	return inst
}

func installTask(inst *v1.InstanceSpec, warm bool) *v1.InstanceTask {
	return &v1.InstanceTask{Instance: inst, Action: &v1.InstanceTask_Install{Install: &v1.InstallInstance{FromTemplate: warm, Company: "Acme SARL",
		Country: "FR", Modules: []string{"Societe"}}}}
}

func templateTask() *v1.InstanceTask {
	inst := testInstance("", "template")
	inst.Secrets, inst.Subnet, inst.Domains = nil, "", nil
	return &v1.InstanceTask{Instance: inst, Action: &v1.InstanceTask_Template{Template: &v1.TemplateInstance{}}}
}

func purgeTask(inst *v1.InstanceSpec) *v1.InstanceTask {
	return &v1.InstanceTask{Instance: inst, Action: &v1.InstanceTask_Purge{Purge: &v1.PurgeInstance{}}}
}

func (r *taskRig) do(task *v1.InstanceTask) *v1.InstanceResult {
	r.t.Helper()
	out, err := r.Do(r.t.Context(), task)
	if err != nil {
		r.t.Fatalf("%T: %v", task.GetAction(), err)
	}
	return out
}

// exposed lists what anybody sees who may ask the engine, or reads what was said: no secret may stand there.
func (r *taskRig) exposed() string {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	var b bytes.Buffer
	for _, c := range r.engine.containers {
		text, _ := json.Marshal(c.spec) // plain data
		b.Write(text)
	}
	return b.String() + strings.Join(r.engine.inputs, "")
}
