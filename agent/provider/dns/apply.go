package dns

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// proofTime bounds the questions after a change; there may be thousands.
const proofTime = time.Minute

// beside is where a changed zone is written first.
const beside = ".new"

// original ends the names of the files that were there before ours.
const original = ".before-infractl"

// text is a zone's master file as it should be.
func (p *Provider) text(ctx context.Context, z *v1.DnsZone) ([]byte, error) {
	without, err := p.content(ctx, z.GetContentDigest())
	if err != nil {
		return nil, errs.Wrap("zone "+z.GetName(), err)
	}
	serial, err := p.due(z)
	if err != nil {
		return nil, err
	}
	return zone.WithSerial(without, serial)
}

// change is a zone on its way.
type change struct {
	zone *v1.DnsZone
	old  []byte
	file host.File
	isIn bool // bind has it already
}

// Apply implements provider.Provider. Whatever fails before the rename leaves bind as it was; after that the engine rolls back.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	l, err := p.look(pl.Wish.Spec)
	if err != nil {
		return err
	}
	if l.inSync() {
		return nil
	}
	if err := p.folder(ctx, zoneDir); err != nil {
		return err
	}
	changes, err := p.prepare(ctx, l)
	if err != nil {
		return err
	}
	if err := p.writeKeys(ctx, l); err != nil {
		return err
	}
	if err := p.checkAll(ctx, l, changes); err != nil {
		return err
	}
	if err := p.pending(l); err != nil {
		return err
	}
	if err := p.place(l, changes); err != nil {
		return err
	}
	if err := p.load(ctx, l, changes); err != nil {
		return err
	}
	if err := p.proveAll(ctx, changes); err != nil {
		return err
	}
	return p.remember(l)
}

func (l *looked) inSync() bool {
	return l.clean && len(l.zones) == 0 && len(l.begin) == 0 && len(l.stale) == 0 && !l.keys && l.enabled && l.running && l.state.Loaded == l.loaded
}

