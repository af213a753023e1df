package providertest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// picture is all that the suite compares of a machine: path of a file, or "(state)", to its description.
type picture map[string]string

const (
	stateKey  = "(state)"
	dirPrefix = "folder "
)

// look takes a picture of the machine.
func (m *machine[S]) look() (picture, error) {
	p := picture{}
	err := filepath.WalkDir(m.Root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(m.Root, name)
		for _, pattern := range m.suite.Ignore {
			if ok, _ := path.Match(strings.TrimPrefix(pattern, "/"), rel); ok {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
		}
		return p.add(name, rel)
	})
	if err != nil {
		return nil, err
	}
	if m.State != nil {
		if p[stateKey], err = m.State(); err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
	}
	return p, nil
}

func (p picture) add(name, rel string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	owner := ""
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	switch {
	case info.IsDir():
		p[dirPrefix+rel] = fmt.Sprintf("%v %s", info.Mode(), owner)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		p[rel] = "link to " + target
	case info.Mode().IsRegular():
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		p[rel] = fmt.Sprintf("%v %s\n%s", info.Mode(), owner, printable(data))
	default:
		p[rel] = info.Mode().String()
	}
	return nil
}

func printable(data []byte) string {
	if len(data) <= 64<<10 && utf8.Valid(data) {
		return string(data)
	}
	return fmt.Sprintf("%d bytes, sha256 %x", len(data), sha256.Sum256(data))
}

// differs compares two pictures; folders that are new in got, and hold no file, are no difference: a rollback may leave them.
func differs(want, got picture) string {
	w, g := picture{}, picture{}
	for k, v := range want {
		w[k] = v
	}
	for k, v := range got {
		if _, before := want[k]; before || !strings.HasPrefix(k, dirPrefix) {
			g[k] = v
		}
	}
	return cmp.Diff(w, g)
}

// same fails with a diff when the machine does not look as wanted, or when foreign state changed.
func (m *machine[S]) same(what string, want picture) error {
	got, err := m.look()
	if err != nil {
		return err
	}
	if d := differs(want, got); d != "" {
		return fmt.Errorf("%s: the machine differs (-want +got):\n%s%s", what, d, m.calls())
	}
	return m.foreignUntouched(what)
}

func (m *machine[S]) foreignUntouched(what string) error {
	got, err := text(m.Foreign)
	if err != nil {
		return err
	}
	if d := cmp.Diff(m.foreign, got); d != "" {
		return fmt.Errorf("%s: foreign state changed (-want +got):\n%s%s", what, d, m.calls())
	}
	return nil
}

// calls lists the last calls, for a failure's text.
func (m *machine[S]) calls() string {
	var b strings.Builder
	b.WriteString("calls:\n")
	for i, op := range m.faults.Ops() {
		fmt.Fprintf(&b, "  %d %s %s\n", i+1, op.Text, op.Err)
	}
	return b.String()
}

func text(fn func() (string, error)) (string, error) {
	if fn == nil {
		return "", nil
	}
	return fn()
}

// spread returns at most limit numbers from 1 to n, first and last among them.
func spread(n, limit int) []int {
	if limit <= 0 {
		limit = 40
	}
	seen := map[int]bool{}
	for i := range min(n, limit) {
		at := i + 1
		if n > limit {
			at = 1 + i*(n-1)/max(limit-1, 1)
		}
		seen[at] = true
	}
	list := make([]int, 0, len(seen))
	for at := range seen {
		list = append(list, at)
	}
	sort.Ints(list)
	return list
}
