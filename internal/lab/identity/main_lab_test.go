//go:build lab

package identity

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// spare is in the site from the start, and its machine enrols last: the tests that need a machine to play with use it.
const spare = "srv-supervision"

// smallDisk is where the production VM's disk can be filled.
const smallDisk = "/var/lib/infractl"

// site is the one lab that all tests of this package share. Tests run in the order of the files' names; the first one sets
// the site up by hand, and each leaves every node in sync.
var site *demo.Site

func TestMain(m *testing.M) {
	os.Exit(demo.Suite{
		Name: "ident", Limit: 10 * time.Minute,
		Change: func(o *demo.Options) { o.Bare, o.Customize = true, machines },
	}.Run(&site, m.Run))
}

// machines are five bare VMs, made from a template as docs/bootstrap.md describes it: sshd listens on the site's port
// already. One comes with the usual port and socket activation, for that must work too.
func machines(cfg *lab.Config) {
	cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool { return vm.Name == "srv-dhcp-dns" || vm.Name == demo.Internet })
	for i := range cfg.VMs {
		vm := &cfg.VMs[i]
		vm.NestedDocker = false
		if vm.Name == demo.Preprod {
			continue
		}
		from := "10.0.10.4/32"
		if vm.Name == demo.Relay {
			from = "10.0.20.0/24"
		}
		for j := range vm.Files {
			if vm.Files[j].Guest == "/etc/infractl/firstboot.json" {
				vm.Files[j].Content = []byte(fmt.Sprintf(`{"ssh_from": [%q], "ssh_port": 202}`, from))
			}
		}
		vm.Files = append(vm.Files, lab.File{Guest: "/etc/ssh/sshd_config.d/10-port.conf", Mode: 0o644, Content: []byte("Port 202\n")})
	}
	prod := cfg.VM(demo.Prod)
	prod.SmallDisks = []lab.SmallDisk{{Guest: smallDisk, MiB: 16}}
	prod.Files = append(prod.Files, lab.File{Guest: "/etc/infractl/template", Mode: 0o644})
}

// in runs a command in a VM and returns what it printed and its code.
func in(t *testing.T, vm string, argv ...string) (string, int) {
	t.Helper()
	return labtest.In(t, site.Lab, vm, argv...)
}

// must runs a command in a VM, wants it to succeed, and returns standard output.
func must(t *testing.T, vm string, argv ...string) string {
	t.Helper()
	return labtest.Must(t, site.Lab, vm, argv...)
}

// put writes a file in a VM.
func put(t *testing.T, vm, path, content string) {
	t.Helper()
	if err := site.Lab.VM(vm).WriteFile(t.Context(), path, 0o600, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

// infractl runs the command line as the operator, in the admin network, and wants a code.
func infractl(t *testing.T, wantCode int, args ...string) string {
	t.Helper()
	return labtest.Infractl(t, site, wantCode, args...)
}

// ask runs the command line as the operator and reads its answer.
func ask[M proto.Message](t *testing.T, into M, args ...string) M {
	t.Helper()
	r, err := site.Infractl(t.Context(), append(args, "-o", "json")...)
	if err != nil {
		t.Fatalf("infractl %v: %v", args, err)
	}
	if err := protojson.Unmarshal([]byte(r.Stdout), into); err != nil {
		t.Fatalf("infractl %v: %v: %s%s", args, err, r.Stdout, r.Stderr)
	}
	return into
}

// node returns what the server knows under a name; the state tells several apart. It is nil when there is none.
func node(t *testing.T, name string, states ...v1.NodeState) *v1.Node {
	t.Helper()
	for _, n := range ask(t, &v1.ListNodesResponse{}, "node", "list").GetNodes() {
		if n.GetName() == name && (len(states) == 0 || slices.Contains(states, n.GetState())) {
			return n
		}
	}
	return nil
}

func online(t *testing.T, name string) bool {
	t.Helper()
	return node(t, name, v1.NodeState_NODE_STATE_ONLINE) != nil
}

// inSync reports whether a node is online and all that the site wants it to be.
func inSync(t *testing.T, name string) bool {
	t.Helper()
	n := node(t, name, v1.NodeState_NODE_STATE_ONLINE)
	return n.GetWantedDigest() != "" && n.GetHostState().GetNarrowedDigest() == n.GetWantedDigest() && n.GetHostState().GetArmedCommit() == ""
}

// token makes a join token for a node.
func token(t *testing.T, name string, more ...string) string {
	t.Helper()
	out, err := site.Must(t.Context(), append([]string{"token", "create", "--node", name}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// audited reports whether the audit log has an entry with that result about a node, whose message contains a text.
func audited(t *testing.T, node, result, text string) bool {
	t.Helper()
	for _, e := range ask(t, &v1.ListAuditResponse{}, "audit", "--limit", "1000").GetEntries() {
		if strings.Contains(e.GetTarget(), node) && e.GetResult() == result && strings.Contains(e.GetMessage(), text) {
			return true
		}
	}
	return false
}

func serverMetrics(t *testing.T) string {
	t.Helper()
	page, err := site.ServerPage(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// refused returns how many refusals the server has counted for a reason.
func refused(t *testing.T, reason string) int {
	t.Helper()
	for line := range strings.Lines(serverMetrics(t)) {
		if rest, ok := strings.CutPrefix(line, `infractl_refused_total{reason="`+reason+`"} `); ok {
			n, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the server counts no refusals for the reason %q", reason)
	return 0
}

// agentSays returns what an agent says of itself.
func agentSays(t *testing.T, vm string) string {
	t.Helper()
	out, _ := in(t, vm, "infractl-agent", "status")
	return out
}

// settled wants every node in sync and nothing to tell of.
func settled(t *testing.T) {
	t.Helper()
	labtest.Settled(t, site, 60*time.Second)
}

// edited writes the site file with one text replaced by another and returns its path.
func edited(t *testing.T, old, replacement string) string {
	t.Helper()
	return labtest.Edited(t, site.File, old, replacement)
}

// apply applies a site file from the admin network and wants a code.
func apply(t *testing.T, wantCode int, file string, more ...string) string {
	t.Helper()
	return infractl(t, wantCode, append([]string{"apply", "-f", file, "--yes"}, more...)...)
}

// end is how a command ended.
type end struct {
	result lab.Result
	err    error
}

// inBackground runs the command line as the operator beside the test.
func inBackground(ctx context.Context, args ...string) <-chan end {
	ended := make(chan end, 1)
	go func() {
		r, err := site.Infractl(ctx, args...)
		ended <- end{r, err}
	}()
	return ended
}

// step tells people how far a long test is.
func step(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "         "+format+"\n", args...)
}
