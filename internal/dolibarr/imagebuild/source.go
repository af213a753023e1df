package imagebuild

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
)

// Limits of a release. A real one has 15,000 files and 250 MiB.
const (
	mostFiles = 100_000
	mostFile  = 256 << 20
	mostTotal = 2 << 30
)

// needed is what every release has.
var needed = []string{"htdocs/filefunc.inc.php", "htdocs/index.php", "htdocs/install/step1.php", "htdocs/install/step2.php",
	"htdocs/install/step5.php"}

// Source is a release of Dolibarr: an archive (.tgz) with one top folder, or that folder unpacked.
type Source struct {
	file    string
	folder  bool
	version dolibarr.Version
	files   int
	leftOut []string
}

// OpenSource reads a release to its end and checks it: size, paths, completeness, and that its DOL_VERSION is the wanted version. An error
// names the file; what may not be in an image is not an error but LeftOut.
func OpenSource(file string, version dolibarr.Version) (*Source, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, errs.New(errs.Invalid, "cannot be read: %w", reason(err)).At(file).WithHint("a release archive, dolibarr-%s.tgz", version)
	}
	s := &Source{file: file, folder: info.IsDir(), version: version}
	have, code := map[string]bool{}, ""
	err = s.walk(func(f entry) error {
		if s.left(f.name) {
			s.leftOut = append(s.leftOut, f.name)
			return nil
		}
		s.files++
		have[f.name] = true
		if f.name == "htdocs/filefunc.inc.php" {
			data, err := io.ReadAll(io.LimitReader(f.content, 1<<20))
			code = string(data)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range needed {
		if !have[name] {
			return nil, errs.New(errs.Invalid, "is no complete release of Dolibarr: %s is missing", name).At(file).
				WithHint("the archive of the project, with one folder that holds htdocs and scripts")
		}
	}
	m := dolVersion.FindStringSubmatch(code)
	if m == nil {
		return nil, errs.New(errs.Invalid, "htdocs/filefunc.inc.php defines no DOL_VERSION").At(file)
	}
	if m[1] != version.String() {
		return nil, errs.New(errs.Invalid, "holds version %q and not %s", m[1], version).At(file).WithHint("give the version that the archive is of")
	}
	return s, nil
}

var dolVersion = regexp.MustCompile(`define\(\s*'DOL_VERSION'\s*,\s*'([^']{1,40})'`)

// Version is the version of the release.
func (s *Source) Version() dolibarr.Version { return s.version }

// Files is how many files go into the image.
func (s *Source) Files() int { return s.files }

// LeftOut are the files that do not: somebody's configuration, keys, dumps, external modules, locks.
func (s *Source) LeftOut() []string { return s.leftOut }

// entry is a regular file of a release; its name begins with htdocs/ or scripts/.
type entry struct {
	name    string
	size    int64
	content io.Reader
}

// walk calls f for every file below htdocs and scripts. What else a release holds is not for an image.
func (s *Source) walk(f func(entry) error) error {
	files, total := 0, int64(0)
	count := func(name string, size int64) error {
		files++
		total += size
		switch {
		case size > mostFile:
			return errs.New(errs.Invalid, "the file %s is larger than %d MiB", name, mostFile>>20).At(s.file)
		case files > mostFiles || total > mostTotal:
			return errs.New(errs.Invalid, "holds more than %d files or %d GiB", mostFiles, mostTotal>>30).At(s.file)
		}
		return nil
	}
	if s.folder {
		return s.walkFolder(count, f)
	}
	return s.walkArchive(count, f)
}

func (s *Source) walkArchive(count func(string, int64) error, f func(entry) error) error {
	file, err := os.Open(s.file)
	if err != nil {
		return errs.New(errs.Invalid, "cannot be read: %w", reason(err)).At(s.file)
	}
	defer file.Close()
	zip, err := gzip.NewReader(file)
	if err != nil {
		return errs.New(errs.Invalid, "is no .tgz archive: %w", err).At(s.file)
	}
	top := ""
	for tr := tar.NewReader(zip); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errs.New(errs.Invalid, "is damaged: %w", err).At(s.file)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // what Git writes
		}
		name := strings.TrimPrefix(h.Name, "./")
		if err := s.safe(name, h); err != nil {
			return err
		}
		first, rest, _ := strings.Cut(path.Clean(name), "/")
		if first == "." {
			continue
		}
		if top == "" {
			top = first
		}
		if first != top {
			return errs.New(errs.Invalid, "has two top folders, %s and %s", top, first).At(s.file).
				WithHint("the project's archives have one, dolibarr-%s", s.version)
		}
		if err := count(name, h.Size); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || !inImage(rest) {
			continue
		}
		if err := f(entry{rest, h.Size, tr}); err != nil {
			return err
		}
	}
}

