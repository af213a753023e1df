package instance_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/instance"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
	"github.com/infractl/infractl/server/secret"
)

// tester is what testing and rapid have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// host is a machine that does what its spec and its tasks say.
type host struct {
	digest    string
	resources uint64
	spec      *v1.HostSpec
	away      bool
	memory    uint64
	// have are the parts of instances by id; installed the versions, with the secret versions that they were installed with.
	have      map[string]map[string]bool
	installed map[string]string
	names     map[string]string
	subnets   map[string]string
	passwords map[string]string
	foreign   []*v1.FoundInstance
	problem   string
	degraded  []string
	drift     []*v1.Change
	templates []string
	disk      *v1.UsageResult   // what its instances hold
	databases map[string]string // the version of each instance's database password, by id
	warm      map[string]bool
	loadPeak  int
	load      int
}

// world is everything but the server: it outlives it.
type world struct {
	t     tester
	mu    sync.Mutex
	store *rollouttest.Store
	clock *clock.Fake
	key   string
	where *site.Site
	hosts map[string]*host
	tasks map[string]*v1.TaskResult
	image map[string]site.ImageArchive

	// Each thing that the server asks of others is a point. fail makes one fail, crash ends the server there.
	points  int
	log     []string
	fail    func(n int, point string) error
	crash   func(n int, point string) bool
	crashed chan struct{}
	// rollouts are numbered; ended ones say what their nodes came to.
	rollouts   map[string]*v1.Rollout
	delivering sync.Mutex
	// slow delays installations.
	slow chan struct{}
	// sights are how names are served, where that is not as they should be; deaf are the name servers' wrong answers by name. asked counts
	// the names that were asked for.
	sights map[string]*v1.PublicSight
	deaf   map[string]string
	asked  map[string]int
	// published counts how often public records were set.
	published atomic.Int64
	// retracted counts how often public records were removed; registrarAway makes that fail so many times first.
	retracted, registrarAway atomic.Int64
}

const dbImage, appImage, frontImage = "infractl/mariadb:10.11", "infractl/dolibarr:19.0.4", "infractl/front:1"

func exampleSite(t testing.TB) *site.Site {
	t.Helper()
	return loadExample(t, "driver: npm ", "driver: caddy ")
}

// unmanagedSite has a proxy that infractl has no account of.
func unmanagedSite(t testing.TB) *site.Site {
	t.Helper()
	return loadExample(t)
}

func loadExample(t testing.TB, replaced ...string) *site.Site {
	t.Helper()
	read := func(name string) []byte {
		content, err := os.ReadFile(filepath.Join("..", "..", "examples", "projetpro", name))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	content := strings.NewReplacer(replaced...).Replace(string(read("site.yaml")))
	s, findings := site.Load(site.Source{File: "site.yaml", WithoutFiles: true, Content: []byte(content), OverlayFile: "lab.yaml", OverlayContent: read("lab.yaml")})
	if s == nil {
		t.Fatalf("the example is refused: %v", findings)
	}
	return s
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, store: rollouttest.NewStore(), clock: clock.NewFake(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)), where: exampleSite(t),
		hosts: map[string]*host{}, tasks: map[string]*v1.TaskResult{}, rollouts: map[string]*v1.Rollout{}, image: map[string]site.ImageArchive{},
		sights: map[string]*v1.PublicSight{}, deaf: map[string]string{}, asked: map[string]int{}}
	w.key = filepath.Join(t.TempDir(), "store.key")
	for _, image := range []string{dbImage, appImage, frontImage} {
		w.image[image] = site.ImageArchive{Digest: "sha256:" + image, ImageID: "sha256:id-" + image}
	}
	for _, n := range w.where.Nodes {
		w.hosts[n.Name] = &host{digest: "old", memory: 8 << 30, have: map[string]map[string]bool{}, installed: map[string]string{},
			names: map[string]string{}, subnets: map[string]string{}, passwords: map[string]string{}, warm: map[string]bool{}, databases: map[string]string{}}
	}
	return w
}

// Resources implements revision.Source for images.
func (w *world) Resources(_ context.Context, into *site.Resources) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	into.Images = maps.Clone(w.image)
	return nil
}

// hit is a point. It is called without the lock.
func (w *world) hit(ctx context.Context, point string) error {
	w.mu.Lock()
	n := w.points
	w.points++
	w.log = append(w.log, point)
	fail, crash, crashed := w.fail, w.crash, w.crashed
	w.mu.Unlock()
	if crash != nil && crash(n, point) {
		close(crashed)
		<-ctx.Done() // the server is stopped meanwhile
		return ctx.Err()
	}
	if fail != nil {
		return fail(n, point)
	}
	return nil
}

