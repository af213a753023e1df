// Package standin makes a small application with Dolibarr's contract, of any version: its installer, its upgrade scripts and its login
// page behave, and deceive, like the original's, so that tests need no source of others. It is no Dolibarr and does nothing useful.
package standin

import (
	"archive/tar"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
)

//go:embed all:files
var files embed.FS

// firstMajor is the oldest series that there is a migration from.
const firstMajor = 10

// Tree returns the files of the application of a version, by their paths below the archive's top folder.
func Tree(version string) (map[string]string, error) {
	v, err := dolibarr.ParseVersion(version)
	if err != nil {
		return nil, err
	}
	if v.Major < firstMajor {
		return nil, errs.New(errs.Invalid, "the stand-in plays %d.0.0 and newer, not %s", firstMajor, v)
	}
	replace := strings.NewReplacer("@VERSION@", v.String(), "@SOCIETE_COLUMNS@", societeColumns(v.Major), "@USER_COLUMNS@", userColumns(v.Major),
		"@PRELEVEMENT@", prelevement(v.Major))
	tree := map[string]string{
		"README.md":                     "A stand-in for Dolibarr, for tests.\n",
		"htdocs/conf/conf.php.example":  "<?php\n// The installer writes conf.php.\n",
		"htdocs/custom/README.md":       "External modules.\n",
		"htdocs/install/medias/.keep":   "",
		"htdocs/core/modules/README.md": "Modules.\n",
	}
	err = fs.WalkDir(files, "files", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		inside := strings.TrimPrefix(name, "files/")
		tree[strings.Replace(inside, "PRELEVEMENT", prelevement(v.Major), 1)] = replace.Replace(string(data))
		return err
	})
	if err != nil {
		return nil, err // the files are compiled in
	}
	for from := firstMajor; from < v.Major; from++ {
		tree[fmt.Sprintf("htdocs/install/mysql/migration/%d.0.0-%d.0.0.sql", from, from+1)] = migration(from)
	}
	return tree, nil
}

// migration is what changes from one series to the next. Each adds a column, so that a hop left out is seen; some do what made real ones
// famous: 17 drops columns that fresh installations go on having, 18 renames a table that keeps the name of its constraint.
func migration(from int) string {
	to := from + 1
	sql := fmt.Sprintf("-- from %d to %d\nALTER TABLE llx_societe ADD COLUMN standin_%d integer;\nALTER TABLE llx_societe DROP COLUMN never_there;\n",
		from, to, to)
	switch to {
	case 17:
		sql += "ALTER TABLE llx_user DROP COLUMN idpers1;\nALTER TABLE llx_user DROP COLUMN idpers2;\nALTER TABLE llx_user DROP COLUMN idpers3;\n"
	case 18:
		sql += "ALTER TABLE llx_prelevement_facture RENAME TO llx_prelevement;\nALTER TABLE llx_user ADD COLUMN flagdelsessionsbefore datetime;\n"
	}
	return sql
}

func societeColumns(major int) string {
	text := ""
	for n := firstMajor + 1; n <= major; n++ {
		text += fmt.Sprintf(",\n  standin_%d integer", n)
	}
	return text
}

func userColumns(major int) string {
	if major < 18 {
		return ""
	}
	return ",\n  flagdelsessionsbefore datetime"
}

func prelevement(major int) string {
	if major < 18 {
		return "llx_prelevement_facture"
	}
	return "llx_prelevement"
}

// Write puts the application of a version into dir, as an unpacked archive without its top folder.
func Write(dir, version string) error {
	tree, err := Tree(version)
	if err != nil {
		return err
	}
	for name, text := range tree {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Archive writes the application of a version as a release archive, dolibarr-X.Y.Z/htdocs/... The same version gives the same bytes.
func Archive(w io.Writer, version string) error {
	tree, err := Tree(version)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(w)
	tw := tar.NewWriter(zip)
	top := "dolibarr-" + version
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		full := path.Join(top, name)
		if err := folders(tw, path.Dir(full), seen); err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: full, Mode: 0o644, Size: int64(len(tree[name]))}
		if err := tw.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.WriteString(tw, tree[name]); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return zip.Close()
}

// folders writes the entries of a folder and those above it, once each.
func folders(tw *tar.Writer, dir string, seen map[string]bool) error {
	if dir == "." || seen[dir] {
		return nil
	}
	if err := folders(tw, path.Dir(dir), seen); err != nil {
		return err
	}
	seen[dir] = true
	return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}