// prepare writes the changed zones beside the old ones and checks each.
func (p *Provider) prepare(ctx context.Context, l *looked) ([]change, error) {
	var out []change
	for _, z := range l.zones {
		want, err := p.text(ctx, z)
		if err != nil {
			return nil, err
		}
		old, err := p.host.Stat(zoneFile(z))
		if err != nil {
			return nil, err
		}
		c := change{zone: z, old: old.Data, isIn: !old.Absent,
			file: host.File{Path: zoneFile(z) + beside, Data: want, Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()}}
		if err := p.checkZone(ctx, c, "full"); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	for _, z := range l.begin {
		want, err := p.text(ctx, z)
		if err != nil {
			return nil, err
		}
		// bind writes this one itself.
		c := change{zone: z, file: host.File{Path: zoneFile(z) + beside, Data: want, Mode: 0o644, UID: p.userID(), GID: p.groupID()}}
		if err := p.checkZone(ctx, c, "local"); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (p *Provider) checkZone(ctx context.Context, c change, integrity string) error {
	if _, _, err := zone.Parse(c.file.Data); err != nil {
		return errs.Wrap("zone "+c.zone.GetName(), err)
	}
	if _, err := p.host.Write(c.file); err != nil {
		return err
	}
	_, err := p.host.Run(ctx, "named-checkzone", "-q", "-i", integrity, "-k", "fail", "-n", "fail", c.zone.GetName(), p.host.Path(c.file.Path))
	if err == nil {
		return nil
	}
	// -q says nothing; what is wrong is asked for once more.
	out, again := p.host.Run(ctx, "named-checkzone", "-i", integrity, "-k", "fail", "-n", "fail", c.zone.GetName(), p.host.Path(c.file.Path))
	if again != nil && ctx.Err() == nil {
		err = errs.New(errs.Invalid, "zone %s: named-checkzone refuses it: %s", c.zone.GetName(), lastLines(out)).
			WithHint("nothing was changed; infractl dns list shows the records")
	}
	return errs.Join(err, p.host.Remove(c.file.Path))
}

func lastLines(out host.Output) string {
	text := strings.TrimSpace(string(out.Stdout) + string(out.Stderr))
	if len(text) > 500 {
		text = "..." + text[len(text)-500:]
	}
	return strings.ReplaceAll(text, "\n", "; ")
}

// writeKeys writes the key file anew where it is not as it should be. Only bind's group can read it.
func (p *Provider) writeKeys(ctx context.Context, l *looked) error {
	if !l.keys {
		return nil
	}
	refs := keyRefs(l.spec)
	if len(refs) == 0 {
		return p.host.Remove(keyFile)
	}
	var b strings.Builder
	b.WriteString(header)
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		value, err := p.key(ctx, refs[name])
		if err != nil {
			return err
		}
		b.WriteString("key \"" + name + "\" {\n\talgorithm hmac-sha256;\n\tsecret \"" + base64.StdEncoding.EncodeToString(value.Reveal()) + "\";\n};\n")
	}
	f := host.File{Path: keyFile, Data: []byte(b.String()), Mode: 0o640, UID: os.Geteuid(), GID: p.groupID()}
	if _, err := p.host.Write(f); err != nil {
		return err
	}
	l.state.Keys, l.state.KeyFile = l.versions(), digest(f.Data)
	return nil
}

// checkAll lets bind's own checker read the whole configuration with the changed zones, before anything takes its place.
func (p *Provider) checkAll(ctx context.Context, l *looked, changes []change) error {
	fresh := map[string]bool{}
	for _, c := range changes {
		fresh[zoneFile(c.zone)] = true
	}
	text := options(l.spec) + local(l.spec, func(z *v1.DnsZone) string {
		if file := zoneFile(z); fresh[file] {
			return file + beside
		}
		return zoneFile(z)
	})
	if _, err := p.host.WriteFile(checkFile, []byte(text), 0o600); err != nil {
		return err
	}
	out, err := p.host.Run(ctx, "named-checkconf", "-z", p.host.Path(checkFile))
	if err != nil && ctx.Err() == nil {
		err = errs.New(errs.Invalid, "named-checkconf refuses the configuration: %s", lastLines(out)).WithHint("nothing was changed")
	}
	return errs.Join(err, p.host.Remove(checkFile))
}

// place brings the changed files into place.
func (p *Provider) place(l *looked, changes []change) error {
	for _, c := range changes {
		if err := p.host.Rename(c.file.Path, zoneFile(c.zone)); err != nil {
			return errs.Wrap("replace zone "+c.zone.GetName(), err)
		}
	}
	for _, f := range l.conf {
		if err := p.keepOriginal(f.Path); err != nil {
			return err
		}
		if _, err := p.host.Write(f); err != nil {
			return err
		}
	}
	for _, f := range l.stale {
		if err := p.host.Remove(f); err != nil {
			return err
		}
	}
	if l.enabled {
		return nil
	}
	service := "/usr/lib/systemd/system/" + unit
	if !p.host.Exists(service) {
		service = "/lib/systemd/system/" + unit
	}
	for _, link := range slices.Backward(links()) { // the one that decides comes last
		if _, err := p.host.Write(host.File{Path: link, Mode: os.ModeSymlink | 0o777, Data: []byte(service)}); err != nil {
			return err
		}
	}
	return nil
}

// keepOriginal copies a configuration file that is not ours, with its mode and owner, the first time only: what is edited by hand
// later must not take the place of what was there before us.
func (p *Provider) keepOriginal(file string) error {
	have, err := p.host.Stat(file)
	if err != nil || have.Absent || strings.HasPrefix(string(have.Data), header) || p.host.Exists(file+original) {
		return err
	}
	have.Path = file + original
	_, err = p.host.Write(have)
	return errs.Wrap("keep "+file+" as it was", err)
}

// load makes bind read what changed: one zone, or the configuration, or all of it where bind does not run with ours yet.
func (p *Provider) load(ctx context.Context, l *looked, changes []change) error {
	if !l.running || l.state.Loaded == "" {
		_, err := p.host.Run(ctx, "systemctl", "restart", unit)
		return errs.Wrap("start the name server", err)
	}
	// What is known only by its marker is read again as a whole: configuration and zones.
	if _, err := p.host.Run(ctx, "rndc", "reconfig"); err != nil {
		return errs.Wrap("tell the name server", err)
	}
	if len(changes) == 0 && l.clean || l.state.Loaded == pending {
		_, err := p.host.Run(ctx, "rndc", "reload")
		return errs.Wrap("tell the name server", err)
	}
	for _, c := range changes {
		if !c.isIn {
			continue // reconfig has read it
		}
		argv := []string{"rndc", "reload", c.zone.GetName()}
		if c.zone.GetView() != "" {
			argv = append(argv, "IN", c.zone.GetView())
		}
		if _, err := p.host.Run(ctx, argv...); err != nil {
			return errs.Wrap("tell the name server of zone "+c.zone.GetName(), err)
		}
	}
	return nil
}

// proveAll asks bind for each changed zone's serial, and for each changed name.
func (p *Provider) proveAll(ctx context.Context, changes []change) error {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	exchange := p.cfg.Exchange
	if exchange == nil {
		var done func()
		exchange, done = zone.Reusing()
		defer done()
	}
	for _, c := range changes {
		if err := p.soon(ctx, c.zone); err != nil {
			return err
		}
		if c.zone.GetView() == outside || c.zone.GetDynamic() {
			continue // asked from here, the other view answers
		}
		questions, err := changed(c.old, c.file.Data)
		if err != nil {
			return errs.Wrap("zone "+c.zone.GetName(), err)
		}
		for _, a := range zone.AskAll(ctx, exchange, loopback, questions, false) {
			if a.Err != nil {
				return errs.Wrap("ask for "+a.Question.Name, a.Err)
			}
			if !a.OK() {
				return errs.New(errs.Internal, "the name server says %s %s is %s, and not %s", a.Question.Name, a.Question.Type, said(a.Values), said(a.Question.Values)).
					WithHint("journalctl -u named says why")
			}
		}
	}
	return nil
}

// soon waits for a zone, as long as the name server may take.
func (p *Provider) soon(ctx context.Context, z *v1.DnsZone) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Wait)
	defer cancel()
	return p.served(ctx, z)
}