// safe refuses names that lead elsewhere and whatever is neither file nor folder. A link could name what is not there.
func (s *Source) safe(name string, h *tar.Header) error {
	if strings.HasPrefix(name, "/") || strings.ContainsAny(name, "\x00\\\n") || slices.Contains(strings.Split(name, "/"), "..") {
		return errs.New(errs.Invalid, "holds a path that leads out of it: %q", name).At(s.file)
	}
	if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
		return errs.New(errs.Invalid, "holds something that is neither file nor folder: %q", name).At(s.file).WithHint("a release holds no links")
	}
	return nil
}

func (s *Source) walkFolder(count func(string, int64) error, f func(entry) error) error {
	return filepath.WalkDir(s.file, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return errs.New(errs.Invalid, "cannot be read: %w", reason(err)).At(full)
		}
		name, err := filepath.Rel(s.file, full)
		if err != nil || d.IsDir() || !inImage(filepath.ToSlash(name)) {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return errs.New(errs.Invalid, "holds something that is neither file nor folder: %q", name).At(s.file)
		}
		if err := count(name, info.Size()); err != nil {
			return err
		}
		content, err := os.Open(full)
		if err != nil {
			return errs.New(errs.Invalid, "cannot be read: %w", reason(err)).At(full)
		}
		defer content.Close()
		return f(entry{filepath.ToSlash(name), info.Size(), content})
	})
}

func inImage(name string) bool {
	return strings.HasPrefix(name, "htdocs/") || strings.HasPrefix(name, "scripts/")
}

var (
	keyFile  = regexp.MustCompile(`(?i)(\.(key|pem|p12|pfx|jks|kdbx)|/\.env[^/]*|/\.htpasswd|/id_(rsa|dsa|ecdsa|ed25519)[^/]*)$`)
	dumpFile = regexp.MustCompile(`(?i)\.(dump|sql\.(gz|bz2|xz|zst|zip)|bak|old|log|swp)$`)
	// sqlPlace is where the project keeps statements; elsewhere they are somebody's data.
	sqlPlace = regexp.MustCompile(`^htdocs/(install|includes|modulebuilder|core)/|/sql/`)
)

// left reports whether a file may not be in an image.
func (s *Source) left(name string) bool {
	dir, base := path.Split(name)
	switch {
	case dir == "htdocs/conf/":
		return base != "conf.php.example" && base != ".htaccess"
	case strings.HasPrefix(name, "htdocs/conf/"):
		return true
	case strings.HasPrefix(name, "htdocs/custom/"):
		return name != "htdocs/custom/README.md"
	case name == "htdocs/install/install.forced.php", strings.Contains("/"+name, "/.git/"):
		return true
	case base == "install.lock" || base == "upgrade.unlock":
		return true
	case strings.HasSuffix(strings.ToLower(base), ".sql"):
		return !sqlPlace.MatchString(name)
	}
	return keyFile.MatchString("/"+name) || dumpFile.MatchString(base)
}

// write writes the release as the folder dolibarr of a build context: html and scripts, root's, read only. Folders come before what is in
// them, so that they have our modes too.
func (s *Source) write(tw *tar.Writer) error {
	made := map[string]bool{}
	return s.walk(func(f entry) error {
		if s.left(f.name) {
			return nil
		}
		name := "dolibarr/" + strings.Replace(f.name, "htdocs/", "html/", 1)
		if strings.HasPrefix(f.name, "scripts/") {
			name = "dolibarr/" + f.name
		}
		if err := makeFolders(tw, path.Dir(name), made); err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: f.size}); err != nil {
			return err
		}
		_, err := io.CopyN(tw, f.content, f.size)
		return err
	})
}

func makeFolders(tw *tar.Writer, dir string, made map[string]bool) error {
	if dir == "." || made[dir] {
		return nil
	}
	if err := makeFolders(tw, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

// reason is the part of a file error that does not repeat the path.
func reason(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// contextTar packs a folder of the images with fixed owners, modes and times, and the release behind it.
func contextTar(w io.Writer, dir fs.FS, source *Source) error {
	tw := tar.NewWriter(w)
	err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if d.IsDir() {
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
		}
		data, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = io.Copy(tw, bytes.NewReader(data))
		return err
	})
	if err == nil && source != nil {
		err = source.write(tw)
	}
	if err != nil {
		return err
	}
	return tw.Close()
}
