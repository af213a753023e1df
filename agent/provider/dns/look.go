package dns

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// state is what the provider remembers.
type state struct {
	Version int `json:"version"`
	// Loaded is the digest of what bind runs with.
	Loaded string `json:"loaded"`
	// Keys are the versions of the secrets in the key file, KeyFile is that file's digest.
	Keys    map[string]string `json:"keys,omitempty"`
	KeyFile string            `json:"key_file,omitempty"`
}

// looked is the host beside the wish.
type looked struct {
	spec  *v1.DnsSpec
	state state
	// conf are the configuration files as they should be; zones are the static zones whose files are not, new ones among them.
	conf  []host.File
	zones []*v1.DnsZone
	// begin are dynamic zones that have no file yet.
	begin []*v1.DnsZone
	// stale are files of zones that are no longer wanted.
	stale []string
	// keys says that the key file is not as it should be, loaded what bind should run with.
	keys    bool
	loaded  string
	running bool
	enabled bool
	clean   bool // no file of the configuration differs
}

// needed are the programs that must be there.
func needed() []string { return []string{"named", "named-checkzone", "named-checkconf", "rndc"} }

func (p *Provider) look(spec *v1.DnsSpec) (*looked, error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	for _, program := range needed() {
		if !p.host.Has(program) {
			return nil, errs.New(errs.Precondition, "this host is to serve names and has no %s", program).WithHint("apt-get install bind9 bind9-utils")
		}
	}
	l := &looked{spec: spec, state: p.readState(), clean: true}
	group := p.groupID()
	file := func(name, text string) host.File {
		return host.File{Path: confDir + "/" + name, Data: []byte(text), Mode: 0o644, UID: os.Geteuid(), GID: group}
	}
	l.conf = []host.File{file("named.conf", mainFile()), file("named.conf.options", options(spec)), file("named.conf.local", local(spec, zoneFile))}
	sum := sha256.New()
	for _, f := range l.conf {
		same, err := p.host.InSync(f)
		if err != nil {
			return nil, err
		}
		l.clean = l.clean && same
		fmt.Fprintf(sum, "%s\n%s\n", f.Path, f.Data)
	}
	keep := map[string]bool{}
	for _, z := range spec.GetZones() {
		fmt.Fprintf(sum, "%s %s %d %s\n", z.GetView(), z.GetName(), z.GetSerial(), z.GetContentDigest())
		keep[zoneFile(z)] = true
		switch {
		case z.GetDynamic():
			if z.GetView() != outside && !p.host.Exists(zoneFile(z)) {
				l.begin = append(l.begin, z)
			}
		case static(z):
			same, err := p.zoneInSync(z)
			if err != nil {
				return nil, err
			}
			if !same {
				l.zones = append(l.zones, z)
			}
		}
	}
	versions := l.versions()
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		fmt.Fprintf(sum, "%s %s\n", name, versions[name])
	}
	l.loaded = hex.EncodeToString(sum.Sum(nil))
	have, err := p.host.Glob(zoneDir + "/*")
	if err != nil {
		return nil, errs.Wrap("list zones", err)
	}
	for _, f := range have {
		if !keep[f] {
			l.stale = append(l.stale, f)
		}
	}
	if l.keys, err = p.keysDiffer(l, group); err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		l.state.Keys, l.state.KeyFile = nil, ""
	}
	l.enabled = p.host.Exists(links()[0])
	l.running, err = p.isRunning()
	return l, err
}

// versions are the versions of the keys' secrets, by the key's name.
func (l *looked) versions() map[string]string {
	out := map[string]string{}
	for name, ref := range keyRefs(l.spec) {
		out[name] = ref.GetName() + "/" + ref.GetVersion()
	}
	return out
}

// keysDiffer reports whether the key file is another than was written last for the wanted versions.
func (p *Provider) keysDiffer(l *looked, group int) (bool, error) {
	have, err := p.host.Stat(keyFile)
	if err != nil {
		return false, err
	}
	want := l.versions()
	if len(want) == 0 {
		return !have.Absent, nil
	}
	return have.Absent || have.Mode != 0o640 || have.UID != os.Geteuid() || have.GID != group ||
		!maps.Equal(l.state.Keys, want) || l.state.KeyFile != digest(have.Data), nil
}

// digest is of a file's content.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// onDisk is a zone's file, taken apart; ours is false where there is none, or none of our form.
type onDisk struct {
	content string
	serial  uint32
	mode    os.FileMode
	ours    bool
}

func (p *Provider) onDisk(z *v1.DnsZone) (onDisk, error) {
	have, err := p.host.Stat(zoneFile(z))
	if err != nil || have.Absent {
		return onDisk{}, err
	}
	without, serial, ours := zone.SplitSerial(have.Data)
	return onDisk{zone.Digest(without), serial, have.Mode, ours}, nil
}

// due is the serial that a zone gets. It never goes back (RFC 1982), and another content never has the serial of the file that is there:
// a server that was restored from a backup gives serials that were used already, and a second node would keep what it has.
func (d onDisk) due(z *v1.DnsZone) uint32 {
	switch {
	case !d.ours || zone.Newer(z.GetSerial(), d.serial):
		return z.GetSerial()
	case d.content == z.GetContentDigest():
		return d.serial
	}
	return zone.After(d.serial)
}

// due is the serial that a zone gets, or has where its file is as it should be.
func (p *Provider) due(z *v1.DnsZone) (uint32, error) {
	have, err := p.onDisk(z)
	return have.due(z), err
}

// zoneInSync reports whether a zone's file is the wanted content with the serial that is due. The content itself is not needed for that.
func (p *Provider) zoneInSync(z *v1.DnsZone) (bool, error) {
	have, err := p.onDisk(z)
	return have.ours && have.mode == 0o644 && have.content == z.GetContentDigest() && have.serial == have.due(z), err
}

// readState returns the zero state when there is none, or none that can be read: then everything is done again.
func (p *Provider) readState() state {
	data, err := p.host.ReadFile(stateFile)
	if err != nil {
		return state{}
	}
	var s state
	if strictjson.Unmarshal(data, &s) != nil || s.Version != 1 {
		return state{}
	}
	return s
}

// groupID is the group that bind runs with; our own where there is none.
func (p *Provider) groupID() int { return p.numberOf("/etc/group", os.Getegid()) }

func (p *Provider) userID() int { return p.numberOf("/etc/passwd", os.Geteuid()) }

func (p *Provider) numberOf(file string, otherwise int) int {
	data, err := p.host.ReadFile(file)
	if err != nil || os.Geteuid() != 0 {
		return otherwise
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 && f[0] == "bind" {
			if n, err := strconv.Atoi(f[2]); err == nil {
				return n
			}
		}
	}
	return otherwise
}

// links make the service start at boot; the first one decides.
func links() []string {
	return []string{"/etc/systemd/system/multi-user.target.wants/named.service", "/etc/systemd/system/bind9.service"}
}

// isRunning reads /proc: asking systemd would cost a process.
func (p *Provider) isRunning() (bool, error) {
	files, err := p.host.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return false, errs.Wrap("list processes", err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		name, err := p.host.ReadFile(file)
		return err == nil && strings.TrimSpace(string(name)) == "named"
	}), nil
}