func said(values []string) string {
	if len(values) == 0 {
		return "nothing"
	}
	return strings.Join(values, ", ")
}

// changed are the questions whose answers differ between two master files. An old one that cannot be read had none.
func changed(old, next []byte) ([]zone.Question, error) {
	records, _, err := zone.Parse(next)
	if err != nil {
		return nil, err
	}
	before, _, _ := zone.Parse(old)
	type key struct{ name, kind string }
	had := map[key][]string{}
	for _, q := range zone.Questions(before) {
		had[key{q.Name, q.Type}] = q.Values
	}
	var out []zone.Question
	for _, q := range zone.Questions(records) {
		k := key{q.Name, q.Type}
		if values, ok := had[k]; !ok || !slices.Equal(values, q.Values) {
			out = append(out, q)
		}
		delete(had, k)
	}
	for k := range had {
		if k.kind != "NS" {
			out = append(out, zone.Question{Name: k.name, Type: k.kind})
		}
	}
	return out, nil
}

// served waits until bind serves a zone with the serial of its file. A secondary zone counts when bind has it: it may still have to come.
func (p *Provider) served(ctx context.Context, z *v1.DnsZone) error {
	due, err := p.due(z)
	if err != nil {
		return err
	}
	var last *errs.Error
	for {
		serial, err := p.serial(ctx, z)
		switch {
		case err == nil && (serial == due || !static(z)):
			return nil
		case err == nil:
			last = errs.New(errs.Internal, "the name server still serves zone %s with serial %d, and not %d", label(z), serial, due)
		case len(z.GetPrimaries()) > 0 && strings.Contains(err.Error(), "SERVFAIL"):
			p.cfg.Log.Warn("a secondary zone has not come yet", "zone", z.GetName())
			return nil
		default:
			last = errs.New(errs.Internal, "%w", err)
		}
		select {
		case <-ctx.Done():
			return last.WithHint("journalctl -u named says why")
		case <-time.After(pause):
		}
	}
}

// exchange asks one question.
func (p *Provider) exchange() zone.Exchange {
	if p.cfg.Exchange == nil {
		return zone.OverNetwork
	}
	return p.cfg.Exchange
}

// serial is what bind serves a zone with. Of a zone that is only for the outside bind's own list is asked.
func (p *Provider) serial(ctx context.Context, z *v1.DnsZone) (uint32, error) {
	if z.GetView() != outside {
		return zone.Serial(ctx, p.exchange(), loopback, z.GetName())
	}
	out, err := p.host.Run(ctx, "rndc", "zonestatus", z.GetName(), "IN", outside)
	if err != nil {
		return 0, err
	}
	return statusSerial(string(out.Stdout))
}

// pending in place of a digest says that bind may run with older files.
const pending = "pending"

// pending notes that files and bind may differ from now on, so that the next plan says so after a crash.
func (p *Provider) pending(l *looked) error {
	s := l.state
	if s.Version, s.Loaded = 1, pending; l.state.Loaded == "" {
		s.Loaded = "" // bind does not run with ours at all
	}
	return p.write(s)
}

// remember notes what bind runs with.
func (p *Provider) remember(l *looked) error {
	l.state.Version, l.state.Loaded = 1, l.loaded
	return p.write(l.state)
}

func (p *Provider) write(s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return errs.Wrap("remember", err)
	}
	_, err = p.host.WriteFile(stateFile, data, 0o600)
	return err
}

// folder makes a folder that bind can read. The agent's umask may be tighter than that.
func (p *Provider) folder(ctx context.Context, dir string) error {
	if !p.host.Exists(dir) {
		if err := p.host.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	have, err := p.host.Stat(dir)
	if err != nil || have.Mode.Perm() == 0o755 {
		return err
	}
	_, err = p.host.Run(ctx, "chmod", "0755", path.Clean(dir))
	return errs.Wrap("open "+dir+" to the name server", err)
}
