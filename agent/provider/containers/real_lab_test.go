//go:build lab

package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// These tests run inside a VM of the lab, on its own engine; package internal/lab/stacks builds and starts them there.
// INFRACTL_COMPOSE is the helper, INFRACTL_IMAGE an image with busybox.

const realCompose = `services:
  web:
    image: app/web:1.0
    user: "1000"
    command: ["httpd", "-f", "-p", "8080", "-h", "/www"]
    environment: {ADDRESS: "${INFRACTL_ADDRESS}", MODE: first}
    volumes: ["./app/www:/www:ro", "data:/data"]
    secrets: [{source: pw, uid: "1000"}]
    healthcheck: {test: ["CMD", "wget", "-qO-", "http://127.0.0.1:8080/index.html"], interval: 1s, timeout: 2s, retries: 3}
    restart: unless-stopped
  worker:
    image: app/web:1.0
    command: ["sleep", "100000"]
    stop_grace_period: 1s
    depends_on: {web: {condition: service_healthy}}
    restart: unless-stopped
secrets: {pw: {external: true}}
volumes: {data: {}}
`

type realEngine struct {
	p     *Provider
	e     *docker.Engine
	image string
	dir   string
}

func newReal(t *testing.T) *realEngine {
	t.Helper()
	helper, image := os.Getenv("INFRACTL_COMPOSE"), os.Getenv("INFRACTL_IMAGE")
	if helper == "" || image == "" {
		t.Fatal("INFRACTL_COMPOSE and INFRACTL_IMAGE are not set; use make e2e")
	}
	e, err := docker.New(docker.Config{})
	must(t, err)
	dir := t.TempDir()
	return &realEngine{e: e, image: image, dir: dir, p: New(Config{Host: host.New(host.Config{}), Engine: e, Fetcher: &fakeFetcher{},
		Dir: dir + "/stacks", Helper: helper, Wait: 20 * time.Second})}
}

