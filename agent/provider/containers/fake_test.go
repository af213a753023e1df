package containers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// fakeEngine is a container engine and the helper in front of it. A Compose file of it has a line per service: name, image,
// and words such as "sick" (never healthy), "once" (ends well) or "secret=NAME:UID".
type fakeEngine struct {
	mu         sync.Mutex
	root       string
	down       error
	containers map[string]*docker.Container // by name
	images     map[string]string            // name or id to id
	volumes    map[string]bool
	starts     int
	ups        int
	killed     bool // the helper dies
	loaded     []byte
	asked      int
}

func newEngine(root string) *fakeEngine {
	return &fakeEngine{root: root, containers: map[string]*docker.Container{}, volumes: map[string]bool{},
		images: map[string]string{"web:1": "sha256:aa", "sha256:aa": "sha256:aa", "web:2": "sha256:bb", "sha256:bb": "sha256:bb", "db:1": "sha256:cc", "sha256:cc": "sha256:cc"}}
}

func (e *fakeEngine) Containers(_ context.Context, labels ...string) ([]docker.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	if e.down != nil {
		return nil, e.down
	}
	var list []docker.Container
	for _, c := range e.containers {
		fits := true
		for _, l := range labels {
			name, value, exact := strings.Cut(l, "=")
			have, ok := c.Labels[name]
			fits = fits && ok && (!exact || have == value)
		}
		if fits {
			list = append(list, *c)
		}
	}
	slices.SortFunc(list, func(a, b docker.Container) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func (e *fakeEngine) Inspect(_ context.Context, id string) (docker.Detail, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if c.ID == id {
			return docker.Detail{Container: *c, HealthOutput: "curl: hush-hush refused"}, nil
		}
	}
	return docker.Detail{}, errs.New(errs.NotFound, "no container %s", id)
}

func (e *fakeEngine) Logs(context.Context, string, docker.LogOptions) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("fatal: cannot bind\n")), nil
}

func (e *fakeEngine) Start(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if c.ID == id {
			c.State, c.Status = "running", "Up 1 second"
			e.starts++
		}
	}
	return nil
}

func (e *fakeEngine) Restart(ctx context.Context, id string, _ time.Duration) error {
	return e.Start(ctx, id)
}

func (e *fakeEngine) ImageID(_ context.Context, ref string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if id, ok := e.images[ref]; ok {
		return id, nil
	}
	return "", errs.New(errs.NotFound, "no such image")
}

func (e *fakeEngine) TagImage(_ context.Context, id, ref string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.images[id]; !ok {
		return errs.New(errs.NotFound, "no such image")
	}
	e.images[ref] = e.images[id]
	return nil
}

// LoadImage takes an archive that is the text "NAME ID".
func (e *fakeEngine) LoadImage(_ context.Context, archive io.Reader) error {
	data, err := io.ReadAll(archive)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loaded = data
	if f := strings.Fields(string(data)); len(f) >= 2 {
		e.images[f[0]], e.images[f[1]] = f[1], f[1]
	}
	return err
}

func (e *fakeEngine) PullImage(context.Context, string) error {
	return errs.New(errs.Unavailable, "no registry")
}

func (e *fakeEngine) DataRoot(context.Context) (string, error) { return "/var/lib/docker", nil }