// server is one run of the server over the world.
type server struct {
	*world
	revisions *revision.Revisions
	vault     *secret.Vault
	engine    *operation.Engine
	instances *instance.Instances
	service   *instance.Service
	stop      func()
}

func (w *world) serve() *server {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := hclog.NewNullLogger()
	s := &server{world: w}
	var err error
	s.vault, err = secret.Open(ctx, secret.Config{Store: w.store, Nodes: w, KeyFile: w.key, Clock: w.clock, Log: log})
	if err != nil {
		w.t.Fatalf("vault: %v", err)
	}
	s.instances = instance.New(instance.Config{Store: w.store, Fleet: w, Hub: w, Clock: w.clock, Log: log, Site: "projetpro",
		Sign:     func(text []byte) (string, error) { return string(text) + "signed\n", nil },
		Publish:  func(context.Context) (int, error) { w.published.Add(1); return 1, nil },
		Retract:  func(context.Context) (int, error) { return 0, w.retract() },
		Patience: instance.Patience{Min: time.Millisecond, Max: 2 * time.Millisecond, Away: 3, Delivery: 2}})
	s.revisions = revision.New(revision.Config{Records: w.store, Nodes: w, Clock: w.clock, Sources: []revision.Source{w, s.instances}, AlwaysRead: true,
		Load: func(site.Source) (*site.Site, []*v1.Finding) { return w.where, nil }})
	if n, _ := s.revisions.Current(ctx); n == 0 {
		if _, err := s.revisions.Append(ctx, revision.AppendRequest{Source: &v1.SiteSource{File: "site.yaml", Content: []byte("x")}, Operator: "anna"}); err != nil {
			w.t.Fatalf("append: %v", err)
		}
	}
	s.engine = operation.New(operation.Config{Store: w.store, Hub: w, Kinds: s.instances.Kinds(), Clock: clock.System{}, Log: log, Parallel: 64,
		Lease: 300 * time.Millisecond})
	s.instances.Use(s.revisions, s, faultySecrets{s}, s.engine)
	s.service = instance.NewService(s.instances)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.engine.Run(ctx)
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	return s
}

func serving(t *testing.T) *server {
	t.Helper()
	t.Parallel()
	s := newWorld(t).serve()
	t.Cleanup(func() { s.stop() })
	return s
}

// Deliver brings what is wanted to all hosts that are there.
func (s *server) Deliver(ctx context.Context, _, reason string) (string, error) {
	if err := s.hit(ctx, "deliver "+reason); err != nil {
		return "", err
	}
	s.delivering.Lock() // one rollout at a time, each with the newest wish
	defer s.delivering.Unlock()
	d, err := s.revisions.Derive(ctx, 0)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ro := &v1.Rollout{Id: fmt.Sprintf("r%06d", len(s.rollouts)+1), State: v1.RolloutState_ROLLOUT_STATE_SUCCEEDED}
	for _, name := range sortedHosts(s.hosts) {
		h, want := s.hosts[name], d.Specs[name]
		if h.digest == want.Digest {
			continue
		}
		n := &v1.NodeRollout{Node: name, State: v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE}
		if h.away {
			n.State, n.Message = v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, "offline; it is taken up when it connects"
			ro.State = v1.RolloutState_ROLLOUT_STATE_INCOMPLETE
		} else {
			h.apply(want.Spec, want.Digest)
			h.resources = d.Resources
			if h.problem != "" {
				n.State, n.Error = v1.NodeRolloutState_NODE_ROLLOUT_STATE_DEGRADED, &v1.TaskError{Message: h.problem}
			}
		}
		ro.Nodes = append(ro.Nodes, n)
	}
	if len(ro.Nodes) == 0 {
		return "", nil
	}
	s.rollouts[ro.Id] = ro
	return ro.Id, nil
}

func (s *server) Get(context.Context, string) (*v1.Rollout, error) {
	return nil, errs.New(errs.NotFound, "there is no rollout")
}

func (s *server) Watch(_ context.Context, req rollout.WatchRequest, send func(*v1.WatchRolloutResponse) error) error {
	s.mu.Lock()
	ro := s.rollouts[req.ID]
	s.mu.Unlock()
	return send(&v1.WatchRolloutResponse{Rollout: ro})
}

func sortedHosts(m map[string]*host) []string { return slices.Sorted(maps.Keys(m)) }

