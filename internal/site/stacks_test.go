package site

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// edit replaces a text in a file of the example, which must stand in it; site.yaml is the site file.
func edit(t *testing.T, src Source, file, from, to string) Source {
	t.Helper()
	replaced := func(content []byte) []byte {
		if !strings.Contains(string(content), from) {
			t.Fatalf("%s has no %q", file, from)
		}
		return []byte(strings.Replace(string(content), from, to, 1))
	}
	src.Files = slices.Clone(src.Files)
	if file == "site.yaml" {
		src.Content = replaced(src.Content)
	}
	for i, f := range src.Files {
		if f.Path == file {
			src.Files[i].Content = replaced(f.Content)
		}
	}
	return src
}

func TestStacksAreChecked(t *testing.T) {
	const services, supervision = "stacks/services.yml", "stacks/supervision.yml"
	base := example(t, false)
	base.File = "sites/site.yaml"
	missing := base
	missing.Files = nil
	for name, tt := range map[string]struct {
		src  Source
		want string
	}{
		"ErrMissingFile":       {missing, "error sites/site.yaml:76:49: file stacks/services.yml does not exist"},
		"ErrOpenPort":          {edit(t, base, services, `"${INFRACTL_ADDRESS}:81:81"`, `"81:81"`), "error sites/stacks/services.yml:51:9: service nginx publishes its port 81 on every address"},
		"ErrForeignAddress":    {edit(t, base, services, "${INFRACTL_ADDRESS}:81", "10.0.10.99:81"), "publishes on 10.0.10.99, which is no address of srv-dhcp-dns"},
		"ErrPassword":          {edit(t, base, services, "DB_MYSQL_PASSWORD__FILE: /run/secrets/npm-db", "DB_MYSQL_PASSWORD: npm"), "the value of DB_MYSQL_PASSWORD stands in the file"},
		"ErrSecretName":        {edit(t, base, services, "npm-db: {external: true}", "npm-db: {external: true, name: NPM_DB}"), `"NPM_DB" is no name for a secret`},
		"ErrReservedSecret":    {edit(t, base, services, "npm-db: {external: true}", "npm-db: {external: true, name: infractl-scrape-key}"), "no secret that anybody sets"},
		"ErrNotMonitoring":     {edit(t, base, "site.yaml", "monitoring:\n  node: srv-supervision", "monitoring:\n  node: srv-prod"), "which only the monitoring node has"},
		"ErrSameFile":          {edit(t, base, "site.yaml", "compose: "+supervision, "compose: "+services), "is the file of another stack already"},
		"ErrSamePort":          {edit(t, base, supervision, "${INFRACTL_ADDRESS}:9093:9093", "${INFRACTL_ADDRESS}:9090:9093"), "is taken by service"},
		"WarnNoFlow":           {edit(t, base, "site.yaml", "9090/tcp, 9093/tcp", "9090/tcp"), "warning sites/stacks/supervision.yml:48:9: no flow reaches port 9093/tcp of service alertmanager"},
		"WarnFlowForHostsOnly": {edit(t, base, supervision, "${INFRACTL_ADDRESS}:9093:9093", "${INFRACTL_ADDRESS}:9100:9093"), "no flow reaches port 9100/tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			s, findings := Load(tt.src)
			if got := format(findings); !strings.Contains(got, tt.want) || (s == nil) != strings.HasPrefix(name, "Err") {
				t.Errorf("want %q, got:\n%s", tt.want, got)
			}
		})
	}
}

