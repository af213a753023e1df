// Package sitedir reads a site from a folder: the site file, an overlay, and the files of its stacks, as one message.
package sitedir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/infractl/infractl/internal/compose"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/site/yamltree"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Read reads a site file, the overlay if it is named, and the Compose files that the site file names, each with the files of the
// folder that has its name. A Compose file that is missing is left out: that is a fault of the site, which site.Load tells.
// Errors: NotFound without the site file or the overlay, Invalid for what cannot be read, is too large, or leads out of the
// folder by a symbolic link.
func Read(file, overlay string) (*v1.SiteSource, error) {
	content, err := readFile(file)
	if err != nil {
		return nil, err
	}
	src := &v1.SiteSource{File: file, Content: content, OverlayFile: overlay}
	if overlay != "" {
		if src.OverlayContent, err = readFile(overlay); err != nil {
			return nil, err
		}
	}
	names := site.ComposeFiles(content)
	if len(names) == 0 {
		return src, nil
	}
	base := filepath.Dir(file)
	root, err := os.OpenRoot(base)
	if err != nil {
		return nil, unreadable(base, err)
	}
	defer root.Close()
	r := &folder{root: root, base: base, seen: map[string]bool{}}
	for _, name := range names {
		if err := r.stack(name); err != nil {
			return nil, err
		}
	}
	src.Files = r.files
	return src, nil
}

// folder collects the files beside a site file.
type folder struct {
	root  *os.Root
	base  string
	files []*v1.SourceFile
	seen  map[string]bool
	total int
}

func (r *folder) stack(name string) error {
	err := r.add(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir := compose.Folder(name)
	info, err := r.root.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return r.unreadable(dir, err)
	}
	return fs.WalkDir(r.root.FS(), dir, func(at string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return r.unreadable(at, err)
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case d.IsDir(), leftover(d.Name()):
			return nil
		}
		return r.add(at)
	})
}

// leftover reports whether a file is one that editors and file managers leave behind.
func leftover(name string) bool {
	return strings.HasSuffix(name, "~") || strings.HasPrefix(name, ".") && strings.HasSuffix(name, ".swp") || name == ".DS_Store"
}

func (r *folder) add(name string) error {
	if r.seen[name] {
		return nil
	}
	r.seen[name] = true
	f, err := r.root.Open(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return r.unreadable(name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return r.unreadable(name, err)
	}
	if !info.Mode().IsRegular() {
		return errs.New(errs.Invalid, "is no plain file").At(r.where(name)).WithHint("a stack's folder holds files and folders of files")
	}
	content, err := io.ReadAll(io.LimitReader(f, site.MaxSourceFile+1))
	if err != nil {
		return r.unreadable(name, err)
	}
	if len(content) > site.MaxSourceFile {
		return errs.New(errs.Invalid, "is larger than %d KiB", site.MaxSourceFile>>10).At(r.where(name)).
			WithHint("large content belongs into an image or a volume, not beside the site file")
	}
	if r.total += len(content); r.total > site.MaxSourceFiles {
		return errs.New(errs.Invalid, "the files of the stacks are larger than %d KiB in all", site.MaxSourceFiles>>10).At(r.where(path.Dir(name))).
			WithHint("large content belongs into an image or a volume, not beside the site file")
	}
	if len(r.files) >= site.MaxSourceCount {
		return errs.New(errs.Invalid, "the stacks have more than %d files", site.MaxSourceCount).At(r.where(path.Dir(name)))
	}
	r.files = append(r.files, &v1.SourceFile{Path: name, Content: content, Executable: info.Mode()&0o111 != 0})
	return nil
}

func (r *folder) where(name string) string { return filepath.Join(r.base, filepath.FromSlash(name)) }

func (r *folder) unreadable(name string, err error) error {
	var known *errs.Error
	if errors.As(err, &known) {
		return err
	}
	out := unreadable(r.where(name), err)
	if strings.Contains(err.Error(), "escapes") {
		return out.WithHint("a symbolic link leads out of the site's folder: put a copy there")
	}
	return out
}

func unreadable(name string, err error) *errs.Error {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err // the message names the path already
	}
	return errs.New(errs.Invalid, "cannot be read: %w", err).At(name)
}

// readFile reads a site file or overlay, but not more of it than the parser needs to see that it is too large.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.NotFound, "no such file").At(name).WithHint("name the site file with -f; examples/projetpro/site.yaml is one")
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, yamltree.MaxBytes+1))
	if err != nil {
		return nil, unreadable(name, err)
	}
	return data, nil
}
