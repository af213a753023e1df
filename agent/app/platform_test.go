package app

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func names(p *Providers) []string {
	var out []string
	for _, b := range p.Bound {
		out = append(out, b.Name())
	}
	return out
}

func TestVyOSHasOneProvider(t *testing.T) {
	for _, mark := range []string{"/etc/vyos-release", "/usr/share/vyos/version.json", "/opt/vyatta/etc/version"} {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(root+mark), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+mark, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		p := NewProviders(host.New(host.Config{Root: root}), hclog.NewNullLogger())
		if got := names(p); len(got) != 1 || got[0] != "vyos" || p.Router == nil {
			t.Errorf("with %s: %v, want vyos alone", mark, got)
		}
	}
}

func TestLinuxRefusesASpecForVyOS(t *testing.T) {
	p := NewProviders(host.New(host.Config{Root: t.TempDir()}), hclog.NewNullLogger())
	for platform, want := range map[string]errs.Code{"vyos-1.4": errs.Precondition, "linux": ""} {
		spec := &v1.HostSpec{Node: "vrouter", Router: &v1.RouterSpec{Platform: platform}}
		for _, stage := range []provider.Stage{provider.Additions, provider.Widening, provider.Services, provider.Narrowing} {
			guard := p.Bound[0]
			if !guard.At(stage) {
				t.Errorf("nobody looks at the platform at stage %d", stage)
			}
			_, err := guard.Plan(context.Background(), spec, stage, nil)
			if want == "" && err != nil || want != "" && errs.CodeOf(err) != want {
				t.Errorf("%s at stage %d: %v", platform, stage, err)
			}
		}
	}
}
