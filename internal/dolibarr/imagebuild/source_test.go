package imagebuild

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/dolibarr/standin"
	"github.com/infractl/infractl/internal/errs"
)

var version = dolibarr.Version{Major: 19, Minor: 0, Patch: 4}

// release writes an archive with the least that a release has, and more.
func release(t testing.TB, more ...tar.Header) string {
	t.Helper()
	headers := []tar.Header{{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "abc"}}}
	for _, name := range needed {
		headers = append(headers, tar.Header{Typeflag: tar.TypeReg, Name: "dolibarr-19.0.4/" + name, Mode: 0o777})
	}
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zip)
	for _, h := range append(headers, more...) {
		content := ""
		if strings.HasSuffix(h.Name, "filefunc.inc.php") {
			content = "<?php\nif (!defined('DOL_VERSION')) {\n\tdefine('DOL_VERSION', '19.0.4'); // a.b.c\n}\n"
		}
		if h.Size == 0 {
			h.Size = int64(len(content))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content+strings.Repeat("x", int(min(h.Size, 1<<20))-len(content))); err != nil && h.Size <= 1<<20 {
			t.Fatal(err)
		}
	}
	if err := tw.Flush(); err == nil {
		_ = tw.Close()
	}
	_ = zip.Close()
	file := filepath.Join(t.TempDir(), "dolibarr.tgz")
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }

