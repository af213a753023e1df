package site

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/infractl/infractl/internal/compose"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Source is a site file, with an overlay where there is one.
type Source struct {
	// File is the site file's name, for messages.
	File string
	// Content is the site file.
	Content []byte
	// OverlayFile is the overlay's name, for messages; empty without one.
	OverlayFile string
	// OverlayContent is the overlay.
	OverlayContent []byte
	// Files are the Compose files that the site file names, with those of the folder that has each one's name.
	Files []File
	// WithoutFiles says that nobody looked for files: stacks are not read, and have no part in what hosts must be.
	WithoutFiles bool
	// Site is the name that the site must have, which its certificates carry; empty: any.
	Site string
}

// SourceFromProto returns the source that a message carries.
func SourceFromProto(m *v1.SiteSource) Source {
	files := make([]File, 0, len(m.GetFiles()))
	for _, f := range m.GetFiles() {
		files = append(files, File{Path: f.GetPath(), Content: f.GetContent(), Executable: f.GetExecutable()})
	}
	return Source{
		File: m.GetFile(), Content: m.GetContent(),
		OverlayFile: m.GetOverlayFile(), OverlayContent: m.GetOverlayContent(),
		Files: files,
	}
}

// hasOverlay reports whether there is an overlay; an empty file with a name is one that changes nothing.
func (s Source) hasOverlay() bool { return s.OverlayFile != "" || len(s.OverlayContent) > 0 }

func (s Source) looksForFiles() bool { return !s.WithoutFiles }

// file returns a file beside the site file.
func (s Source) file(path string) (File, bool) {
	i := slices.IndexFunc(s.Files, func(f File) bool { return f.Path == path })
	if i < 0 {
		return File{}, false
	}
	return s.Files[i], true
}

// Limits of the files beside a site file.
const (
	MaxSourceFile  = compose.MaxFile // bytes of one
	MaxSourceFiles = 1 << 20         // bytes of all
	MaxSourceCount = 1000
)

// CheckFiles returns an Invalid error when the files of a source break a limit, or have names that no folder would give.
func CheckFiles(files []*v1.SourceFile) error {
	if len(files) > MaxSourceCount {
		return errs.New(errs.Invalid, "the stacks have more than %d files", MaxSourceCount)
	}
	total := 0
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		name := f.GetPath()
		if name == "" || len(name) > 1024 || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") ||
			strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == '\\' || r == 0x7f }) || !utf8.ValidString(name) {
			return errs.New(errs.Invalid, "%.80q is no name of a file beside the site file", name)
		}
		if seen[name] {
			return errs.New(errs.Invalid, "the file comes twice").At(name)
		}
		seen[name] = true
		if len(f.GetContent()) > MaxSourceFile {
			return errs.New(errs.Invalid, "is larger than %d KiB", MaxSourceFile>>10).At(name)
		}
		if total += len(f.GetContent()); total > MaxSourceFiles {
			return errs.New(errs.Invalid, "the files of the stacks are larger than %d KiB in all", MaxSourceFiles>>10)
		}
	}
	return nil
}