// apply makes containers, networks and volumes; what is not wanted any more is stopped and kept.
func (h *host) apply(spec *v1.HostSpec, digest string) {
	h.spec, h.digest = spec, digest
	seen := map[string]bool{}
	for _, i := range spec.GetDolibarr().GetInstances() {
		seen[i.GetId()] = true
		if i.GetAdopted() != nil {
			h.applyAdopted(i)
			continue
		}
		if h.have[i.GetId()] == nil {
			h.have[i.GetId()] = map[string]bool{}
		}
		h.names[i.GetId()], h.subnets[i.GetId()] = i.GetName(), i.GetSubnet()
		base := "infractl-" + i.GetId()
		for _, part := range []string{"network " + base, "volume " + base + "-data", "volume " + base + "-documents", "volume " + base + "-custom", "folder " + i.GetId()} {
			h.have[i.GetId()][part] = true
		}
		for _, ref := range i.GetSecrets() {
			if strings.HasSuffix(ref.GetName(), "/db") {
				h.databases[i.GetId()] = ref.GetVersion()
			}
		}
		mode := i.GetMode()
		up := mode == v1.InstanceMode_INSTANCE_MODE_RUNNING
		h.have[i.GetId()]["container "+base+"-db"] = up || mode == v1.InstanceMode_INSTANCE_MODE_CLOSED
		h.have[i.GetId()]["container "+base+"-app"] = up
		h.have[i.GetId()]["container "+base+"-cron"] = up && i.GetCron()
	}
}

// applyAdopted starts and stops what is there.
func (h *host) applyAdopted(i *v1.InstanceSpec) {
	for _, f := range h.foreign {
		if f.GetName() != i.GetAdopted().GetAppContainer() && f.GetName() != i.GetAdopted().GetDbContainer() {
			continue
		}
		if f.State = "exited"; i.GetMode() == v1.InstanceMode_INSTANCE_MODE_RUNNING {
			f.State = "running"
		}
	}
}

// client is what the original scripts make.
func (h *host) client(name string) {
	add := func(kind, part string, details map[string]string) *v1.FoundInstance {
		f := &v1.FoundInstance{Kind: kind, Name: part, Instance: name, Details: details}
		h.foreign = append(h.foreign, f)
		return f
	}
	add("container", name+"_dolibarr", map[string]string{"networks": name + "_network"}).State = "running"
	add("container", name+"_mariadb", map[string]string{"networks": name + "_network"}).State = "running"
	add("network", name+"_network", map[string]string{"subnet": "172.20.0.0/16"})
	add("volume", name+"_data", map[string]string{"mounted": "true"})
	add("folder", "/working_dir/clients/"+name, map[string]string{"admin": "InfraS"}).Version = "15"
}

func (w *world) Node(_ context.Context, name string) (fleet.Node, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[name]
	if h == nil {
		return fleet.Node{}, errs.New(errs.NotFound, "no node %s", name)
	}
	return fleet.Node{Name: name, State: fleet.Msg[*v1.HostState]{M: &v1.HostState{WidenedDigest: h.digest, SpecDigest: h.digest, NarrowedDigest: h.digest, SiteRevision: 1, ResourceRevision: h.resources, Degraded: h.degraded, Drift: h.drift}}}, nil
}

func (w *world) Nodes(context.Context) ([]fleet.Node, error) { return nil, nil }

// Do implements the hub: a task that was done once is not done again.
func (w *world) Do(ctx context.Context, node string, task *v1.Task, _ func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	if err := w.hit(ctx, "task "+taskName(task)); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[node]
	if h == nil || h.away {
		return nil, errs.New(errs.Unavailable, "the node is away").At(node)
	}
	if w.tasks[task.GetId()] != nil {
		return nil, errs.New(errs.Exists, "task %s exists", task.GetId())
	}
	res := w.work(node, h, task)
	w.tasks[task.GetId()] = res
	return res, nil
}

// DoLive implements the hub: nothing of the task is kept.
func (w *world) DoLive(ctx context.Context, node string, task *v1.Task) (*v1.TaskResult, error) {
	return w.Do(ctx, node, task, nil)
}

func (w *world) Resume(ctx context.Context, id string, _ func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if res := w.tasks[id]; res != nil {
		return res, nil
	}
	return nil, errs.New(errs.NotFound, "there is no task %s", id)
}

func taskName(t *v1.Task) string {
	name := fmt.Sprintf("%T", t.GetWork())
	if i := t.GetInstance(); i != nil {
		name = fmt.Sprintf("%T", i.GetAction())
	}
	return name[strings.LastIndex(name, "_")+1:]
}

