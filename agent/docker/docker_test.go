package docker

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/errs"
)

// fake answers as Docker 20.10 does: API 1.41, no health in the list, failures of a load under status 200.
func fake(t *testing.T, answers map[string]string) *Engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "docker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/_ping" {
			return
		}
		if !strings.HasPrefix(r.URL.Path, "/v1.41/") {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"message":"client version is too new"}`)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		answer, ok := answers[strings.TrimPrefix(r.URL.Path, "/v1.41")]
		switch {
		case answer == "hang":
			<-r.Context().Done()
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"no such thing"}`)
		default:
			fmt.Fprint(w, answer)
		}
	})}
	go server.Serve(listener) // it ends with the test
	t.Cleanup(func() { _ = server.Close() })
	e, err := New(Config{Socket: socket, Timeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func TestListHasHealthOfOldEngines(t *testing.T) {
	e := fake(t, map[string]string{"/containers/json": `[
		{"Id":"b","Names":["/other/alias","/web-1"],"Image":"web:1","ImageID":"sha256:aa","State":"running","Status":"Up 2 minutes (unhealthy)","Labels":{"com.docker.compose.project":"app"}},
		{"Id":"a","Names":["/db-1"],"State":"exited","Status":"Exited (0) 3 hours ago"}]`})
	list, err := e.Containers(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	got := make([]string, 0, len(list))
	for _, c := range list {
		got = append(got, strings.Join([]string{c.Name, c.State, c.Health, c.Project()}, "|"))
	}
	if d := cmp.Diff([]string{"db-1|exited||", "web-1|running|unhealthy|app"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestInspectKeepsWhatPeopleAskFor(t *testing.T) {
	e := fake(t, map[string]string{"/containers/web/json": `{"Id":"b","Name":"/web","Image":"sha256:aa","RestartCount":3,
		"State":{"Status":"running","Pid":42,"StartedAt":"2026-01-02T03:04:05.6Z","FinishedAt":"0001-01-01T00:00:00Z",
		"Health":{"Status":"unhealthy","FailingStreak":2,"Log":[{"Output":"old"},{"Output":"refused"}]}},
		"Config":{"Image":"web:1","Tty":true},"HostConfig":{"RestartPolicy":{"Name":"always"}}}`})
	d, err := e.Inspect(context.Background(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if d.Restarts != 3 || d.Pid != 42 || d.HealthOutput != "refused" || !d.Finished.IsZero() || d.Started.Year() != 2026 || !d.TTY || d.RestartPolicy != "always" {
		t.Errorf("got %+v", d)
	}
}

func TestFailuresHaveCodes(t *testing.T) {
	e := fake(t, map[string]string{"/containers/json": "hang", "/images/load": `{"stream":"x"}` + "\n" + `{"error":"no space left on device"}`})
	ctx := context.Background()
	list := func(e *Engine) error { _, err := e.Containers(ctx); return err }
	absent, err := New(Config{Socket: "/nonexistent/docker.sock"})
	if err != nil {
		t.Fatal(err)
	}
	_, missing := e.Inspect(ctx, "x")
	for name, c := range map[string]struct {
		err  error
		want errs.Code
	}{
		"absent engine":  {list(absent), errs.Unavailable},
		"hanging engine": {list(e), errs.Timeout},
		"missing":        {missing, errs.NotFound},
		"full disk":      {e.LoadImage(ctx, strings.NewReader("tar")), errs.Exhausted},
	} {
		if got := errs.CodeOf(c.err); got != c.want {
			t.Errorf("%s: code = %q, want %q: %v", name, got, c.want, c.err)
		}
	}
}

func TestAnswerThatIsTooLargeIsCut(t *testing.T) {
	e := fake(t, map[string]string{"/containers/json": `[{"Id":"` + strings.Repeat("x", maxAnswer) + `"}]`})
	e.timeout = 20 * time.Second
	if _, err := e.Containers(context.Background()); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("err = %v", err)
	}
}

func TestLogIsOneStream(t *testing.T) {
	frame := func(stream byte, text string) string {
		head := make([]byte, 8)
		head[0] = stream
		binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
		return string(head) + text
	}
	e := fake(t, map[string]string{"/containers/web/json": `{"Id":"web","Config":{}}`,
		"/containers/web/logs": frame(1, "out\n") + frame(2, "err\n")})
	r, err := e.Logs(context.Background(), "web", LogOptions{Tail: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got bytes.Buffer
	if _, err := io.Copy(&got, r); err != nil || got.String() != "out\nerr\n" {
		t.Errorf("got %q, %v", got.String(), err)
	}
}