// Run implements host.Runner: it is the helper.
func (e *fakeEngine) Run(_ context.Context, cmd host.Cmd) (host.Output, error) {
	req, err := wire.ReadRequest(strings.NewReader(string(cmd.Stdin)))
	if err != nil {
		return host.Output{Code: 1}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	result := &wire.Result{}
	if e.killed {
		return host.Output{Code: -1}, errors.New("signal: killed")
	}
	if result.Services, err = e.act(req); err != nil {
		result.Code, result.Error = string(errs.CodeOf(err)), err.Error()
	}
	line, _ := json.Marshal(wire.Line{Result: result})
	return host.Output{Stdout: append(line, '\n')}, err
}

func (e *fakeEngine) act(req *wire.Request) ([]wire.Service, error) {
	if e.down != nil && req.Action != wire.Config {
		return nil, e.down
	}
	if req.Action == wire.Down {
		for name, c := range e.containers {
			if c.Project() == req.Project {
				delete(e.containers, name)
			}
		}
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(req.Dir, req.File))
	if err != nil {
		return nil, err
	}
	content := fmt.Sprint(req.Secrets)
	for _, f := range req.Files {
		more, err := os.ReadFile(filepath.Join(req.Dir, f))
		if err != nil {
			return nil, err
		}
		content += string(more)
	}
	var services []wire.Service
	sick := ""
	wanted := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		s := wire.Service{Name: f[0], Image: req.Images[f[1]], Replicas: 1}
		s.Hash = fmt.Sprintf("%x", sha256.Sum256([]byte(line+content+s.Image)))[:12]
		name := req.Project + "-" + s.Name + "-1"
		c := &docker.Container{Name: name, ID: "id-" + name, Image: s.Image, ImageID: e.images[s.Image], State: "running", Status: "Up 2 seconds",
			Labels: map[string]string{docker.LabelProject: req.Project, docker.LabelService: s.Name, docker.LabelConfigHash: s.Hash}}
		for _, word := range f[2:] {
			switch key, value, _ := strings.Cut(word, "="); key {
			case "sick":
				c.Health, sick = "unhealthy", name
			case "once":
				s.Completes, c.State, c.Status = true, "exited", "Exited (0) 1 second ago"
			case "secret":
				secret := wire.Secret{}
				secret.Name, _, _ = strings.Cut(value, ":")
				_, _ = fmt.Sscanf(value[len(secret.Name):], ":%d", &secret.UID)
				s.Secrets = append(s.Secrets, secret)
				if _, err := os.ReadFile(filepath.Join(req.SecretDir, wire.SecretFile(secret))); err != nil && req.Action == wire.Up {
					return nil, err
				}
			}
		}
		services = append(services, s)
		if req.Action == wire.Up {
			wanted[name] = true
			e.containers[name] = c
			e.volumes[req.Project+"_data"] = true
		}
	}
	if req.Action == wire.Up {
		e.ups++
		for name, c := range e.containers {
			if c.Project() == req.Project && !wanted[name] {
				delete(e.containers, name)
			}
		}
	}
	if sick != "" && req.Action == wire.Up {
		return services, errs.New(errs.Precondition, "container %s is unhealthy", sick)
	}
	return services, nil
}

// state is what of the engine is not a file.
func (e *fakeEngine) state() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, c := range e.containers {
		lines = append(lines, fmt.Sprintln(c.Name, c.Image, c.ImageID, c.State, c.Health, c.Labels[docker.LabelConfigHash]))
	}
	slices.Sort(lines)
	return strings.Join(lines, ""), nil
}

const secretValue = "hush-hush"

// fakeFetcher is the server.
type fakeFetcher struct {
	archive []byte
	cutAt   []int // where transfers break, one after the other
	offsets []uint64
}

func (f *fakeFetcher) Secrets(_ context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error) {
	var list []*v1.SecretValue
	for _, r := range refs {
		list = append(list, &v1.SecretValue{Name: r.GetName(), Version: r.GetVersion(), Value: []byte(secretValue + r.GetVersion())})
	}
	return list, nil
}

func (f *fakeFetcher) Image(_ context.Context, _ string, offset uint64, each func(uint64, []byte) error) error {
	f.offsets = append(f.offsets, offset)
	end := len(f.archive)
	cut := len(f.cutAt) > 0
	if cut {
		end, f.cutAt = f.cutAt[0], f.cutAt[1:]
	}
	for at := int(offset); at < end; at += 4 {
		if err := each(uint64(len(f.archive)), f.archive[at:min(at+4, end)]); err != nil {
			return err
		}
	}
	if cut {
		return errs.New(errs.Unavailable, "the connection broke")
	}
	return nil
}

// folder is in memory: thousands of small writes to disk, each of them synced, would take minutes.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