func TestImagesFollowMapAndArchives(t *testing.T) {
	src := example(t, true)
	src.OverlayContent = bytes.ReplaceAll(src.OverlayContent, []byte("  mariadb:10.11.10: "), []byte("  docker.io/library/mariadb:10.11.10: "))
	src.OverlayContent = bytes.ReplaceAll(src.OverlayContent, []byte("  jc21/"), []byte("  other/"))
	s := load(t, src)
	res := exampleKeys()
	res.Images = map[string]ImageArchive{"lab/mariadb-of-debian:12": {Digest: "sha256:aa", ImageID: "sha256:bb"}, "mariadb:10.11.10": {Digest: "sha256:no"}}
	specs, err := s.HostSpecs(res)
	if err != nil {
		t.Fatal(err)
	}
	spec := specs["srv-dhcp-dns"]
	want := []*v1.StackImage{
		{Reference: "jc21/nginx-proxy-manager:2.15.1", Use: "jc21/nginx-proxy-manager:2.15.1"},
		{Reference: "mariadb:10.11.10", Use: "lab/mariadb-of-debian:12", ArchiveDigest: "sha256:aa", ImageId: "sha256:bb"},
		{Reference: "portainer/portainer-ce:2.21.4-alpine", Use: "lab/stand-in-for-portainer:1"},
	}
	if diff := cmp.Diff(want, spec.GetContainers().GetStacks()[0].GetImages(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := ArchivesOf(spec); !cmp.Equal(got, []string{"sha256:aa"}) {
		t.Errorf("archives %v", got)
	}
	if got := s.MissingSecrets(res); len(got) > 0 {
		t.Errorf("missing %v", got)
	}
	delete(res.Secrets, "smtp")
	if got := s.MissingSecrets(res); len(got) != 1 || got[0].GetHint() != "infractl secret set smtp" || got[0].GetWhere() != "site.yaml:77:49" {
		t.Errorf("missing %v", got)
	}
	if c := specs["srv-prod"].GetContainers(); c == nil || len(c.GetStacks()) > 0 {
		t.Errorf("a Docker host without stacks has %v, want an empty section: what is no longer named goes", c)
	}
	if c := specs["client-relay"].GetContainers(); c != nil {
		t.Errorf("a host without an engine has %v", c)
	}
}

func TestPackagesAreDerivedByRole(t *testing.T) {
	src := example(t, false)
	src.Content = append(src.Content, "\npackages:\n  all: {present: [curl], absent: [telnet]}\n  prod: {present: [htop, curl], hold: [docker.io]}\n"...)
	specs, err := load(t, src).HostSpecs(exampleKeys())
	if err != nil {
		t.Fatal(err)
	}
	for node, want := range map[string]*v1.PackagesSpec{
		"srv-prod":     {Present: []string{"curl", "htop"}, Absent: []string{"telnet"}, Hold: []string{"docker.io"}},
		"client-relay": {Present: []string{"curl"}, Absent: []string{"telnet"}},
		"vrouter":      nil, // VyOS is not managed
	} {
		if diff := cmp.Diff(want, specs[node].GetPackages(), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", node, diff)
		}
	}
	if specs, _ := load(t, example(t, false)).HostSpecs(exampleKeys()); specs["srv-prod"].GetPackages() != nil {
		t.Error("without the section packages are managed")
	}
}

// What a node's tasks need comes without a word in the site file, where the site is managed by Linux, and cannot be taken away.
func TestTasksBringTheirPackages(t *testing.T) {
	linux := func(src Source) Source {
		src.Content = bytes.Replace(src.Content, []byte("platform: vyos-1.4"), []byte("platform: linux"), 1)
		return src
	}
	caddy := func(src Source) Source {
		src.Content = bytes.Replace(src.Content, []byte("driver: npm "), []byte("driver: caddy "), 1)
		return src
	}
	specs, err := load(t, linux(caddy(example(t, false)))).HostSpecs(exampleKeys())
	if err != nil {
		t.Fatal(err)
	}
	for node, want := range map[string][]string{"vrouter": {"wireguard-tools"}, "srv-dhcp-dns": {"bind9", "caddy"}, "srv-prod": nil} {
		if diff := cmp.Diff(want, specs[node].GetPackages().GetPresent()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", node, diff)
		}
	}
	if specs, _ := load(t, example(t, false)).HostSpecs(exampleKeys()); specs["vrouter"].GetPackages() != nil {
		t.Error("a VyOS router has packages")
	}
	for section, want := range map[string]string{
		"{router: {absent: [wireguard-tools]}}": "package wireguard-tools cannot go: node vrouter has its tunnel with it",
		"{all: {absent: [wireguard-tools]}}":    "package wireguard-tools cannot go: node vrouter has its tunnel with it",
		"{services: {absent: [caddy]}}":         "package caddy cannot go: node srv-dhcp-dns is the proxy with it",
	} {
		src := linux(caddy(example(t, false)))
		src.Content = append(src.Content, "\npackages: "+section+"\n"...)
		s, findings := Load(src)
		if got := format(errorsOnly(findings)); s != nil || !strings.Contains(got, want) {
			t.Errorf("%s: want %q, got:\n%s", section, want, got)
		}
	}
	src := example(t, false)
	src.Content = append(src.Content, "\npackages: {all: {absent: [wireguard-tools]}}\n"...)
	if s, findings := Load(src); s == nil {
		t.Errorf("with a VyOS router nobody needs it: %v", findings)
	}
}

func TestPackagesRefuse(t *testing.T) {
	for section, want := range map[string]string{
		"{all: {present: [Curl]}}":                         "no name of a package",
		"{all: {present: [curl=7]}}":                       "no name of a package",
		"{all: {present: [\"--purge\"]}}":                  "no name of a package",
		"{all: {present: [curl, curl]}}":                   "is given twice",
		"{all: {present: [curl], absent: [curl]}}":         "both present and absent",
		"{prod: {absent: [curl]}, all: {present: [curl]}}": "both present and absent",
		"{prod: {present: [curl]}, all: {absent: [curl]}}": "absent on all nodes",
		"{all: {hold: [curl], absent: [curl]}}":            "both held and absent",
		"{all: {absent: [openssh-server]}}":                "infractl works with it",
		"{production: {present: [curl]}}":                  "neither all nor a role",
		"{all: {installed: [curl]}}":                       "installed",
	} {
		t.Run(section, func(t *testing.T) {
			src := example(t, false)
			src.Content = append(src.Content, "\npackages: "+section+"\n"...)
			s, findings := Load(src)
			if got := format(errorsOnly(findings)); s != nil || !strings.Contains(got, want) {
				t.Errorf("want %q, got:\n%s", want, got)
			}
		})
	}
}
