package sshd

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const minRSABits = 3072

// target is all that must be so, beside what is.
type target struct {
	effective effective
	config    config
	wanted    []listener // by the spec alone
	listeners []listener // with the old ones that stay
	before    []listener // the ways in that there are
	missing   []listener
	left      []listener

	dropIn, unit, loaded host.File
	caFile               host.File // the authorities that are trusted; absent without one
	foreign              []host.File
	sysctlFile           host.File
	sysctls              []sysctl
	live                 []sysctl // those that differ in the kernel
	units                units

	spec  *v1.SshdSpec
	match bool                 // somebody's Match block is there, and we narrow
	had   map[string]host.File // files as they are, for the difference
}

// closing are the listeners that go.
func (t target) closing() []listener { return without(t.before, t.listeners) }

// target compares host and wish.
func (p *Provider) target(ctx context.Context, w wish, ask asking) (target, error) {
	t := target{spec: w.Spec}
	wanted, err := check(w.Spec)
	if err != nil {
		return t, err
	}
	if !p.host.Exists("/usr/sbin/sshd") {
		return t, errs.New(errs.Precondition, "the SSH server is not installed").WithHint("apt-get install openssh-server")
	}
	broken := false
	if t.effective, err = p.present(ctx, ask); err != nil {
		if t.effective, err = p.effectiveOfOthers(ctx, err); err != nil {
			return t, err
		}
		broken = true
	}
	if t.units, err = p.units(ctx); err != nil {
		return t, err
	}
	if broken {
		// What sshd runs with is lost, but for its sockets: those stay while widening, all else becomes narrow.
		t.before, err = p.listening(ctx)
	} else {
		t.before, err = p.listenersBefore(t)
	}
	if err != nil {
		return t, err
	}
	keepOld := w.Stage == provider.Widening || slices.ContainsFunc(w.Laggards, func(node string) bool {
		return slices.Contains(w.Spec.GetPeers(), node)
	})
	t.wanted, t.listeners = wanted, wanted
	var old []listener
	if keepOld {
		t.listeners = combine(wanted, t.before)
		old = without(t.listeners, wanted)
	}
	if err := p.build(ctx, &t, w, old, broken); err != nil {
		return t, err
	}
	if t.missing, t.left, err = p.differing(t.listeners, t.closing()); err != nil {
		return t, err
	}
	return t, p.remember(&t)
}

// listenersBefore are the listeners of ssh.socket or sshd that are open. An address that is configured and not open is no way
// in, unless nothing is open at all: then sshd is down, and the configuration says what it would be.
func (p *Provider) listenersBefore(t target) ([]listener, error) {
	if t.units.listen != nil {
		return t.units.listen, nil
	}
	configured, err := parseListeners(t.effective["listenaddress"])
	if err != nil {
		return nil, err
	}
	closed, _, err := p.differing(configured, nil)
	if err != nil || len(closed) == len(configured) {
		return configured, err
	}
	closed = slices.DeleteFunc(closed, func(l listener) bool { return l.Addr().IsUnspecified() })
	return without(configured, closed), nil
}

// build fills in the files.
func (p *Provider) build(ctx context.Context, t *target, w wish, old []listener, broken bool) error {
	known, err := p.algorithms(ctx, t.effective)
	if err != nil {
		return err
	}
	in := inputs{spec: w.Spec, widening: w.Stage == provider.Widening && !broken, now: t.effective, listeners: t.listeners, old: old, known: known}
	if in.hostKeys, err = p.hostKeys(); err != nil {
		return err
	}
	for _, key := range t.effective["hostkey"] {
		if p.host.Exists(key) {
			in.oldKeys = append(in.oldKeys, key)
		}
	}
	if in.oldUsers, err = p.oldUsers(t.effective); err != nil {
		return err
	}
	if err := notDenied(t.effective, w.Spec.GetAllowUsers()); err != nil {
		return err
	}
	if t.caFile, err = p.authorities(w.Spec.GetUserCaKeys(), in.widening, t.effective); err != nil {
		return err
	}
	in.caKeys = !t.caFile.Absent
	t.config = build(in)
	t.dropIn = p.file(dropIn, string(t.config.text()), 0o644)
	t.unit = p.unitFile()
	t.loaded = p.file(loadedFile, fmt.Sprintf("%x\n%s", sha256.Sum256(t.dropIn.Data), unitHash()), 0o600)
	t.sysctlFile, t.sysctls = p.wantedSysctls(w.Spec)
	for _, s := range t.sysctls {
		if live, err := p.liveSysctl(s.Key); err != nil || live != s.Value {
			t.live = append(t.live, s)
		}
	}
	var match bool
	if t.foreign, match, err = p.foreignFiles(); err != nil || !match || w.Stage != provider.Narrowing {
		return err
	}
	t.match = true
	return p.matchBlocks(ctx, t, w.Spec)
}

// matchBlocks looks whether a Match block of somebody else opens again what is closed. What is wrong for everybody is about
// to be changed; what is wrong for one user alone is not ours to change.
func (p *Provider) matchBlocks(ctx context.Context, t *target, spec *v1.SshdSpec) error {
	known := t.config.mismatches(t.effective)
	for _, user := range spec.GetAllowUsers() {
		now, err := p.effectiveFor(ctx, mainFile, user, spec)
		if err != nil {
			return err
		}
		wrong := slices.DeleteFunc(t.config.mismatches(now), func(m string) bool { return slices.Contains(known, m) })
		if len(wrong) > 0 {
			return errs.Wrap("user "+user, notWinning(wrong))
		}
	}
	return nil
}

