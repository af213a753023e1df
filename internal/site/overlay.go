package site

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// overlayHint explains why a key that a site has is refused in an overlay.
func overlayHint(parent, key string) string {
	if knownInSite(parent, key) {
		return "an overlay may not change this; change the site file"
	}
	return ""
}

func knownInSite(parent, key string) bool {
	t := reflect.TypeFor[sitefile.File]()
	if parent != "" {
		for _, part := range strings.Split(parent, "/") {
			if t = childType(t, part); t == nil {
				return false
			}
		}
	}
	return childType(t, key) != nil
}

// childType returns the type below a key, nil where there is none.
func childType(t reflect.Type, key string) reflect.Type {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if elem, ok := yamltree.MapElem(t); ok {
		return elem
	}
	if t.Kind() == reflect.Slice {
		return t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for _, f := range yamltree.Fields(t) {
		if f.Name == key {
			return f.Type
		}
	}
	return nil
}

// applyOverlay changes the file as the overlay says, and says so.
func (l *loader) applyOverlay() {
	o, f := &l.overlay, &l.file
	if len(o.NTP) > 0 {
		l.change("ntp", f.NTP, o.NTP)
		f.NTP = o.NTP
	}
	for _, p := range o.Nodes {
		l.overlayNode(p.Key, p.Value)
	}
	for _, p := range o.Hosts {
		path := yamltree.Join("hosts", p.Key)
		h := find(f.Hosts, p.Key)
		if h == nil {
			l.refuse(path, "hosts", p.Key, keys(f.Hosts))
			continue
		}
		if p.Value.Address.IsValid() {
			l.change(path+"/address", h.Address, p.Value.Address)
		}
		if p.Value.Address6.IsValid() || h.Address6.IsValid() {
			l.change(path+"/address6", h.Address6, p.Value.Address6)
		}
		*h = p.Value
		l.overlaid[path] = l.opos.Key(path)
	}
	if o.DNS != nil && l.section("dns", f.DNS != nil) {
		l.change("dns/forwarders", f.DNS.Forwarders, o.DNS.Forwarders)
		f.DNS.Forwarders = o.DNS.Forwarders
	}
	l.overlayProxy()
	for _, p := range o.Accounts {
		path := yamltree.Join("accounts", p.Key)
		if a := find(f.Accounts, p.Key); a != nil {
			l.overlayKeys(path, a, p.Value.SSHKeys)
		} else {
			l.refuse(path, "accounts", p.Key, keys(f.Accounts))
		}
	}
	for _, p := range o.Probes {
		path := yamltree.Join("probes", p.Key)
		l.overlaid[path] = l.opos.Key(path)
		l.note(path, fmt.Sprintf("probe %s is added: %s in %s", p.Key, p.Value.Address, p.Value.Network))
	}
	for _, p := range o.Images {
		l.note(yamltree.Join("images", p.Key), fmt.Sprintf("image %s is replaced by %s", p.Key, p.Value))
		l.site.Images = append(l.site.Images, ImageMapping{p.Key, p.Value})
	}
	if o.Rollout != nil && o.Rollout.Window > 0 {
		if f.Rollout == nil {
			f.Rollout = &sitefile.Rollout{}
		}
		l.change("rollout/window", f.Rollout.Window, o.Rollout.Window)
		f.Rollout.Window = o.Rollout.Window
	}
	l.overlayBackup()
	l.overlayPatching()
}

func (l *loader) overlayNode(name string, o sitefile.OverlayNode) {
	path := yamltree.Join("nodes", name)
	n := find(l.file.Nodes, name)
	if n == nil {
		l.refuse(path, "nodes", name, keys(l.file.Nodes))
		return
	}
	if n.Role != RoleRouter {
		l.overlayFail(path, "an overlay changes routers only", "node %s is no router", name)
		return
	}
	if o.Platform != "" {
		old := n.Platform
		if old == "" {
			old = PlatformLinux
		}
		l.change(path+"/platform", old, o.Platform)
		n.Platform = o.Platform
	}
	for _, p := range o.Interfaces {
		at := yamltree.Join(path, "interfaces", p.Key)
		if find(n.Interfaces, p.Key) != nil {
			l.overlayFail(at, "an overlay only adds interfaces", "%s has the interface %s already", name, p.Key)
			continue
		}
		l.overlaid[at] = l.opos.Key(at)
		l.note(at, fmt.Sprintf("interface %s of %s is added: %s in %s", p.Key, name, p.Value.Address, p.Value.Network))
		n.Interfaces = append(n.Interfaces, p)
	}
}

func (l *loader) overlayProxy() {
	o, f := l.overlay.Proxy, l.file.Proxy
	if o == nil || !l.section("proxy", f != nil) {
		return
	}
	if o.Driver != "" {
		l.change("proxy/driver", f.Driver, o.Driver)
		f.Driver = o.Driver
	}
	if o.TLS != nil && l.section("proxy/tls", f.TLS != nil) {
		l.change("proxy/tls/directory", f.TLS.Directory, o.TLS.Directory)
		f.TLS.Directory = o.TLS.Directory
	}
}

func (l *loader) overlayKeys(path string, a *sitefile.Account, added []sitefile.SSHKey) {
	for i, k := range added {
		if k == "" {
			continue
		}
		// The added keys follow those of the file: the place of the n-th is the place of the first that is not the file's.
		from := yamltree.Join(path, "ssh_keys", fmt.Sprint(i))
		l.overlaid[yamltree.Join(path, "ssh_keys", fmt.Sprint(len(a.SSHKeys)))] = l.opos.Value(from)
		l.note(from, fmt.Sprintf("%s.ssh_keys: the key %s is added", dotted(path), k.Fingerprint()))
		a.SSHKeys = append(a.SSHKeys, k)
	}
}

func (l *loader) overlayBackup() {
	o, f := l.overlay.Backup, l.file.Backup
	if o == nil || !l.section("backup", f != nil) {
		return
	}
	if o.Schedule != "" {
		l.change("backup/schedule", f.Schedule, o.Schedule)
		f.Schedule = o.Schedule
	}
	if o.Drills != "" {
		l.change("backup/drills", f.Drills, o.Drills)
		f.Drills = o.Drills
	}
	for _, p := range o.Copies {
		path := yamltree.Join("backup/copies", p.Key)
		c := find(f.Copies, p.Key)
		if c == nil {
			l.refuse(path, "backup.copies", p.Key, keys(f.Copies))
			continue
		}
		l.change(path+"/to", c.To, p.Value.To)
		c.To = p.Value.To
	}
}

func (l *loader) overlayPatching() {
	o, f := l.overlay.Patching, l.file.Patching
	if o == nil || !l.section("patching", f != nil) {
		return
	}
	if o.Window != "" {
		l.change("patching/window", f.Window, o.Window)
		f.Window = o.Window
	}
	if o.Soak > 0 {
		for i := range f.Waves {
			if w := &f.Waves[i]; w.Soak > 0 {
				path := yamltree.Join("patching/waves", fmt.Sprint(i), "soak")
				l.overlaid[path] = l.opos.Value("patching/soak")
				l.note("patching/soak", fmt.Sprintf("patching.waves.%d.soak: %s becomes %s", i, w.Soak, o.Soak))
				w.Soak = o.Soak
			}
		}
	}
}

// change records that the overlay sets a value, and says what it was.
func (l *loader) change(path string, old, now any) {
	l.overlaid[path] = l.opos.Value(path)
	before := fmt.Sprint(old)
	if v := reflect.ValueOf(old); v.IsZero() || strings.HasPrefix(before, "invalid") {
		before = "nothing"
	}
	l.note(path, fmt.Sprintf("%s: %s becomes %v", dotted(path), before, now))
}

func (l *loader) note(path, message string) {
	l.add(finding{severity: v1.Severity_SEVERITY_INFO, overlay: true, pos: l.opos.Key(path), message: "overlay: " + message, hint: ""})
}

func (l *loader) overlayFail(path, hint, format string, args ...any) {
	l.add(finding{severity: v1.Severity_SEVERITY_ERROR, overlay: true, pos: l.opos.Key(path), message: fmt.Sprintf(format, args...), hint: hint})
}

func (l *loader) refuse(path, where, name string, known []string) {
	l.overlayFail(path, l.among(name, known), "the site's %s has no %q", where, name)
}

// section reports whether the site has a section that the overlay changes.
func (l *loader) section(path string, there bool) bool {
	if !there {
		l.overlayFail(path, "an overlay changes what is there; add the section to the site file", "the site has no %s", dotted(path))
	}
	return there
}

func dotted(path string) string { return strings.ReplaceAll(path, "/", ".") }

func find[T any](m yamltree.Map[T], key string) *T {
	for i := range m {
		if m[i].Key == key {
			return &m[i].Value
		}
	}
	return nil
}

func keys[T any](m yamltree.Map[T]) []string {
	out := make([]string, 0, len(m))
	for _, p := range m {
		out = append(out, p.Key)
	}
	return out
}
