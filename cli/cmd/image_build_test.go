package cmd_test

import (
	"archive/tar"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/infractl/infractl/internal/dolibarr/standin"
)

// release writes a release archive of the stand-in: release FILE VERSION
func release(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(standin.Archive(f, args[1]))
	ts.Check(f.Close())
}

// engine starts what answers like a Docker engine at $DOCKER_HOST: it notes what it was asked to build in the file engine.log, and fails
// when the file engine.error is there.
func engine(ts *testscript.TestScript, _ bool, _ []string) {
	dir, err := os.MkdirTemp("", "infractl-engine-") // a socket's path is short
	ts.Check(err)
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	ts.Check(err)
	server := &http.Server{Handler: &fakeEngine{log: ts.MkAbs("engine.log"), fault: ts.MkAbs("engine.error")}}
	go server.Serve(l)
	ts.Defer(func() { _ = server.Close(); _ = os.RemoveAll(dir) })
	ts.Setenv("DOCKER_HOST", "unix://"+socket)
}

type fakeEngine struct{ log, fault string }

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
		w.Header().Set("Api-Version", "1.41")
	case strings.HasSuffix(r.URL.Path, "/build"):
		var names []string
		for tr := tar.NewReader(r.Body); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			if h.Name == "Dockerfile" || strings.HasSuffix(h.Name, "filefunc.inc.php") {
				names = append(names, h.Name)
			}
		}
		_, _ = io.Copy(io.Discard, r.Body)
		slices.Sort(names)
		q := r.URL.Query()
		line := fmt.Sprintf("build %s args %s pull %q: %s\n", q.Get("t"), q.Get("buildargs"), q.Get("pull"), strings.Join(names, " "))
		if f, err := os.OpenFile(e.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			_, _ = f.WriteString(line)
			_ = f.Close()
		}
		_, _ = io.WriteString(w, `{"stream":"Step 1/9 : FROM ${BASE}\n"}`+"\n"+`{"stream":"Reading package lists\n"}`+"\n")
		if text, err := os.ReadFile(e.fault); err == nil {
			_, _ = fmt.Fprintf(w, `{"error":%q}`+"\n", strings.TrimSpace(string(text)))
		}
	case strings.HasSuffix(r.URL.Path, "/images/get"):
		_, _ = io.WriteString(w, "an image archive\n")
	default:
		http.Error(w, `{"message":"unknown request"}`, http.StatusNotFound)
	}
}
