package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
)

// exampleKeys are the keys that the agents of the example have made.
func exampleKeys() Resources {
	keys := map[string]string{}
	for _, n := range []string{"client-relay", "srv-prod", "operator", "internet", "vrouter"} {
		keys[n] = "ssh-ed25519 " + n
	}
	return Resources{WitnessKeys: keys, Secrets: map[string]string{"npm-db": "v1", "npm-admin": "v1", "portainer-admin": "v2", "smtp": "v1", "grafana-admin": "v1"},
		Images: map[string]ImageArchive{"mariadb:10.11.10": {Digest: "sha256:aaaa", ImageID: "sha256:bbbb"}}}
}

func TestExampleSpecs(t *testing.T) {
	for _, lab := range []bool{true, false} {
		s := load(t, example(t, lab))
		specs, err := s.HostSpecs(exampleKeys())
		if err != nil {
			t.Fatal(err)
		}
		if len(specs) != len(s.Nodes) {
			t.Errorf("%d specs for %d nodes", len(specs), len(s.Nodes))
		}
		for name, spec := range specs {
			content, err := protojson.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			// protojson varies its spaces on purpose.
			var b bytes.Buffer
			if err := json.Indent(&b, content, "", " "); err != nil {
				t.Fatal(err)
			}
			if lab {
				golden(t, "spec-"+name+".json", b.String()+"\n")
			} else if name == "vrouter" {
				golden(t, "spec-vyos.json", b.String()+"\n")
			}
		}
	}
}

func TestExampleFindings(t *testing.T) {
	for _, lab := range []bool{true, false} {
		src := example(t, lab)
		s, findings := Load(src)
		if s == nil {
			t.Fatal("refused")
		}
		golden(t, fmt.Sprintf("findings-lab-%t.golden", lab), format(findings))
	}
}

func TestExampleMatrix(t *testing.T) {
	s := load(t, example(t, true))
	var b strings.Builder
	for _, f := range s.Flows() {
		p := f.ToProto()
		fmt.Fprintf(&b, "%s: %s -> %s [%s] implied=%t (%s) %s\n", p.Name, p.From, p.To, strings.Join(p.Ports, " "), p.Implied, p.Reason, p.Where)
	}
	golden(t, "flows.golden", b.String())
}

func TestExampleRollout(t *testing.T) {
	s := load(t, example(t, true))
	var b strings.Builder
	for _, w := range s.Waves(nil) {
		fmt.Fprintf(&b, "wave %d: %s, %d at once (%s)\n", w.Number, strings.Join(w.Nodes, " "), w.MaxUnavailable, w.Reason)
	}
	for _, n := range s.NodeNames() {
		fmt.Fprintf(&b, "\n%s\n", n)
		for _, w := range s.Witnesses(n) {
			fmt.Fprintf(&b, "  %s: %s %s -> %s\n", w.Reason, w.Kind, w.From, w.To)
			for _, a := range w.Alternatives {
				fmt.Fprintf(&b, "    %s -> %s %s:%d\n", a.From, a.To, a.Address, a.Port)
			}
		}
	}
	golden(t, "rollout.golden", b.String())
}
