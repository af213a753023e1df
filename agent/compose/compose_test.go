package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/internal/errs"
)

const file = `services:
  web:
    image: web:1
    environment: {ADDRESS: "${ADDRESS}", HOME_OF_AGENT: "${HOME:-none}"}
    volumes: ["./conf:/etc/web:ro"]
    secrets: [{source: pw, uid: "1000", gid: "33"}, {source: pw, target: again}]
    depends_on: {init: {condition: service_completed_successfully}}
  init:
    image: web:1
secrets: {pw: {external: true, name: db-password}}
`

// config runs the helper on a Compose file.
func config(t *testing.T, compose string, change func(*wire.Request)) (*wire.Result, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"app.yml": compose, "conf/a": "1", "conf/written-by-the-container": "x"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	req := &wire.Request{Action: wire.Config, Project: "app", Dir: dir, File: "app.yml", Files: []string{"conf/a"}, SecretDir: "/secrets",
		Variables: map[string]string{"ADDRESS": "10.0.0.1"}, Images: map[string]string{"web:1": "stand-in:1"}, Secrets: map[string]string{"db-password": "v1"}}
	if change != nil {
		change(req)
	}
	data, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := Main(context.Background(), bytes.NewReader(data), &out)
	result, err := wire.ReadResult(out.Bytes())
	if (code == 0) != (err == nil) {
		t.Errorf("exit code %d with %v", code, err)
	}
	return result, err
}

func TestConfigSaysWhatIsInTheFile(t *testing.T) {
	r, err := config(t, file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Services) != 2 || !r.Services[0].Completes || r.Services[1].Completes || r.Services[1].Image != "stand-in:1" {
		t.Errorf("services = %+v", r.Services)
	}
	want := []wire.Secret{{Name: "db-password", UID: 1000, GID: 33}, {Name: "db-password"}}
	if got := r.Services[1].Secrets; len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("secrets = %+v, want %+v", got, want)
	}
}

func TestHashFollowsWhatTheContainerSees(t *testing.T) {
	t.Setenv("HOME", "/one")
	base := hash(t, nil)
	for name, c := range map[string]struct {
		change func(*wire.Request)
		same   bool
	}{
		"nothing":              {nil, true},
		"version of a secret":  {func(r *wire.Request) { r.Secrets["db-password"] = "v2" }, false},
		"mounted file":         {func(r *wire.Request) { write(t, r.Dir+"/conf/a", "2") }, false},
		"file of a container":  {func(r *wire.Request) { write(t, r.Dir+"/conf/written-by-the-container", "y") }, true},
		"variable":             {func(r *wire.Request) { r.Variables["ADDRESS"] = "10.0.0.2" }, false},
		"stand-in":             {func(r *wire.Request) { r.Images["web:1"] = "stand-in:2" }, false},
		"agent's environment":  {func(*wire.Request) { t.Setenv("HOME", "/two") }, true},
		"a .env in the folder": {func(r *wire.Request) { write(t, r.Dir+"/.env", "HOME=/three\n") }, true},
	} {
		if got := hash(t, c.change); (got == base) != c.same {
			t.Errorf("%s: same hash = %v, want %v", name, got == base, c.same)
		}
	}
}

func hash(t *testing.T, change func(*wire.Request)) string {
	t.Helper()
	r, err := config(t, strings.ReplaceAll(file, "./conf:", "./conf/:"), func(r *wire.Request) {
		r.Secrets = map[string]string{"db-password": "v1"}
		if change != nil {
			change(r)
		}
		fixed := filepath.Join(os.TempDir(), "infractl-compose-test-"+filepath.Base(t.Name()))
		_ = os.Remove(fixed)
		if err := os.Symlink(r.Dir, fixed); err != nil { // paths are part of the hash
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(fixed) })
		r.Dir = fixed
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.Services[1].Hash
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		compose string
		change  func(*wire.Request)
	}{
		"build":           {compose: "services: {web: {image: 'web:1', build: .}}\n"},
		"provider":        {compose: "services: {web: {image: 'web:1', provider: {type: x}}}\n"},
		"unknown image":   {compose: "services: {web: {image: 'other:1'}}\n"},
		"unknown secret":  {compose: "services: {web: {image: 'web:1', secrets: [x]}}\nsecrets: {x: {external: true}}\n"},
		"owner by name":   {compose: "services: {web: {image: 'web:1', secrets: [{source: x, uid: root}]}}\nsecrets: {x: {external: true, name: db-password}}\n"},
		"not a file":      {compose: file, change: func(r *wire.Request) { r.File = "../app.yml" }},
		"unknown action":  {compose: file, change: func(r *wire.Request) { r.Action = "pull" }},
		"does not parse":  {compose: "services: [\n"},
		"missing project": {compose: file, change: func(r *wire.Request) { r.Project = "" }},
	} {
		if _, err := config(t, c.compose, c.change); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
}

func TestEngineThatIsAwayIsUnavailable(t *testing.T) {
	_, err := config(t, "services: {web: {image: 'web:1'}}\n", func(r *wire.Request) { r.Action, r.Socket = wire.Up, "/nonexistent/docker.sock" })
	if !errs.Is(err, errs.Unavailable) || errs.HintOf(err) == "" {
		t.Errorf("err = %v", err)
	}
}
