package dolibarr

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/errs"
)

// testEngine is an engine with what instances need of one: databases that keep files in volumes, the tool, Caddy. Each call that changes
// something is a point at which fault may fail it.
type testEngine struct {
	mu         sync.Mutex
	root       string
	n          int
	containers map[string]*testContainer // by id
	networks   map[string]docker.Network
	volumes    map[string]docker.Volume
	images     map[string]string
	fault      func(op string) error
	version    string // of the application in its image
	sqls       []string
	verbs      []string
	inputs     []string
	loaded     string // the front's configuration as Caddy read it
	reloads    int
	dirty      bool // databases end by force
	badReload  bool
	refuse     string            // what the tool answers
	urls       map[string]string // that conf.php was written for, by the instance's id
	// takes are the passwords that a database takes for its application, confs the one in conf.php, by the instance's id.
	takes map[string][]string
	confs map[string]string
}

type testContainer struct {
	docker.Container
	spec docker.ContainerSpec
	exit int
}

func newTestEngine(root string) *testEngine {
	return &testEngine{root: root, containers: map[string]*testContainer{}, networks: map[string]docker.Network{}, volumes: map[string]docker.Volume{},
		images:  map[string]string{"infractl/dolibarr:19.0.4": "sha256:app", "infractl/mariadb:10.11": "sha256:db", "infractl/front:1": "sha256:front"},
		version: "19.0.4", urls: map[string]string{}, takes: map[string][]string{}, confs: map[string]string{}, fault: func(string) error { return nil }}
}

func missing(what string) error { return errs.New(errs.NotFound, "no such thing: %s", what) }

func fits(have map[string]string, labels []string) bool {
	for _, l := range labels {
		name, value, exact := strings.Cut(l, "=")
		if v, ok := have[name]; !ok || exact && v != value {
			return false
		}
	}
	return true
}

func (e *testEngine) begin(ctx context.Context, op string) (func(), error) {
	e.mu.Lock()
	err := ctx.Err()
	if err == nil {
		err = e.fault(op)
	}
	if err != nil {
		e.mu.Unlock()
		return nil, err
	}
	return e.mu.Unlock, nil
}

