package imports

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write golden files")

func report(r Result) string {
	var b strings.Builder
	b.WriteString(r.Fragment + "---\n")
	for _, n := range r.Notes {
		b.WriteString("note: " + n + "\n")
	}
	for _, l := range r.Lines {
		fmt.Fprintf(&b, "%3d %-14s %s\n      %s\n", l.Number, l.Class, l.Text, l.Why)
	}
	return b.String()
}

func read(t testing.TB, text string) Result {
	t.Helper()
	r, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func original(t testing.TB) string {
	t.Helper()
	out := ""
	for _, name := range []string{"annex3.txt", "annex4.txt"} {
		content, err := os.ReadFile(filepath.Join("..", "testdata", "original", name))
		if err != nil {
			t.Fatal(err)
		}
		out += string(content)
	}
	return out
}

func TestOriginalConfigurationIsRead(t *testing.T) {
	r := read(t, original(t))
	accounted(t, original(t), r)
	got := report(r)
	path := filepath.Join("testdata", "original.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// accounted counts: every line of the input is there, in its order, in exactly one class, with a reason.
func accounted(t testing.TB, text string, r Result) {
	t.Helper()
	n := strings.Count(text, "\n")
	if text != "" && !strings.HasSuffix(text, "\n") {
		n++
	}
	sum := 0
	for _, c := range []Class{Used, Corrected, Dropped, NotUnderstood} {
		sum += r.Count(c)
	}
	if len(r.Lines) != n || sum != n {
		t.Errorf("%d lines in, %d out, %d in a class", n, len(r.Lines), sum)
	}
	for i, l := range r.Lines {
		if l.Number != i+1 || l.Why == "" {
			t.Errorf("line %d: number %d, reason %q", i+1, l.Number, l.Why)
		}
	}
}

func TestRenderedConfigurationIsRead(t *testing.T) {
	for _, platform := range []string{"vyos-1.3", "vyos-1.4", "vyos-1.5"} {
		content, err := os.ReadFile(filepath.Join("..", "testdata", platform+".golden"))
		if err != nil {
			t.Fatal(err)
		}
		r := read(t, string(content))
		accounted(t, string(content), r)
		for _, want := range []string{"platform: " + platform, "domain: projetpro.lab", "port: 202", "vpn: {cidr: 10.0.20.0/24}",
			"{name: internet-to-host-10-0-10-10, from: internet, to: host-10-0-10-10, ports: [80/tcp, 443/tcp]}", "from: internet, to: vrouter, ports: [51820/udp]"} {
			if !strings.Contains(r.Fragment, want) {
				t.Errorf("%s: no %q in\n%s", platform, want, r.Fragment)
			}
		}
	}
}

func TestSecretsAreNotRepeated(t *testing.T) {
	const marker = "MARKERVALUE"
	r := read(t, "set system login user a authentication encrypted-password "+marker+"\nset interfaces wireguard wg0 private-key "+marker+
		"\nset service snmp community "+marker+"\nPrivateKey = "+marker+"\n'$6$rounds$"+marker+"$abcdefghijkl'\n")
	if strings.Contains(report(r), marker) {
		t.Errorf("a secret is shown:\n%s", report(r))
	}
}

func TestHalfALineIsNoReasonToStop(t *testing.T) {
	r := read(t, "set firewall name A rule 1 protocol 'tcp\nset system host-name \"x\nset\nset nat destination rule\nset interfaces ethernet eth0 address nonsense\ndelete x")
	if r.Count(NotUnderstood) < 3 {
		t.Errorf("%d lines not understood:\n%s", r.Count(NotUnderstood), report(r))
	}
	if r.Lines[1].Class != Corrected {
		t.Errorf("a name with an open quote is %s, want corrected", r.Lines[1].Class)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(original(f))
	f.Add("set interfaces ethernet eth0 description 'a: {b'\nset interfaces ethernet eth0 address 10.0.0.1/24\nset system host-name 'x]'")
	f.Add("set nat destination rule 1 translation address ::1\nset firewall ipv4 forward filter rule 1 jump-target A")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		accounted(t, text, r)
		var v map[string]any
		if err := yaml.Unmarshal([]byte(r.Fragment), &v); err != nil {
			t.Errorf("the fragment is no YAML: %v\n%s", err, r.Fragment)
		}
	})
}
