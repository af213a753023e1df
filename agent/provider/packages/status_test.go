package packages

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/agent/provider/providertest"
)

func TestScan(t *testing.T) {
	text := "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nDescription: x\n Status: hold ok installed\n\n\n" +
		"Package: b\nStatus: hold reinstreq half-installed\nConffiles:\n /etc/b 00\n /etc/old 00 obsolete\nProtected: yes\nnonsense\n\n" +
		"Package: c\nStatus: deinstall ok config-files\n\nPackage: d\nStatus: install ok triggers-pending"
	var got []string
	scan([]byte(text), func(e *entry) {
		got = append(got, fmt.Sprintf("%s %s %t %t %t %t %s", e.name, e.version, e.known(), e.installed(), e.broken(), e.essential, e.conffiles))
	})
	want := []string{"a 1:2-3 true true false false []", "b  true false true true [/etc/b]", "c  true false false false []",
		"d  true true false false []"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(baseStatus))
	f.Add([]byte("Package: \nStatus:\n\n \nConffiles:\n \t\n /x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		scan(data, func(e *entry) {
			n++
			if len(e.name) == 0 || e.installed() && !e.known() {
				t.Errorf("%q", e.name)
			}
		})
		if n > bytes.Count(data, []byte("Package")) {
			t.Errorf("%d packages of %q", n, data)
		}
	})
}

func TestTrialIsRead(t *testing.T) {
	text := "NOTE: this is a simulation\nRemv old [1.0]\nPurg gone:amd64 [2]\nInst libx:amd64 [1.0] (1.1 Debian:12.1/stable [amd64])\n" +
		"Inst new (2:3.0-1 Debian:12/stable, Debian-Security:12/stable-security [all]) [more]\nConf new (2:3.0-1 Debian)\n"
	if d := cmp.Diff([]string{"old", "gone"}, removals(text)); d != "" {
		t.Error(d)
	}
	want := []install{{"libx", "1.1", true}, {"new", "2:3.0-1", false}}
	if got := installs(text); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
}

// BenchmarkPlanNoChange is the price of a plan on a host with 1000 packages on which all is as wished.
func BenchmarkPlanNoChange(b *testing.B) {
	m := &fakeMachine{root: b.TempDir()}
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "Package: package-%d\nStatus: install ok installed\nPriority: optional\nSection: net\nInstalled-Size: 686\n"+
			"Maintainer: Some People <people@example.org>\nArchitecture: amd64\nVersion: 1.%d-3\nDepends: libc6 (>= 2.34), libx (>= 1.2)\n"+
			"Conffiles:\n /etc/package-%d.conf 0123456789abcdef0123456789abcdef\nDescription: does something\n %s\n\n", i, i, i,
			strings.Repeat("It does it well, and for a long time. ", 20))
	}
	if err := writeAll(m.root+statusFile, text.String()); err != nil {
		b.Fatal(err)
	}
	p := m.provider(&providertest.Faults{})
	w := add([]string{"package-1", "package-500", "package-999"}, nil)
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if pl, err := p.Plan(b.Context(), w); err != nil || len(pl.Changes) > 0 {
			b.Fatal(pl.Changes, err)
		}
	}
}