func (r *realEngine) stack(name, compose string) *v1.StackSpec {
	return &v1.StackSpec{Name: name, ComposeFile: "stacks/" + name + ".yml", Compose: []byte(compose),
		Files:     []*v1.StackFile{{Path: "app/www/index.html", Content: []byte("hello\n")}},
		Images:    []*v1.StackImage{{Reference: "app/web:1.0", Use: r.image}},
		Secrets:   []*v1.SecretRef{{Name: "pw", Version: "v1"}},
		Variables: map[string]string{"INFRACTL_ADDRESS": "10.0.10.20"}}
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
func figure(name string, value float64) { fmt.Printf("FIGURE %s %.4f\n", name, value) }

func TestRealEngine(t *testing.T) {
	r := newReal(t)
	ctx := context.Background()
	first := r.stack("app", realCompose)
	t.Cleanup(func() { _ = apply(r.p) })

	must(t, apply(r.p, first))
	if got := sh(t, "docker", "exec", "app-web-1", "cat", "/run/secrets/pw"); got != secretValue+"v1" {
		t.Errorf("the secret in the container is %q", got)
	}
	if got := sh(t, "docker", "inspect", "app-web-1"); strings.Contains(got, secretValue) || !strings.Contains(got, "ADDRESS=10.0.10.20") {
		t.Error("docker inspect shows the secret, or no variable")
	}

	t.Run("no-op", func(t *testing.T) {
		id := sh(t, "docker", "inspect", "-f", "{{.Id}}", "app-web-1")
		began := time.Now()
		const rounds = 50
		for range rounds {
			pl, err := r.p.Plan(ctx, want(first))
			if err != nil || len(pl.Changes) > 0 {
				t.Fatal(err, pl.Changes)
			}
		}
		figure("noop_plan_ms", time.Since(began).Seconds()*1000/rounds)
		must(t, apply(r.p, first))
		if got := sh(t, "docker", "inspect", "-f", "{{.Id}}", "app-web-1"); got != id {
			t.Error("a second apply made a new container")
		}
	})
	t.Run("killed and removed containers come back", func(t *testing.T) {
		sh(t, "docker", "kill", "app-web-1")
		done, err := r.p.Repair(ctx)
		if err != nil || len(done) != 1 || sh(t, "docker", "inspect", "-f", "{{.State.Status}}", "app-web-1") != "running" {
			t.Errorf("repair = %v, %v", done, err)
		}
		sh(t, "docker", "rm", "-f", "app-worker-1")
		clear(r.p.repairs)
		if done, err = r.p.Repair(ctx); err != nil || len(done) != 1 {
			t.Errorf("repair = %v, %v", done, err)
		}
		must(t, r.p.Verify(ctx, want(first)))
	})
	second := r.stack("app", strings.Replace(realCompose, "MODE: first", "MODE: second", 1))
	t.Run("changed file, changed container", func(t *testing.T) {
		worker := sh(t, "docker", "inspect", "-f", "{{.Id}}", "app-worker-1")
		must(t, apply(r.p, second))
		if got := sh(t, "docker", "exec", "app-web-1", "sh", "-c", "echo $MODE"); got != "second" {
			t.Errorf("MODE = %q", got)
		}
		if got := sh(t, "docker", "inspect", "-f", "{{.Id}}", "app-worker-1"); got != worker {
			t.Error("the other service's container is a new one")
		}
		second.Files[0].Content = []byte("changed\n")
		must(t, apply(r.p, second))
		if got := sh(t, "docker", "exec", "app-web-1", "wget", "-qO-", "http://127.0.0.1:8080/index.html"); got != "changed" {
			t.Errorf("the page is %q", got)
		}
	})
	t.Run("never healthy, former state back", func(t *testing.T) {
		bad := r.stack("app", strings.Replace(realCompose, "8080/index.html", "8080/none.html", 1))
		err := apply(r.p, bad)
		if !errs.Is(err, errs.RolledBack) || !strings.Contains(err.Error(), "app-web-1") {
			t.Fatalf("err = %v", err)
		}
		t.Log(err)
		must(t, r.p.Verify(ctx, want(second)))
	})
	t.Run("removed, volume kept", func(t *testing.T) {
		must(t, apply(r.p))
		if got := sh(t, "docker", "ps", "-aq", "--filter", "label=com.docker.compose.project=app"); got != "" {
			t.Errorf("containers stay: %s", got)
		}
		if got := sh(t, "docker", "volume", "ls", "-q", "--filter", "name=app_data"); got != "app_data" {
			t.Errorf("volumes = %q", got)
		}
		sh(t, "docker", "volume", "rm", "app_data")
	})
	compareUps(t, r, first)
}

// compareUps measures the first up of ours and of the library alone, in turn, and takes the fastest of each: what else the
// machine does only ever adds.
func compareUps(t *testing.T, r *realEngine, s *v1.StackSpec) {
	t.Helper()
	var ours, hand time.Duration
	var rss float64
	for range 3 {
		took, most := byHand(t, r, s)
		if hand == 0 || took < hand {
			hand = took
		}
		rss = max(rss, most)
		began := time.Now()
		must(t, apply(r.p, s))
		if took = time.Since(began); ours == 0 || took < ours {
			ours = took
		}
		must(t, apply(r.p))
		sh(t, "docker", "volume", "rm", "app_data")
	}
	figure("first_up_s", ours.Seconds())
	figure("first_up_by_hand_s", hand.Seconds())
	figure("first_up_ratio", ours.Seconds()/hand.Seconds())
	figure("helper_peak_rss_mb", rss)
}

// byHand runs the library alone on the same files, and returns how long it took and the most memory that it had.
func byHand(t *testing.T, r *realEngine, s *v1.StackSpec) (time.Duration, float64) {
	t.Helper()
	dir := filepath.Join(r.dir, "hand")
	for name, data := range map[string]string{"app.yml": string(s.GetCompose()), "app/www/index.html": "hello\n", "secrets/1000-0/pw": "x"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644))
	}
	req := wire.Request{Action: wire.Up, Project: "hand", Dir: dir, File: "app.yml", Variables: s.GetVariables(),
		Images: map[string]string{"app/web:1.0": r.image}, Secrets: map[string]string{"pw": "v1"}, SecretDir: dir + "/secrets", WaitSeconds: 20}
	run := func(action string) (time.Duration, float64) {
		req.Action = action
		data, err := json.Marshal(req)
		must(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, os.Getenv("INFRACTL_COMPOSE"))
		c.Stdin = bytes.NewReader(data)
		began := time.Now()
		if out, err := c.Output(); err != nil {
			t.Fatalf("%s by hand: %v: %s", action, err, out)
		}
		usage, _ := c.ProcessState.SysUsage().(*syscall.Rusage)
		return time.Since(began), float64(usage.Maxrss) / 1024
	}
	took, rss := run(wire.Up)
	run(wire.Down)
	sh(t, "docker", "volume", "rm", "hand_data")
	return took, rss
}
