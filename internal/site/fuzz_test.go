package site

import (
	"testing"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// FuzzLoad: whatever the files hold, Load returns either a site that everything can be derived from, or an error with a place.
func FuzzLoad(f *testing.F) {
	siteFile, overlay := read(f, "site.yaml"), read(f, "lab.yaml")
	files := exampleFiles(f)
	f.Add(siteFile, overlay)
	f.Add(siteFile, []byte{})
	f.Add([]byte("site: x\nnodes: {a: {role: relay, address: 10.0.0.4}}\nnetworks: {lan: {cidr: 10.0.0.0/24}}\n"), []byte("probes: {p: {}}"))
	for _, s := range []string{
		"", "nodes:\n", "nodes: [a]", "networks: {a: {cidr: 0.0.0.0/0, gateway: 1.2.3.4}}", "flows: [{}]", "a: &a [*a]",
		"ssh: {users: [a], port: 99999999999}", "accounts: {a: {ssh_keys: [x]}}", "dns: {aliases: {a: b}}", "backup: {copies: {a: {driver: s3, to: /}}}",
		"networks: {a: {cidr: 255.255.255.252/30, gateway: 255.255.255.255}, b: {cidr6: ffff::/126}}", "nodes: {a/b: {interfaces: {e/0: {}}}}",
		"patching: {waves: [{nodes: [a, a]}]}", "rollout: {window: 1ns, max_unavailable: 0}", "vpn: {address: '::'}",
	} {
		f.Add([]byte(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, content, over []byte) {
		src := Source{File: "site.yaml", Content: content, Files: files}
		if len(over) > 0 {
			src.OverlayFile, src.OverlayContent = "lab.yaml", over
		}
		s, findings := Load(src)
		bad := false
		for _, x := range findings {
			bad = bad || x.Severity == v1.Severity_SEVERITY_ERROR
			if x.Where == "" || x.Message == "" {
				t.Errorf("finding %v", x)
			}
		}
		if bad == (s != nil) {
			t.Fatalf("a site with errors, or none without: %v", findings)
		}
		if s == nil {
			return
		}
		if _, err := s.HostSpecs(Resources{}); err != nil {
			t.Fatal(err)
		}
		s.Waves(nil)
		for _, n := range s.NodeNames() {
			s.Witnesses(n)
		}
	})
}
