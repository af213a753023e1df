//go:build lab

package instances

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
)

// queueFile is where the proxy's node keeps its queue of certificates.
const queueFile = "/var/lib/infractl/proxy/certificates.json"

func TestACreationIsProvedByNameAndTLS(t *testing.T) {
	create(t, "proved")
	op := infractl(t, 0, "operation", "show", strings.TrimSpace(operationOf(t, "proved")))
	for _, words := range []string{
		"10.0.10.10 says proved." + Domain + " A 10.0.10.10",
		"proved." + Domain + " is served, its certificate lasts until",
		"of a private authority, which this host does not know",
	} {
		if !strings.Contains(strings.Join(strings.Fields(op), " "), words) {
			t.Errorf("the operation does not say %q:\n%s", words, op)
		}
	}
	if got := show(t, "proved").Certificate; !strings.Contains(got, "is served, its certificate lasts until") {
		t.Errorf("instance show says of its certificate %q", got)
	}
	infractl(t, 0, "instance", "audit")
	if err := fleet.Remove(t.Context(), "proved"); err != nil {
		t.Error(err)
	}
	// What is left of it can be checked by anybody.
	dir := t.TempDir()
	file, ca := filepath.Join(dir, "proved.txt"), filepath.Join(dir, "ca.pem")
	for path, text := range map[string]string{
		file: infractl(t, 0, "instance", "show", "proved", "--certificate"),
		ca:   infractl(t, 0, "instance", "verify-certificate", "--authority"),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out := infractl(t, 0, "instance", "verify-certificate", file, "--ca", ca); !strings.Contains(out, "proved") {
		t.Errorf("verify-certificate says %s", out)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(readFile(t, file), "proved", "another", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	infractl(t, 1, "instance", "verify-certificate", file, "--ca", ca)
}

func operationOf(t *testing.T, name string) string {
	t.Helper()
	var shown struct {
		Instance struct {
			Operation string `json:"operation_id"`
		} `json:"instance"`
	}
	if err := json.Unmarshal([]byte(infractl(t, 0, "instance", "show", name, "-o", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	return shown.Instance.Operation
}

// TestTheAuthorityIsAway takes as long as a certificate is waited for. The authority is held and not stopped: it would come back as another.
func TestTheAuthorityIsAway(t *testing.T) {
	signal := func(name string) {
		if out, code := in(t, demo.Internet, "systemctl", "kill", "--signal="+name, "lab-acme.service"); code != 0 {
			t.Fatal(out)
		}
	}
	signal("SIGSTOP")
	defer signal("SIGCONT")
	refused(t, "nocert", "nocert."+Domain+" is not served as it should be: the proxy has no certificate for it")
	wellOff(t)
}

// queue is what the proxy's agent remembers of certificates.
type queue struct {
	Version      int                       `json:"version"`
	Certificates map[string]map[string]any `json:"certificates"`
}

func readQueue(t *testing.T) (q queue, text string) {
	t.Helper()
	text, code := in(t, services, "cat", queueFile)
	if code != 0 {
		t.Fatal(text)
	}
	if err := json.Unmarshal([]byte(text), &q); err != nil {
		t.Fatal(err)
	}
	return q, text
}

func (q queue) write(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	if err := fleet.Lab.VM(services).WriteFile(t.Context(), queueFile, 0o600, text); err != nil {
		t.Fatal(err)
	}
}

// weekIsOver lets all certificates have been asked for long ago: the tests make more instances than a week has certificates.
func weekIsOver(t *testing.T) {
	t.Helper()
	q, _ := readQueue(t)
	for _, c := range q.Certificates {
		if c["requested"] != nil {
			c["requested"] = time.Now().UTC().AddDate(0, 0, -8)
		}
	}
	q.write(t)
}

// TestACertificateThatWaitsForItsTurn fills the week of the proxy's queue up.
func TestACertificateThatWaitsForItsTurn(t *testing.T) {
	full, was := readQueue(t)
	then := time.Now().UTC().Add(-24 * time.Hour)
	for n := range 40 {
		full.Certificates[fmt.Sprintf("full%02d.example.test", n)] = map[string]any{"wanted": then, "requested": then}
	}
	full.write(t)
	if _, err := fleet.MustCreate(t.Context(), "queued"); err != nil {
		t.Fatal(err)
	}
	if got := show(t, "queued").Certificate; !strings.Contains(got, "is served from "+then.AddDate(0, 0, 7).Format("2006-01-02")) {
		t.Errorf("instance show says of its certificate %q", got)
	}
	infractl(t, 0, "instance", "audit") // a name that waits is as it should be
	if err := fleet.Lab.VM(services).WriteFile(t.Context(), queueFile, 0o600, []byte(was)); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Remove(t.Context(), "queued"); err != nil {
		t.Error(err)
	}
	wellOff(t)
}
