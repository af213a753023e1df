package system

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// sysctls are the kernel settings of one stage.
type sysctls struct {
	file host.File
	// record is originalFile as it must be in the end, and before the first value is set.
	record, before host.File
	// set are the live values that differ, among them those that go back to what they were.
	set map[string]string
	// live are the present values of all settings concerned.
	live map[string]string
}

// originals is the content of originalFile: what settings were before infractl set them.
type originals struct {
	Version int               `json:"version"`
	Values  map[string]string `json:"values"`
}

func validKey(key string) bool {
	return len(key) <= 200 && regexp.MustCompile(`^[a-z0-9_]+([./][A-Za-z0-9_@:-]+([./][A-Za-z0-9_@:-]+)*)$`).MatchString(key)
}

// sysctlPath is the file of a setting. As in sysctl.d(5), the first separator says which one it is; the other then belongs to
// a name: net.ipv4.conf.eth0/1.rp_filter is about the interface eth0.1.
func sysctlPath(key string) string {
	i := strings.IndexAny(key, "./")
	if i >= 0 && key[i] == '.' {
		key = strings.NewReplacer(".", "/", "/", ".").Replace(key)
	}
	return "/proc/sys/" + key
}

// isNet reports whether a setting can cut the host off.
func isNet(key string) bool { return strings.HasPrefix(key, "net.") || strings.HasPrefix(key, "net/") }

// unsettable says why a setting can't be set here; empty when it can.
func (p *Provider) unsettable(key string) string {
	path := p.host.Path(sysctlPath(key))
	info, err := os.Stat(path)
	switch {
	case err != nil || info.IsDir():
		return "does not exist on this kernel"
	case info.Mode().Perm()&0o200 == 0 || errors.Is(unix.Access(path, unix.W_OK), unix.EROFS):
		return "is read-only on this host"
	}
	return ""
}

// value is the setting as the kernel has it, with single blanks.
func (p *Provider) value(key string) (string, error) {
	data, err := p.host.ReadFile(sysctlPath(key))
	return blanks(string(data)), errs.Wrap("read kernel setting "+key, err)
}

func blanks(text string) string { return strings.Join(strings.Fields(text), " ") }

// sysctls compares the kernel settings of a stage: those below net. while widening, the others at additions.
func (p *Provider) sysctls(w wish) (sysctls, error) {
	s := sysctls{set: map[string]string{}, live: map[string]string{}}
	ours := func(key string) bool { return isNet(key) == (w.Stage == provider.Widening) }
	old, err := p.originals()
	if err != nil {
		return s, err
	}
	s.file = host.File{Path: sysctlFile}
	if w.Stage == provider.Widening {
		s.file.Path = netFile
	}
	first, last := maps.Clone(old), maps.Clone(old)
	text := header
	for _, key := range slices.Sorted(maps.Keys(w.Spec.GetSysctls())) {
		if !ours(key) {
			continue
		}
		value := w.Spec.GetSysctls()[key]
		text += key + " = " + value + "\n"
		if p.unsettable(key) != "" {
			continue
		}
		if s.live[key], err = p.value(key); err != nil {
			return s, err
		}
		if _, known := old[key]; !known {
			first[key], last[key] = s.live[key], s.live[key]
		}
		if s.live[key] != blanks(value) {
			s.set[key] = value
		}
	}
	for key, value := range old {
		if _, wanted := w.Spec.GetSysctls()[key]; wanted || !ours(key) {
			continue
		}
		delete(last, key)
		if p.unsettable(key) != "" {
			continue
		}
		if s.live[key], err = p.value(key); err != nil {
			return s, err
		}
		if s.live[key] != value {
			s.set[key] = value
		}
	}
	s.file = p.file(s.file.Path, text)
	s.file.Absent = text == header
	s.before, s.record = p.recordFile(first), p.recordFile(last)
	return s, nil
}

func (p *Provider) recordFile(values map[string]string) host.File {
	data, _ := json.Marshal(originals{Version: 1, Values: values}) // strings only: can't fail
	f := p.file(originalFile, string(data)+"\n")
	f.Mode, f.Absent = 0o600, len(values) == 0
	return f
}

func (p *Provider) originals() (map[string]string, error) {
	data, err := p.host.ReadFile(originalFile)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, errs.Wrap("read "+originalFile, err)
	}
	var o originals
	if err := strictjson.Unmarshal(data, &o); err != nil || o.Version != 1 {
		return nil, errs.New(errs.Precondition, "the record of former kernel settings cannot be read: %v", err).At(originalFile).
			WithHint("move the file away; settings that the site no longer names then keep their values until the next boot")
	}
	for key := range o.Values {
		if !validKey(key) {
			return nil, errs.New(errs.Precondition, "%q is no kernel setting", key).At(originalFile).WithHint("move the file away")
		}
	}
	if o.Values == nil {
		o.Values = map[string]string{}
	}
	return o.Values, nil
}

func (p *Provider) applySysctls(ctx context.Context, s sysctls) error {
	// What a setting was is written down before it changes, so that a crash does not lose it.
	for _, f := range []host.File{s.before, s.file} {
		if _, err := p.host.Write(f); err != nil {
			return err
		}
	}
	if err := p.setLive(ctx, s.set); err != nil {
		return err
	}
	_, err := p.host.Write(s.record)
	return err
}

func (p *Provider) setLive(ctx context.Context, values map[string]string) error {
	var failed []error
	for _, key := range slices.Sorted(maps.Keys(values)) {
		_, err := p.host.Run(ctx, "sysctl", "-q", "-w", key+"="+values[key])
		failed = append(failed, errs.Wrap("set kernel setting "+key, err))
	}
	return errs.Join(failed...)
}
