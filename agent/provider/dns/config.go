package dns

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	header      = "// Written by infractl; changes here are undone.\n"
	transferKey = "infractl-transfer"
	updateKey   = "infractl-acme"
	keyFile     = confDir + "/infractl.keys"
	checkFile   = confDir + "/infractl-check.conf"
	inside      = "inside"
	outside     = "outside"
)

// Limits of a spec.
const (
	maxZones = 2000
	maxList  = 1000
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// contentFile is where a content is kept.
func contentFile(digest string) string { return contents + "/" + strings.TrimPrefix(digest, "sha256:") }

// zoneFile is where a zone lies. Names are checked: nothing in them leads to another folder. Without views or in the inside one a zone is
// the same one: its serial goes on when a site gets views.
func zoneFile(z *v1.DnsZone) string {
	switch {
	case z.GetDynamic():
		return "/var/lib/bind/infractl-" + z.GetName() + ".dynamic"
	case len(z.GetPrimaries()) > 0:
		return cacheDir + "/infractl-" + z.GetName() + ".db"
	case z.GetView() == outside:
		return zoneDir + "/" + outside + "." + z.GetName() + ".zone"
	}
	return zoneDir + "/" + z.GetName() + ".zone"
}

// static reports whether a zone is a file of ours, as a whole.
func static(z *v1.DnsZone) bool { return !z.GetDynamic() && len(z.GetPrimaries()) == 0 }

// options is named.conf.options.
func options(spec *v1.DnsSpec) string {
	var b strings.Builder
	b.WriteString(header)
	fmt.Fprintf(&b, "acl \"infractl-inside\" { 127.0.0.0/8; ::1;%s };\n\n", list(spec.GetRecursionFrom()))
	four, six := []string{}, []string{}
	for _, a := range spec.GetListenAddresses() {
		if strings.Contains(a, ":") {
			six = append(six, a)
		} else {
			four = append(four, a)
		}
	}
	b.WriteString("options {\n\tdirectory \"" + cacheDir + "\";\n")
	fmt.Fprintf(&b, "\tlisten-on { 127.0.0.1;%s };\n\tlisten-on-v6 { ::1;%s };\n", list(four), list(six))
	b.WriteString("\tversion none;\n\thostname none;\n\tserver-id none;\n")
	b.WriteString("\trecursion yes;\n\tallow-recursion { infractl-inside; };\n\tallow-query-cache { infractl-inside; };\n\tallow-query { infractl-inside; };\n")
	b.WriteString("\tallow-transfer { none; };\n\tnotify no;\n")
	if len(spec.GetForwarders()) > 0 {
		fmt.Fprintf(&b, "\tforward only;\n\tforwarders {%s };\n", list(spec.GetForwarders()))
	}
	b.WriteString("\tdnssec-validation auto;\n")
	if len(spec.GetValidateExcept()) > 0 {
		b.WriteString("\tvalidate-except {")
		for _, name := range spec.GetValidateExcept() {
			b.WriteString(" \"" + name + "\";")
		}
		b.WriteString(" };\n")
	}
	b.WriteString("};\n")
	return b.String()
}

func list(items []string) string {
	var b strings.Builder
	for _, i := range items {
		b.WriteString(" " + i + ";")
	}
	return b.String()
}

// mainFile is named.conf. Debian's reads its own zones in outside of all views, which bind refuses where there are any.
func mainFile() string {
	return header + "include \"" + confDir + "/named.conf.options\";\ninclude \"" + confDir + "/named.conf.local\";\n"
}

// local is named.conf.local: keys, views and zones. file says where a zone lies.
func local(spec *v1.DnsSpec, file func(*v1.DnsZone) string) string {
	var b strings.Builder
	b.WriteString(header)
	if len(keyRefs(spec)) > 0 {
		b.WriteString("include \"" + keyFile + "\";\n")
	}
	const theirs = "include \"" + confDir + "/named.conf.default-zones\";\n"
	if len(spec.GetViews()) == 0 {
		writeZones(&b, spec, "", file)
		b.WriteString(theirs)
		return b.String()
	}
	for _, v := range spec.GetViews() {
		clients := " any;"
		if len(v.GetClients()) > 0 {
			clients = " 127.0.0.0/8; ::1;" + list(v.GetClients())
		}
		fmt.Fprintf(&b, "view \"%s\" {\n\tmatch-clients {%s };\n", v.GetName(), clients)
		if !v.GetRecursion() {
			b.WriteString("\trecursion no;\n\tallow-query { any; };\n\tallow-query-cache { none; };\n")
		}
		writeZones(&b, spec, v.GetName(), file)
		if v.GetRecursion() {
			b.WriteString(theirs)
		}
		b.WriteString("};\n")
	}
	return b.String()
}

func writeZones(b *strings.Builder, spec *v1.DnsSpec, view string, file func(*v1.DnsZone) string) {
	key := ""
	if spec.GetTransferKey() != nil {
		key = " key " + transferKey
	}
	for _, z := range spec.GetZones() {
		if z.GetView() != view {
			continue
		}
		if z.GetDynamic() && view == outside {
			fmt.Fprintf(b, "zone \"%s\" { in-view \"%s\"; };\n", z.GetName(), inside)
			continue
		}
		fmt.Fprintf(b, "zone \"%s\" {\n", z.GetName())
		if len(z.GetPrimaries()) > 0 {
			fmt.Fprintf(b, "\ttype secondary;\n\tfile \"%s\";\n\tprimaries {", file(z))
			for _, a := range z.GetPrimaries() {
				b.WriteString(" " + a + key + ";")
			}
			b.WriteString(" };\n};\n")
			continue
		}
		fmt.Fprintf(b, "\ttype primary;\n\tfile \"%s\";\n", file(z))
		if z.GetDynamic() {
			fmt.Fprintf(b, "\tupdate-policy { grant %s zonesub TXT; };\n", updateKey)
			if view != "" {
				b.WriteString("\tallow-query { any; };\n") // the outside sees this very zone, under its rules
			}
		} else if to := spec.GetTransferTo(); len(to) > 0 && view != outside {
			// Both are needed: the address, and the key where there is one.
			if key != "" {
				b.WriteString("\tallow-transfer { !{")
				for _, a := range to {
					b.WriteString(" !" + a + ";")
				}
				b.WriteString(" any; };" + key + "; };\n")
			} else {
				fmt.Fprintf(b, "\tallow-transfer {%s };\n", list(to))
			}
			b.WriteString("\tnotify explicit;\n\talso-notify {")
			for _, a := range to {
				b.WriteString(" " + a + key + ";")
			}
			b.WriteString(" };\n")
		}
		b.WriteString("};\n")
	}
}

// keyRefs are the secrets of the keys, by the key's name.
func keyRefs(spec *v1.DnsSpec) map[string]*v1.SecretRef {
	out := map[string]*v1.SecretRef{}
	if spec.GetTransferKey() != nil {
		out[transferKey] = spec.GetTransferKey()
	}
	for _, z := range spec.GetZones() {
		if z.GetUpdateKey() != nil {
			out[updateKey] = z.GetUpdateKey()
		}
	}
	return out
}

// check refuses what would break the files, or lead out of the folders.
func check(spec *v1.DnsSpec) error {
	bad := func(format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At("dns").WithHint("correct the dns section of the site file")
	}
	if len(spec.GetZones()) > maxZones {
		return bad("%d zones, more than %d", len(spec.GetZones()), maxZones)
	}
	for _, some := range [][]string{spec.GetListenAddresses(), spec.GetForwarders(), spec.GetTransferTo()} {
		if len(some) > maxList {
			return bad("%d addresses, more than %d", len(some), maxList)
		}
		for _, a := range some {
			if !isAddress(a) {
				return bad("%.60q is no address", a)
			}
		}
	}
	views := map[string]bool{"": len(spec.GetViews()) == 0}
	prefixes := spec.GetRecursionFrom()
	for _, v := range spec.GetViews() {
		if v.GetName() != inside && v.GetName() != outside || views[v.GetName()] {
			return bad("%.60q is no view", v.GetName())
		}
		views[v.GetName()] = true
		prefixes = append(prefixes[:len(prefixes):len(prefixes)], v.GetClients()...)
	}
	if len(prefixes) > maxList {
		return bad("%d prefixes, more than %d", len(prefixes), maxList)
	}
	for _, prefix := range prefixes {
		if _, err := netip.ParsePrefix(prefix); err != nil {
			return bad("%.60q is no prefix", prefix)
		}
	}
	for _, name := range spec.GetValidateExcept() {
		if !zone.IsHostName(name) {
			return bad("%.60q is no domain", name)
		}
	}
	seen := map[string]bool{}
	for _, z := range spec.GetZones() {
		id := z.GetView() + "/" + z.GetName()
		if !zone.IsHostName(strings.TrimPrefix(z.GetName(), "_")) || !views[z.GetView()] || seen[id] {
			return bad("%.60q is no zone, or is there twice", id)
		}
		seen[id] = true
		if secondary := len(z.GetPrimaries()) > 0; secondary == (z.GetContentDigest() != "") || secondary && z.GetDynamic() ||
			!secondary && !digestForm.MatchString(z.GetContentDigest()) {
			return bad("zone %s has neither a content nor a primary, or both", z.GetName())
		}
		if z.GetDynamic() != (z.GetUpdateKey() != nil) {
			return bad("zone %s: a key for changes and a dynamic zone belong together", z.GetName())
		}
		for _, a := range z.GetPrimaries() {
			if !isAddress(a) {
				return bad("zone %s: %.60q is no address", z.GetName(), a)
			}
		}
	}
	return nil
}

func isAddress(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}