func (e *testEngine) Containers(_ context.Context, labels ...string) ([]docker.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []docker.Container
	for _, c := range e.containers {
		if fits(c.Labels, labels) {
			out = append(out, c.Container)
		}
	}
	slices.SortFunc(out, func(a, b docker.Container) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// find looks by id or name.
func (e *testEngine) find(id string) *testContainer {
	if c := e.containers[id]; c != nil {
		return c
	}
	for _, c := range e.containers {
		if c.Name == id {
			return c
		}
	}
	return nil
}

func (e *testEngine) Inspect(_ context.Context, id string) (docker.Detail, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.find(id)
	if c == nil {
		return docker.Detail{}, missing(id)
	}
	return docker.Detail{Container: c.Container, ExitCode: c.exit}, nil
}

func (e *testEngine) CreateContainer(ctx context.Context, s docker.ContainerSpec) (string, error) {
	done, err := e.begin(ctx, "create "+s.Name)
	if err != nil {
		return "", err
	}
	defer done()
	if e.find(s.Name) != nil {
		return "", errs.New(errs.Conflict, "name %s is taken", s.Name)
	}
	if _, ok := e.images[s.Image]; !ok {
		return "", missing(s.Image)
	}
	e.n++
	id := fmt.Sprintf("id%d", e.n)
	c := &testContainer{spec: s, Container: docker.Container{ID: id, Name: s.Name, Image: s.Image, ImageID: e.images[s.Image], Labels: s.Labels, State: "created"}}
	for _, a := range s.Networks {
		if _, ok := e.networks[a.Network]; !ok {
			return "", missing(a.Network)
		}
		c.Networks = append(c.Networks, a.Network)
	}
	for _, m := range s.Mounts {
		if _, ok := e.volumes[m.Volume]; m.Volume != "" && !ok {
			return "", missing(m.Volume)
		}
	}
	e.containers[id] = c
	return id, nil
}

func (e *testEngine) Start(ctx context.Context, id string) error {
	done, err := e.begin(ctx, "start")
	if err != nil {
		return err
	}
	defer done()
	c := e.find(id)
	if c == nil {
		return missing(id)
	}
	if c.State == "paused" || c.State == "dead" {
		return errs.New(errs.Conflict, "cannot start a %s container", c.State)
	}
	for _, n := range c.Networks {
		if _, ok := e.networks[n]; !ok {
			return missing(n)
		}
	}
	c.State = "running"
	for _, m := range c.spec.Mounts {
		switch {
		case m.Target == "/var/lib/mysql" && m.Volume != "":
			if err := os.MkdirAll(filepath.Join(e.root, e.volumes[m.Volume].Path, "dolibarr"), 0o755); err != nil {
				return err
			}
		case m.Target == "/etc/caddy":
			e.loaded = e.read(m.Host + "/caddy.json")
		}
	}
	return nil
}

func (e *testEngine) read(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		panic(err) // Caddy would not start
	}
	return string(data)
}

func (e *testEngine) StopContainer(ctx context.Context, id string, _ time.Duration) error {
	done, err := e.begin(ctx, "stop")
	if err != nil {
		return err
	}
	defer done()
	if c := e.find(id); c != nil {
		c.State = "exited"
		if e.dirty {
			c.exit = 137
		}
	}
	return nil
}

func (e *testEngine) RemoveContainer(ctx context.Context, id string) error {
	done, err := e.begin(ctx, "remove container")
	if err != nil {
		return err
	}
	defer done()
	if c := e.find(id); c != nil {
		delete(e.containers, c.ID)
	}
	return nil
}

func (e *testEngine) Networks(_ context.Context, labels ...string) ([]docker.Network, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []docker.Network
	for _, name := range slices.Sorted(maps.Keys(e.networks)) {
		if fits(e.networks[name].Labels, labels) {
			out = append(out, e.networks[name])
		}
	}
	return out, nil
}

func (e *testEngine) CreateNetwork(ctx context.Context, name, subnet string, labels map[string]string) error {
	done, err := e.begin(ctx, "create network")
	if err != nil {
		return err
	}
	defer done()
	if _, ok := e.networks[name]; ok {
		return errs.New(errs.Conflict, "there is a network %s already", name)
	}
	e.networks[name] = docker.Network{ID: name, Name: name, Subnet: subnet, Labels: labels}
	return nil
}

func (e *testEngine) RemoveNetwork(ctx context.Context, name string) error {
	done, err := e.begin(ctx, "remove network")
	if err != nil {
		return err
	}
	defer done()
	for _, c := range e.containers {
		if slices.Contains(c.Networks, name) {
			return errs.New(errs.Conflict, "%s is in it", c.Name)
		}
	}
	delete(e.networks, name)
	return nil
}

func (e *testEngine) Connect(ctx context.Context, network, id string, _ ...string) error {
	done, err := e.begin(ctx, "connect")
	if err != nil {
		return err
	}
	defer done()
	c := e.find(id)
	if _, ok := e.networks[network]; !ok || c == nil {
		return missing(network)
	}
	if !slices.Contains(c.Networks, network) {
		c.Networks = append(c.Networks, network)
	}
	return nil
}

func (e *testEngine) Disconnect(ctx context.Context, network, id string) error {
	done, err := e.begin(ctx, "disconnect")
	if err != nil {
		return err
	}
	defer done()
	if c := e.find(id); c != nil {
		c.Networks = slices.DeleteFunc(c.Networks, func(n string) bool { return n == network })
	}
	return nil
}

func (e *testEngine) Volumes(_ context.Context, labels ...string) ([]docker.Volume, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []docker.Volume
	for _, name := range slices.Sorted(maps.Keys(e.volumes)) {
		if fits(e.volumes[name].Labels, labels) {
			out = append(out, e.volumes[name])
		}
	}
	return out, nil
}

func (e *testEngine) CreateVolume(ctx context.Context, name string, labels map[string]string) error {
	done, err := e.begin(ctx, "create volume")
	if err != nil {
		return err
	}
	defer done()
	v := docker.Volume{Name: name, Path: "/volumes/" + name + "/_data", Labels: labels}
	if _, ok := e.volumes[name]; !ok {
		e.volumes[name] = v
	}
	return os.MkdirAll(filepath.Join(e.root, v.Path), 0o755)
}

func (e *testEngine) RemoveVolume(ctx context.Context, name string) error {
	done, err := e.begin(ctx, "remove volume")
	if err != nil {
		return err
	}
	defer done()
	for _, c := range e.containers {
		for _, m := range c.spec.Mounts {
			if m.Volume == name {
				return errs.New(errs.Conflict, "%s uses it", c.Name)
			}
		}
	}
	if v, ok := e.volumes[name]; ok {
		delete(e.volumes, name)
		return os.RemoveAll(filepath.Join(e.root, v.Path))
	}
	return nil
}

func (e *testEngine) UpdateLimits(ctx context.Context, id string, memory, milliCPUs, pids int64) error {
	done, err := e.begin(ctx, "limits")
	if err != nil {
		return err
	}
	defer done()
	c := e.find(id)
	if c == nil {
		return missing(id)
	}
	if stuck(&c.Container) {
		return errs.New(errs.Conflict, "container %s is marked for removal and cannot be updated", c.Name)
	}
	for value, of := range map[*int64]int64{&c.spec.MemoryBytes: memory, &c.spec.MilliCPUs: milliCPUs, &c.spec.PIDs: pids} {
		if of != 0 { // the engine takes none away
			*value = of
		}
	}
	return nil
}

func (e *testEngine) ImageID(_ context.Context, ref string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if id, ok := e.images[ref]; ok {
		return id, nil
	}
	return "", missing(ref)
}

// Run implements what runs in containers: the tool, the database's client, caddy reload, health checks.
func (e *testEngine) Run(ctx context.Context, id string, argv []string, user string, stdin io.Reader, stdout io.Writer) (int, error) {
	input := []byte{}
	if stdin != nil {
		input, _ = io.ReadAll(stdin) // a test's reader does not fail
	}
	program := argv[0]
	if stdin != nil {
		program += " with input"
	}
	done, err := e.begin(ctx, "run "+program+" "+argv[len(argv)-1][:min(9, len(argv[len(argv)-1]))])
	if err != nil {
		return 0, err
	}
	defer done()
	c := e.find(id)
	if c == nil || c.State != "running" {
		return 0, errs.New(errs.Conflict, "container %s does not run", id)
	}
	switch {
	case argv[0] == "php" && user == "33:33":
		return e.runTool(c, argv[2], input, stdout)
	case argv[0] == "sh" && user == "33:33": // the tool in a container that has it not
		files := map[string]string{}
		if err := json.Unmarshal(input, &files); err != nil {
			return 1, err
		}
		e.verbs, e.inputs = append(e.verbs, argv[len(argv)-1]), append(e.inputs, files["input.json"])
		if e.refuse == "" {
			fmt.Fprintf(stdout, "{\"ok\":true,\"version\":%q}\n", e.version)
			return 0, nil
		}
		fmt.Fprintln(stdout, e.refuse)
		return 1, nil
	case argv[0] == "caddy":
		if e.badReload {
			return 1, errs.New(errs.Internal, "caddy ended with code 1: no such module")
		}
		e.reloads++
		for _, m := range c.spec.Mounts {
			e.loaded = e.read(m.Host + "/caddy.json")
		}
	case argv[0] == "sh" && stdin != nil:
		e.sqls = append(e.sqls, string(input))
		e.learn(c.Labels[LabelID], string(input))
	}
	return 0, nil
}

func (e *testEngine) runTool(c *testContainer, verb string, input []byte, stdout io.Writer) (int, error) {
	e.verbs, e.inputs = append(e.verbs, verb), append(e.inputs, string(input))
	at := map[string]string{}
	for _, m := range c.spec.Mounts {
		at[m.Target] = m.Host
		if m.Volume != "" {
			at[m.Target] = filepath.Join(e.root, e.volumes[m.Volume].Path)
		}
	}
	id := c.Labels[LabelID]
	data := filepath.Join(e.root, e.volumes[volumeName(id, "data")].Path)
	var asked struct{ URL string }
	if err := json.Unmarshal(input, &asked); err != nil {
		return 1, err
	}
	if e.refuse != "" {
		fmt.Fprintln(stdout, e.refuse)
		return 1, nil
	}
	if asked.URL != "" {
		e.urls[id] = asked.URL
	}
	password, err := os.ReadFile(filepath.Join(at["/run/secrets"], "db"))
	if err != nil {
		return 1, err
	}
	if verb == "install" || e.takes[id] == nil { // nil: a test made the database
		e.takes[id] = []string{string(password)}
	}
	if verb == "install" || verb == "configure" {
		if !slices.Contains(e.takes[id], string(password)) {
			fmt.Fprintln(stdout, `{"ok":false,"error":"the database refuses the user"}`)
			return 1, nil
		}
		e.confs[id] = string(password)
	}
	switch verb {
	case "install":
		if _, err := os.Stat(filepath.Join(data, "dolibarr", "llx_const.ibd")); err == nil {
			fmt.Fprintln(stdout, `{"ok":false,"error":"an installation was broken off half-way","half_done":true}`)
			return 1, nil
		}
		for file, text := range map[string]string{filepath.Join(data, "dolibarr", "llx_const.ibd"): "tables", filepath.Join(data, "ibtmp1"): "waste",
			filepath.Join(at["/var/www/documents"], "install.lock"): "", filepath.Join(at["/var/www/html/conf"], "conf.php"): "<?php // install"} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				return 1, err
			}
		}
	case "configure":
		if err := os.WriteFile(filepath.Join(at["/var/www/html/conf"], "conf.php"), []byte("<?php // configure"), 0o600); err != nil {
			return 1, err
		}
	}
	fmt.Fprintf(stdout, "{\"step\":\"part\",\"seconds\":0.1}\n{\"ok\":true,\"version\":%q,\"modules\":[\"Cron\",\"Societe\"]}\n", e.version)
	return 0, nil
}

// RoundTrip is the way to the front: its health, and the login pages of what it would pass on.
func (e *testEngine) RoundTrip(req *http.Request) (*http.Response, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	front := e.find(frontName)
	if front == nil || front.State != "running" {
		return nil, errs.New(errs.Unavailable, "connection refused")
	}
	answer := func(status int, body string) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
	}
	if req.URL.Path == healthPath {
		return answer(200, regexp.MustCompile(`ok [0-9a-f]{16}`).FindString(e.loaded))
	}
	if !strings.Contains(e.loaded, `"`+req.Host+`"`) {
		return answer(404, "")
	}
	for id, conf := range e.confs {
		if strings.Contains(e.loaded, containerName(id, "app")) && !slices.Contains(e.takes[id], conf) {
			return answer(200, "<html><title>no database</title></html>")
		}
	}
	return answer(200, "<html><title>Connexion @ "+e.version+"</title></html>")
}
