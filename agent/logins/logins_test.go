package logins

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/host"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The keys and lines are those of OpenSSH 9.2.
const (
	person  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU anna@laptop"
	witness = `restrict,command="true",from="10.0.10.4" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOSdCr9KPhnIv7pCdzoSyGflHW2bMORsoA9kYj66mdOd infractl-witness:client-relay`
	keyOf   = "SHA256:UbdvQbi1+jh0Ga1lrdDFjDCWKq2CbF2+VbYeL7xJDiY"
	certLog = "Accepted publickey for operator from 10.0.10.4 port 40216 ssh2: ED25519-CERT " + keyOf +
		" ID infractl operator/anna 12 (serial 3) CA ED25519 SHA256:k2x4pcQAJP1JXkNBR7YhdEKFgmhTSYGMWoSZ3GY0mMs"
)

func TestParseLogin(t *testing.T) {
	for name, tt := range map[string]struct {
		message string
		want    login
		ok      bool
	}{
		"certificate": {certLog, login{method: "publickey", account: "operator", source: "10.0.10.4", key: keyOf, certificate: true,
			id: "infractl operator/anna 12", serial: "3", authority: "SHA256:k2x4pcQAJP1JXkNBR7YhdEKFgmhTSYGMWoSZ3GY0mMs"}, true},
		"key": {"Accepted publickey for operator from fd00::4 port 1 ssh2: ED25519 " + keyOf,
			login{method: "publickey", account: "operator", source: "fd00::4", key: keyOf}, true},
		"password":                       {"Accepted password for anna from 10.0.20.9 port 50000 ssh2", login{method: "password", account: "anna", source: "10.0.20.9"}, true},
		"failed":                         {"Failed publickey for operator from 10.0.10.4 port 40216 ssh2: ED25519 " + keyOf, login{}, false},
		"a name that tries to be a line": {"Invalid user Accepted publickey for operator from 10.0.10.4 port 1 ssh2 from 10.0.20.9 port 5", login{}, false},
		"no address":                     {"Accepted publickey for operator from nowhere port 1 ssh2", login{}, false},
		"path in the account":            {"Accepted publickey for ../shadow from 10.0.10.4 port 1 ssh2", login{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parseLogin(tt.message)
			if ok != tt.ok {
				t.Fatalf("ok = %v", ok)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(login{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(journalLine("s=1;i=2", certLog)))
	f.Add([]byte(`{"__CURSOR":"s=1","MESSAGE":[65,66]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		if !validCursor(r.cursor) {
			t.Errorf("cursor %q", r.cursor)
		}
		if l, ok := parseLogin(r.message); ok && (l.account == "" || strings.ContainsAny(l.account+l.source+l.key+l.serial, "/\\ \n") && !strings.Contains(l.key, "/")) {
			t.Errorf("login %+v", l)
		}
	})
}

func journalLine(cursor, message string) string {
	data, _ := json.Marshal(map[string]string{"__CURSOR": cursor, "__REALTIME_TIMESTAMP": "1900000000000000", "MESSAGE": message})
	return string(data)
}

// journal plays journalctl: each run prints its lines, waits for a moment, and ends.
type journal struct {
	runs [][]string
	argv [][]string
	err  error
}

func (j *journal) Run(context.Context, host.Cmd) (host.Output, error) { return host.Output{}, nil }

func (j *journal) Follow(ctx context.Context, cmd host.Cmd, line func([]byte) error) error {
	j.argv = append(j.argv, cmd.Argv)
	if len(j.runs) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	lines := j.runs[0]
	j.runs = j.runs[1:]
	for _, l := range lines {
		if err := line([]byte(l)); err != nil {
			return err
		}
	}
	return j.err
}

func machine(t *testing.T, j *journal) *host.Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{"/usr/bin/journalctl": "", keysDir + "/operator": "# written\n" + person + "\n" + witness + "\n"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+name), 0o755), os.WriteFile(root+name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return host.New(host.Config{Root: root, Runner: j})
}

func accepted(fingerprint string) string {
	return "Accepted publickey for operator from 10.0.10.4 port 4 ssh2: ED25519 " + fingerprint
}

func TestLoginsAreReportedOnceAndFromWhereItLeftOff(t *testing.T) {
	j := &journal{runs: [][]string{
		{journalLine("s=a;i=1", "Server listening on 0.0.0.0 port 202."), journalLine("s=a;i=2", certLog), "no json",
			journalLine("s=a;i=3", accepted(fingerprint(t, witness))), journalLine("s=a;i=4", "Failed publickey for operator from 10.0.20.9 port 1 ssh2")},
		{journalLine("s=a;i=5", accepted(fingerprint(t, person))), journalLine("s=a;i=6", "Accepted password for anna from 10.0.20.9 port 5 ssh2"),
			journalLine("s=a;i=7", accepted(keyOf))},
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []*v1.HostEvent
	registry := prometheus.NewRegistry()
	w := New(Config{Host: machine(t, j), Dir: "/state/logins", Log: hclog.NewNullLogger(), Pause: time.Millisecond, Registerer: registry,
		Send: func(_ context.Context, ev *v1.HostEvent) error {
			if got = append(got, ev); len(got) == 4 {
				cancel()
			}
			return nil
		}})
	w.Run(ctx)
	at := timestamppb.New(time.UnixMicro(1900000000000000))
	event := func(account, source, message string) *v1.HostEvent {
		return &v1.HostEvent{Time: at, Action: "ssh.login", Target: account, Source: source, Message: message, Result: "ok"}
	}
	want := []*v1.HostEvent{
		event("operator", "10.0.10.4", "certificate of operator/anna, entry 12, serial 3, key "+keyOf),
		event("operator", "10.0.10.4", "break-glass: key "+fingerprint(t, person)+" (anna@laptop)"),
		event("anna", "10.0.20.9", "break-glass: password"),
		event("operator", "10.0.10.4", "break-glass: key "+keyOf),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if len(j.argv) < 2 || !slices.Contains(j.argv[0], "--lines=0") || !slices.ContainsFunc(j.argv[1], func(a string) bool {
		return strings.HasPrefix(a, "--after-cursor=s=a;i=")
	}) {
		t.Errorf("journalctl was run as %v", j.argv)
	}
	if got := value(t, registry, "infractl_agent_ssh_failed_logins_total", ""); got != 1 {
		t.Errorf("%v failed tries", got)
	}
	for kind, want := range map[string]float64{kindCertificate: 1, kindBreakGlass: 3, kindWitness: 1} {
		if got := value(t, registry, "infractl_agent_ssh_logins_total", kind); got != want {
			t.Errorf("%s: %v logins, want %v", kind, got, want)
		}
	}
}

func TestAnEventThatWasNotHandedOverIsReportedAgain(t *testing.T) {
	j := &journal{runs: [][]string{{journalLine("s=a;i=1", "x"), journalLine("s=a;i=2", certLog)}}}
	h := machine(t, j)
	ctx, cancel := context.WithCancel(t.Context())
	w := New(Config{Host: h, Dir: "/state/logins", Log: hclog.NewNullLogger(), Pause: time.Millisecond,
		Send: func(ctx context.Context, _ *v1.HostEvent) error { cancel(); return ctx.Err() }})
	w.Run(ctx)
	if got := w.cursor(); got != "s=a;i=1" {
		t.Errorf("the place is %q, behind the login that nobody heard of", got)
	}
}

func TestAPlaceThatIsRefusedIsGivenUp(t *testing.T) {
	j := &journal{runs: [][]string{nil}, err: &host.ExitError{Code: 1, Stderr: "Failed to seek to cursor"}}
	h := machine(t, j)
	if _, err := h.WriteFile("/state/logins/cursor", []byte("s=gone\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	New(Config{Host: h, Dir: "/state/logins", Log: hclog.NewNullLogger(), Pause: time.Millisecond}).Run(ctx)
	if len(j.argv) != 2 || !slices.Contains(j.argv[0], "--after-cursor=s=gone") || !slices.Contains(j.argv[1], "--lines=0") {
		t.Errorf("journalctl was run as %v", j.argv)
	}
}

func TestOnlyUsableCursors(t *testing.T) {
	for text, want := range map[string]bool{"s=0a1b;i=2;b=ff;m=1;t=2;x=3": true, "": false, "--output=verbose": false, "s=1\n": false,
		"s=" + strings.Repeat("a", 600): false} {
		if got := validCursor(text); got != want {
			t.Errorf("%.20q: %v", text, got)
		}
	}
}

func fingerprint(t *testing.T, line string) string {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(key)
}

// value returns a counter of the registry; label is the value of its only label.
func value(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no counter %s of %q", name, label)
	return 0
}