// check refuses a spec that would lock everybody out, and returns its listeners.
func check(spec *v1.SshdSpec) ([]listener, error) {
	bad := func(hint, format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At("ssh").WithHint("%s", hint)
	}
	port := spec.GetPort()
	if port == 0 || port > 65535 {
		return nil, bad("set ssh.port to a number from 1 to 65535", "%d is no port", port)
	}
	if len(spec.GetAllowUsers()) == 0 {
		return nil, bad("name at least one account in ssh.users", "nobody may log in")
	}
	for _, user := range spec.GetAllowUsers() {
		if !regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`).MatchString(user) || user == "root" {
			return nil, bad("name accounts of the site in ssh.users", "%q is not an account that may log in", user)
		}
	}
	if err := checkAuthorities(spec.GetUserCaKeys()); err != nil {
		return nil, err
	}
	for _, from := range spec.GetAllowFrom() {
		if _, err := parsePrefix(from); err != nil {
			return nil, bad("write it as 10.0.10.0/24", "%q is no prefix", from)
		}
	}
	if len(spec.GetListenAddresses()) > 64 || len(spec.GetAllowUsers()) > 1000 || len(spec.GetAllowFrom()) > 1000 {
		return nil, bad("shorten the lists under ssh", "more addresses or users than sshd should have")
	}
	var list []listener
	for _, text := range spec.GetListenAddresses() {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return nil, bad("write an address without prefix length", "%q is no address", text)
		}
		list = append(list, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
	}
	if len(list) == 0 {
		list = []listener{netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)),
			netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port))}
	}
	return combine(list), nil
}

// hostKeys are the private keys of the kinds that we offer: ed25519, and RSA where it is long enough.
func (p *Provider) hostKeys() ([]string, error) {
	var keys []string
	for _, kind := range []string{"ed25519", "rsa"} {
		file := "/etc/ssh/ssh_host_" + kind + "_key"
		public, err := p.host.ReadFile(file + ".pub")
		if err != nil || !p.host.Exists(file) {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(public)
		if err != nil {
			continue
		}
		if holder, ok := key.(ssh.CryptoPublicKey); ok {
			if k, ok := holder.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() < minRSABits {
				continue
			}
		}
		keys = append(keys, file)
	}
	if len(keys) == 0 {
		return nil, errs.New(errs.Precondition, "there is neither an ed25519 host key nor an RSA one of %d bits", minRSABits).
			At("/etc/ssh").WithHint("ssh-keygen -A makes them")
	}
	return keys, nil
}

// oldUsers are those that may log in now; nil means everybody. Groups become their members, because sshd asks for both where
// users and groups are named.
func (p *Provider) oldUsers(now effective) ([]string, error) {
	if users := now["allowusers"]; len(users) > 0 {
		return users, nil
	}
	groups := now["allowgroups"]
	if len(groups) == 0 {
		return nil, nil
	}
	return p.members(groups)
}

func (p *Provider) members(patterns []string) ([]string, error) {
	group, err := p.host.ReadFile("/etc/group")
	if err != nil {
		return nil, errs.Wrap("read groups", err)
	}
	passwd, err := p.host.ReadFile("/etc/passwd")
	if err != nil {
		return nil, errs.Wrap("read accounts", err)
	}
	users, gids := []string{}, map[string]bool{}
	for line := range strings.Lines(string(group)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 4 && slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, f[0]) }) {
			gids[f[2]] = true
			users = merge(users, strings.Split(f[3], ","))
		}
	}
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); len(f) == 7 && gids[f[3]] {
			users = merge(users, f[:1])
		}
	}
	return users, nil
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name) // * and ? as in sshd; names have no slash
	return ok && err == nil
}

// notDenied refuses users that another file shuts out: denying goes before allowing.
func notDenied(now effective, users []string) error {
	for _, pattern := range now["denyusers"] {
		for _, user := range users {
			if name, _, _ := strings.Cut(pattern, "@"); matches(name, user) {
				return errs.New(errs.Precondition, "DenyUsers %s shuts out %s", pattern, user).At("/etc/ssh").
					WithHint("take the line out of sshd's files")
			}
		}
	}
	return nil
}

func (p *Provider) file(path, text string, mode os.FileMode) host.File {
	return host.File{Path: path, Data: []byte(text), Mode: mode, UID: os.Geteuid(), GID: os.Getegid()}
}

// files are all files that Apply writes, in the order in which people read them.
func (t target) files() []host.File {
	return append([]host.File{t.caFile, t.dropIn, t.unit, t.sysctlFile}, t.foreign...)
}

// unitsStale reports whether systemd has to read its files again: a reload of all units is slow, and most changes need none.
func (t target) unitsStale() bool {
	return !equal(t.had[unitDropIn], t.unit) || !t.units.ok() || unitLoaded(t.had[loadedFile].Data) != unitHash()
}

// remember reads the files as they are.
func (p *Provider) remember(t *target) error {
	t.had = map[string]host.File{}
	for _, f := range append(t.files(), t.loaded) {
		same, err := p.host.InSync(f)
		if err != nil {
			return err
		}
		if same {
			t.had[f.Path] = f
			continue
		}
		if t.had[f.Path], err = p.regular(f.Path); err != nil {
			return err
		}
	}
	return nil
}

func ports(list []listener) []string {
	var names []string
	for _, l := range list {
		names = append(names, "listens on "+l.Addr().String()+" port "+strconv.Itoa(int(l.Port())))
	}
	return names
}