func refused(code errs.Code, format string, args ...any) *v1.TaskResult {
	return &v1.TaskResult{Error: &v1.TaskError{Code: string(code), Message: fmt.Sprintf(format, args...)}}
}

// work does a task. The lock is held, but for an installation that the test delays.
func (w *world) work(node string, h *host, task *v1.Task) *v1.TaskResult {
	switch task.GetWork().(type) {
	case *v1.Task_Usage:
		return &v1.TaskResult{Outcome: &v1.TaskResult_Usage{Usage: &v1.UsageResult{Host: &v1.Usage{MemoryLimitBytes: h.memory, Cpus: 8, DiskLimitBytes: 100 << 30},
			Instances: h.disk.GetInstances(), InstanceSpaceBytes: h.disk.GetInstanceSpaceBytes(), InstanceSpaceFreeBytes: h.disk.GetInstanceSpaceFreeBytes()}}}
	case *v1.Task_Plan:
		return &v1.TaskResult{Outcome: &v1.TaskResult_Plan{Plan: &v1.PlanResult{}}}
	case *v1.Task_Public:
		return &v1.TaskResult{Outcome: &v1.TaskResult_Public{Public: w.public(h, task.GetPublic())}}
	}
	inst := task.GetInstance().GetInstance()
	out := &v1.InstanceResult{Version: h.installed[inst.GetId()]}
	switch a := task.GetInstance().GetAction().(type) {
	case *v1.InstanceTask_Install:
		if !h.have[inst.GetId()]["container infractl-"+inst.GetId()+"-db"] {
			return refused(errs.Precondition, "there is no database of %s", inst.GetId())
		}
		if len(inst.GetSecrets()) != 5 {
			return refused(errs.Invalid, "%d secrets", len(inst.GetSecrets()))
		}
		h.load++
		h.loadPeak = max(h.loadPeak, h.load)
		if w.slow != nil {
			w.mu.Unlock()
			<-w.slow
			w.mu.Lock()
		}
		h.load--
		h.installed[inst.GetId()] = inst.GetVersion()
		out.Version, out.FromTemplate = inst.GetVersion(), a.Install.GetFromTemplate() && h.warm[inst.GetVersion()]
	case *v1.InstanceTask_Probe:
		if a := inst.GetAdopted(); a != nil {
			for _, f := range h.foreign {
				if f.GetName() == a.GetAppContainer() && f.GetState() != "running" {
					return refused(errs.Precondition, "the front answers 502")
				}
			}
			out.Version = "15.0.3"
			break
		}
		if !h.have[inst.GetId()]["container infractl-"+inst.GetId()+"-app"] {
			return refused(errs.Precondition, "the front answers 503")
		}
	case *v1.InstanceTask_Password:
		for _, ref := range inst.GetSecrets() {
			if strings.HasSuffix(ref.GetName(), "/admin") {
				h.passwords[inst.GetId()] = ref.GetVersion()
			}
		}
	case *v1.InstanceTask_Modules:
		out.Modules = a.Modules.GetEnable()
	case *v1.InstanceTask_Purge:
		for _, i := range h.spec.GetDolibarr().GetInstances() {
			if i.GetId() == inst.GetId() {
				w.t.Errorf("%s was purged while the wish names it", inst.GetName())
			}
		}
		if a := inst.GetAdopted(); a != nil {
			gone := append([]string{a.GetAppContainer(), a.GetDbContainer(), a.GetNetwork(), a.GetFolder()}, a.GetVolumes()...)
			h.foreign = slices.DeleteFunc(h.foreign, func(f *v1.FoundInstance) bool {
				if !slices.Contains(gone, f.GetName()) {
					return false
				}
				out.Removed = append(out.Removed, f.GetKind()+" "+f.GetName())
				return true
			})
		}
		for part, there := range h.have[inst.GetId()] {
			if there {
				out.Removed = append(out.Removed, part)
			}
		}
		slices.Sort(out.Removed)
		delete(h.have, inst.GetId())
		delete(h.installed, inst.GetId())
	case *v1.InstanceTask_Template:
		h.templates = append(h.templates, inst.GetVersion()+" "+inst.GetAppImage().GetImageId())
		h.warm[inst.GetVersion()] = true
		if len(inst.GetSecrets()) > 0 || inst.GetId() != "" {
			w.t.Errorf("a template with secrets or an id: %v", inst)
		}
	case *v1.InstanceTask_DropTemplate:
		delete(h.warm, inst.GetVersion())
	case *v1.InstanceTask_Inventory:
		out.Found = h.inventory()
	}
	return &v1.TaskResult{Outcome: &v1.TaskResult_Instance{Instance: out}}
}
