package dolibarr

import (
	"context"
	"io"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The official image starts as root, rewrites its configuration and upgrades databases: no name of an image may bring that back, not that of
// a mirror either.
func TestImagesGiveCodeAndNothingElse(t *testing.T) {
	r := newTaskRig(t)
	for name, use := range map[string]string{"ours": "infractl/dolibarr:19.0.4", "the official one": "dolibarr/dolibarr:19.0.4",
		"a mirror's": "registry.example.test/dolibarr/dolibarr:19.0.4-php8.2", "renamed": "registry.example.test/erp:19"} {
		t.Run(name, func(t *testing.T) {
			inst := testInstance(acmeID, "acme")
			inst.AppImage = &v1.StackImage{Use: use}
			app, cron, tool := r.appContainer(inst), r.cronContainer(inst), r.toolContainer(inst, "", true)
			for _, s := range []docker.ContainerSpec{app, cron, tool} {
				if s.User != "33:33" || !s.ReadOnly || len(s.CapAdd) != 0 || s.Image != use {
					t.Errorf("%s: user %q, read only %t, capabilities %v, image %s", s.Name, s.User, s.ReadOnly, s.CapAdd, s.Image)
				}
				if !slices.Contains(s.Env, "PHP_INI_SCAN_DIR=:"+dolibarr.ToolDir) {
					t.Errorf("%s: PHP does not look at our settings: %v", s.Name, s.Env)
				}
			}
			if app.Entrypoint[0] != "apache2" || cron.Entrypoint[0] != "sh" || !slices.Contains(app.Env, "DOLI_INSTALL_AUTO=0") {
				t.Errorf("starts: %v, %v, %v", app.Entrypoint, cron.Entrypoint, app.Env)
			}
		})
	}
}

// What containers start from the tool's folder is in it.
func TestFilesThatContainersStartAreWritten(t *testing.T) {
	r := newTaskRig(t)
	inst := testInstance(acmeID, "acme")
	if err := r.writeTool(t.Context(), inst); err != nil {
		t.Fatal(err)
	}
	app, cron := r.appContainer(inst), r.cronContainer(inst)
	files := []string{dolibarr.ToolFile, dolibarr.ToolDir + "/php.ini", dolibarr.ToolDir + "/php-web.ini"}
	for _, word := range slices.Concat(app.Entrypoint, app.Health.Test, cron.Entrypoint) {
		if strings.HasPrefix(word, dolibarr.ToolDir) {
			files = append(files, word)
		}
	}
	if len(files) != 6 {
		t.Errorf("files %v", files)
	}
	for _, file := range files {
		f, err := r.host.Stat(path.Join(r.toolDir(), path.Base(file)))
		if err != nil || f.Absent || f.Mode.Perm() != 0o444 {
			t.Errorf("%s: %v, %+v", file, err, f)
		}
	}
}

// endingEngine ends each command with a code.
type endingEngine struct {
	*testEngine
	code int
}

func (e endingEngine) Run(context.Context, string, []string, string, io.Reader, io.Writer) (int, error) {
	return e.code, nil
}

// A database that is slow may be tried again; one whose container ended is not waited for.
func TestDatabaseThatDoesNotComeUp(t *testing.T) {
	for name, c := range map[string]struct {
		code int
		want errs.Code
	}{"slow": {1, errs.Timeout}, "ended": {137, errs.Internal}} {
		t.Run(name, func(t *testing.T) {
			r := newTaskRig(t)
			r.Provider.engine = endingEngine{r.engine, c.code}
			if err := r.reachable(t.Context(), "id", "infractl-aaaaaaaa-db"); errs.CodeOf(err) != c.want || !strings.Contains(errs.HintOf(err), "docker logs") {
				t.Errorf("%v, hint %q", err, errs.HintOf(err))
			}
		})
	}
}
