package access_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/infractl/infractl/certs"
	_ "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
)

var update = flag.Bool("update", false, "write the golden file")

func contract() []string {
	var out []string
	protoregistry.GlobalFiles.RangeFilesByPackage("infractl.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				out = append(out, fmt.Sprintf("/%s/%s", s.FullName(), s.Methods().Get(j).Name()))
			}
		}
		return true
	})
	slices.Sort(out)
	return out
}

func TestEveryMethodStandsInTheTable(t *testing.T) {
	var got []string
	for m, rule := range access.Methods() {
		got = append(got, m)
		if rule.MaxMessage <= 0 || rule.MaxMessage > access.MaxMessage {
			t.Errorf("%s: limit of %d bytes", m, rule.MaxMessage)
		}
		if rule.Listener == access.Main && rule.Nodes == (len(rule.Roles) > 0) {
			t.Errorf("%s is for nodes or for operators, not for both or nobody", m)
		}
		if rule.Listener != access.Main && (rule.Nodes || len(rule.Roles) > 0) {
			t.Errorf("%s asks for identities where there are none", m)
		}
	}
	slices.Sort(got)
	want := contract()
	if len(want) == 0 {
		t.Fatal("the contract has no methods")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("methods (-contract +table):\n%s", diff)
	}
}

// TestTable compares the table with a text that people read in review: who may call what.
func TestTable(t *testing.T) {
	var b strings.Builder
	table := access.Methods()
	for _, m := range contract() {
		rule := table[m]
		who := []string{}
		switch {
		case rule.Listener != access.Main:
			who = append(who, "anybody on "+string(rule.Listener))
		case rule.Nodes:
			who = append(who, "node")
		}
		for _, r := range certs.Roles() {
			if rule.Allows(r) {
				who = append(who, string(r))
			}
		}
		audit := ""
		if rule.Audit {
			audit = " audited"
		}
		fmt.Fprintf(&b, "%-32s %s%s\n", strings.TrimPrefix(m, "/infractl.v1."), strings.Join(who, ","), audit)
	}
	const golden = "testdata/table.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("table (-golden +got):\n%s", diff)
	}
}