func TestOpenSourceRefuses(t *testing.T) {
	write := func(content string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const top = "dolibarr-19.0.4/htdocs/"
	for name, c := range map[string]struct{ file, want string }{
		"missing file":         {filepath.Join(t.TempDir(), "none"), "cannot be read: no such file"},
		"no archive":           {write("PK\x03\x04 a zip"), "is no .tgz archive"},
		"no tar inside":        {gzipped(t, "not a tar, but long enough to be looked at"), "is damaged"},
		"cut off":              {cutOff(t, release(t)), "is damaged"},
		"empty":                {gzipped(t, strings.Repeat("\x00", 1024)), "htdocs/filefunc.inc.php is missing"},
		"climbs out":           {release(t, file("dolibarr-19.0.4/htdocs/../../../etc/passwd")), "leads out of it"},
		"absolute":             {release(t, file("/etc/passwd")), "leads out of it"},
		"backslash":            {release(t, file(`dolibarr-19.0.4\htdocs`)), "leads out of it"},
		"link":                 {release(t, tar.Header{Typeflag: tar.TypeSymlink, Name: top + "x", Linkname: "/etc/shadow"}), "neither file nor folder"},
		"hard link":            {release(t, tar.Header{Typeflag: tar.TypeLink, Name: top + "x", Linkname: "/etc/shadow"}), "neither file nor folder"},
		"device":               {release(t, tar.Header{Typeflag: tar.TypeChar, Name: top + "x"}), "neither file nor folder"},
		"two top folders":      {release(t, file("other/htdocs/index.php")), "two top folders"},
		"a file without limit": {release(t, tar.Header{Typeflag: tar.TypeReg, Name: top + "big", Size: mostFile + 1}), "larger than 256 MiB"},
		"a folder of nothing":  {t.TempDir(), "htdocs/filefunc.inc.php is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := OpenSource(c.file, version)
			if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if _, err := OpenSource(release(t), dolibarr.Version{Major: 20}); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), `holds version "19.0.4" and not 20.0.0`) {
		t.Errorf("another version: %v", err)
	}
}

func gzipped(t *testing.T, content string) string {
	t.Helper()
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	_, _ = zip.Write([]byte(content))
	_ = zip.Close()
	name := filepath.Join(t.TempDir(), "file.tgz")
	if err := os.WriteFile(name, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func cutOff(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, data[:len(data)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestWhatMayNotBeInAnImageStaysOut(t *testing.T) {
	out := []string{
		"htdocs/conf/conf.php", "htdocs/conf/conf.php.old", "htdocs/conf/sub/x", "htdocs/custom/multidb/core/modules/modMultidb.class.php",
		"htdocs/install/install.forced.php", "htdocs/install.lock", "htdocs/igdoli.sql", "htdocs/documents/dump.sql.gz", "htdocs/core/a.bak",
		"htdocs/server.key", "htdocs/includes/x/client.pem", "scripts/id_rsa", "htdocs/.env", "htdocs/.git/config", "htdocs/theme/private.P12",
	}
	in := []string{
		"htdocs/conf/conf.php.example", "htdocs/conf/.htaccess", "htdocs/custom/README.md", "htdocs/install/install.forced.sample.php",
		"htdocs/install/mysql/tables/llx_user.key.sql", "htdocs/install/mysql/data/llx_const.sql", "htdocs/includes/stripe/ca-certificates.crt",
		"htdocs/core/menus/init_menu_auguria.sql", "htdocs/includes/x/composer.lock", "htdocs/core/lib/security.lib.php", "scripts/cron/cron_run_jobs.php",
	}
	none := []string{"build/x", "dev/initdemo/dump.sql", "igdoli.sql", "documents/install.lock", "htdocs"}
	var headers []tar.Header
	for _, name := range slices.Concat(out, in, none) {
		headers = append(headers, file("dolibarr-19.0.4/"+name))
	}
	s, err := OpenSource(release(t, headers...), version)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(out, s.LeftOut()); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	if want := len(in) + len(needed); s.Files() != want {
		t.Errorf("%d files, want %d", s.Files(), want)
	}
	names := packed(t, s)
	for _, name := range in {
		if !slices.Contains(names, "dolibarr/"+strings.Replace(name, "htdocs/", "html/", 1)) {
			t.Errorf("%s is missing in the context", name)
		}
	}
	for _, name := range slices.Concat(out, none[:4]) {
		if slices.Contains(names, "dolibarr/"+strings.Replace(name, "htdocs/", "html/", 1)) {
			t.Errorf("%s is in the context", name)
		}
	}
}

// packed returns the names in the context of a release, and checks owners and modes: the code is root's and read only.
func packed(t *testing.T, s *Source) []string {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := s.write(tw); err != nil {
		t.Fatal(err)
	}
	var names []string
	seen := map[string]bool{}
	for tr := tar.NewReader(&buf); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		mode := int64(0o444)
		if h.Typeflag == tar.TypeDir {
			mode = 0o755
		}
		if h.Uid != 0 || h.Gid != 0 || h.Mode != mode || seen[h.Name] {
			t.Errorf("%s: owner %d:%d, mode %o, twice %v", h.Name, h.Uid, h.Gid, h.Mode, seen[h.Name])
		}
		seen[h.Name] = true
		names = append(names, h.Name)
	}
	return names
}

func TestFolderAndArchiveGiveTheSame(t *testing.T) {
	dir, archive := t.TempDir(), filepath.Join(t.TempDir(), "x.tgz")
	if err := standin.Write(dir, "19.0.4"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(archive)
	if err == nil {
		err = standin.Archive(f, "19.0.4")
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	var lists [2][]string
	var hashes [2]string
	for i, name := range []string{dir, archive} {
		s, err := OpenSource(name, version)
		if err != nil {
			t.Fatal(err)
		}
		lists[i] = packed(t, s)
		slices.Sort(lists[i])
		if hashes[i], err = ContextHash(Options{Kind: Dolibarr, Tag: Tag(Dolibarr, s), Source: s}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(lists[0], lists[1]); diff != "" {
		t.Errorf("folder and archive differ:\n%s", diff)
	}
	again, err := OpenSource(archive, version)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := ContextHash(Options{Kind: Dolibarr, Tag: Tag(Dolibarr, again), Source: again})
	if err != nil || hash != hashes[1] {
		t.Errorf("the hash of the same context is %s and %s, %v", hashes[1], hash, err)
	}
	for kind, want := range map[string]string{Dolibarr: "infractl/dolibarr:19.0.4", MariaDB: "infractl/mariadb:10.11", Front: "infractl/front:1"} {
		if got := Tag(kind, again); got != want {
			t.Errorf("tag of %s = %s, want %s", kind, got, want)
		}
	}
}

func TestEveryContextHasADockerfile(t *testing.T) {
	seen := map[string]bool{}
	for _, kind := range []string{Dolibarr, MariaDB, Front} {
		hash, err := ContextHash(Options{Kind: kind})
		if err != nil || seen[hash] {
			t.Errorf("%s: %s, %v", kind, hash, err)
		}
		seen[hash] = true
		other, _ := ContextHash(Options{Kind: kind, Base: "another"})
		if other == hash {
			t.Errorf("%s: another base gives the same hash", kind)
		}
	}
	if _, err := ContextHash(Options{Kind: "nonsense"}); err == nil {
		t.Error("an unknown kind has a context")
	}
}

func FuzzOpenSource(f *testing.F) {
	for _, name := range []string{"dolibarr-19.0.4/htdocs/x.php", "../x", "/x", "a\\b", "dolibarr-19.0.4//htdocs/./x", ".", "", "dolibarr-19.0.4/htdocs/custom/x"} {
		f.Add(name, byte(tar.TypeReg))
	}
	f.Add("dolibarr-19.0.4/htdocs/x", byte(tar.TypeSymlink))
	f.Fuzz(func(t *testing.T, name string, kind byte) {
		var buf bytes.Buffer
		zip := gzip.NewWriter(&buf)
		tw := tar.NewWriter(zip)
		if tw.WriteHeader(&tar.Header{Typeflag: kind, Name: name}) != nil || tw.Close() != nil || zip.Close() != nil {
			return // no such header can be written
		}
		archive := filepath.Join(t.TempDir(), "x.tgz")
		if err := os.WriteFile(archive, buf.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &Source{file: archive, version: version}
		_ = s.walk(func(f entry) error {
			if clean := filepath.Clean(f.name); strings.HasPrefix(clean, "..") || filepath.IsAbs(clean) || !inImage(clean) {
				t.Errorf("%q came through as %q", name, f.name)
			}
			return nil
		})
	})
}
