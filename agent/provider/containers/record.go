package containers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const recordFile = "applied.json"

// record is what was applied of a stack: all that is needed to bring it up again, but for the contents of its files.
type record struct {
	Version int `json:"version"`
	// Name is the stack's name, Hash the digest of its spec.
	Name string `json:"name"`
	Hash string `json:"hash"`
	// Pending says that a change began and has not ended: nothing is known for sure but whose it is.
	Pending bool `json:"pending,omitempty"`
	// File is the Compose file's name, Files are those beside it.
	File  string   `json:"file"`
	Files []string `json:"files,omitempty"`
	// Stale are files of the state before, which a change that is pending removes.
	Stale []string `json:"stale,omitempty"`
	// Images are what runs by reference, IDs their digests.
	Images map[string]string `json:"images,omitempty"`
	IDs    map[string]string `json:"ids,omitempty"`
	// Secrets are versions by name.
	Secrets   map[string]string `json:"secrets,omitempty"`
	Variables map[string]string `json:"variables,omitempty"`
	Services  []wire.Service    `json:"services,omitempty"`
}

// hashOf is the digest of a stack's spec, with versions of secrets and ids of images.
func hashOf(s *v1.StackSpec) string {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return "" // equal to no record's
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func newRecord(s *v1.StackSpec) *record {
	r := &record{Version: 1, Name: s.GetName(), Hash: hashOf(s), File: composeName(s), Images: map[string]string{},
		IDs: map[string]string{}, Secrets: map[string]string{}, Variables: s.GetVariables()}
	for _, f := range s.GetFiles() {
		r.Files = append(r.Files, f.GetPath())
	}
	for _, i := range s.GetImages() {
		r.Images[i.GetReference()] = i.GetUse()
	}
	for _, x := range s.GetSecrets() {
		r.Secrets[x.GetName()] = x.GetVersion()
	}
	return r
}

// paths are all files in the stack's folder that may be there.
func (r *record) paths() []string {
	list := slices.Concat([]string{r.File}, r.Files, r.Stale)
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(f string) bool { return f == "" })
}

// composeName is the Compose file's name in the stack's folder.
func composeName(s *v1.StackSpec) string {
	if name := path.Base(s.GetComposeFile()); name != "." && name != "/" && name != ".." {
		return name
	}
	return "compose.yml"
}

func (p *Provider) projectDir(name string) string { return path.Join(p.dir, name, "project") }
func (p *Provider) secretDir(name string) string  { return path.Join(p.dir, name, "secrets") }
func (p *Provider) recordPath(name string) string { return path.Join(p.dir, name, recordFile) }

// record reads what was applied of a stack; nil when nothing was. One that does not parse counts as pending.
func (p *Provider) record(name string) (*record, error) {
	data, err := p.host.ReadFile(p.recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.Wrap("read "+p.recordPath(name), err)
	}
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil || r.Version != 1 || r.Name != name {
		p.log.Warn("the record of a stack is damaged; it is applied anew", "stack", name)
		return &record{Version: 1, Name: name, Pending: true}, nil
	}
	return r, nil
}

// records reads all of them, sorted by name.
func (p *Provider) records() ([]*record, error) {
	paths, err := p.host.Glob(path.Join(p.dir, "*", recordFile))
	if err != nil {
		return nil, errs.Wrap("list stacks", err)
	}
	var list []*record
	for _, file := range paths {
		name := path.Base(path.Dir(file))
		if !validName.MatchString(name) {
			continue
		}
		r, err := p.record(name)
		if err != nil {
			return nil, err
		}
		if r != nil {
			list = append(list, r)
		}
	}
	return list, nil
}

func (p *Provider) writeRecord(r *record) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return errs.Wrap("write a record", err)
	}
	_, err = p.host.WriteFile(p.recordPath(r.Name), append(data, '\n'), 0o600)
	return err
}

var (
	validName   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	validSecret = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

// check refuses what must not become a path. The site's check has said it more kindly before.
func check(spec *v1.ContainersSpec) error {
	bad := func(s *v1.StackSpec, format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At("stack " + s.GetName()).WithHint("infractl site check")
	}
	seen := map[string]bool{}
	for _, s := range spec.GetStacks() {
		if !validName.MatchString(s.GetName()) || seen[s.GetName()] {
			return bad(s, "%.64q is no name of a stack, or comes twice", s.GetName())
		}
		seen[s.GetName()] = true
		paths := map[string]bool{composeName(s): true}
		for _, f := range s.GetFiles() {
			name := f.GetPath()
			if name == "" || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") ||
				strings.ContainsRune(name, 0) || paths[name] {
				return bad(s, "%.200q is no path of a file beside the Compose file, or comes twice", name)
			}
			paths[name] = true
		}
		for _, x := range s.GetSecrets() {
			if !validSecret.MatchString(x.GetName()) || x.GetVersion() == "" {
				return bad(s, "%.128q is no name of a secret, or has no version", x.GetName())
			}
		}
		if i := slices.IndexFunc(s.GetImages(), func(i *v1.StackImage) bool { return i.GetUse() == "" }); i >= 0 {
			return bad(s, "nothing runs for the image %.200q", s.GetImages()[i].GetReference())
		}
	}
	return nil
}
