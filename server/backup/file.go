package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Maker makes a backup and writes it to w.
type Maker func(ctx context.Context, w io.Writer) (*v1.BackupSummary, error)

// ToFile makes a backup into a file, mode 0600. The file appears under its name once it is whole and on disk; nothing is left
// otherwise, and a file that is there is never overwritten: Exists.
func ToFile(ctx context.Context, path string, make Maker) (*v1.BackupSummary, error) {
	sum, err := toFile(ctx, path, make)
	return sum, errs.Wrap("write backup", err)
}

func toFile(ctx context.Context, path string, make Maker) (sum *v1.BackupSummary, err error) {
	taken := errs.New(errs.Exists, "the file exists already").At(path).WithHint("choose another name; backups are never overwritten")
	if _, err := os.Lstat(path); err == nil {
		return nil, taken
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, fileError(path, err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	to := &target{File: tmp}
	if sum, err = make(ctx, to); err != nil {
		if to.err != nil {
			err = to.err
		}
		return nil, fileOrOurs(path, err)
	}
	if err := errs.Join(tmp.Sync(), tmp.Close()); err != nil {
		return nil, fileError(path, err)
	}
	if err := os.Link(tmp.Name(), path); err != nil { // unlike a rename, a link never replaces a file
		if errors.Is(err, fs.ErrExist) {
			return nil, taken
		}
		return nil, fileError(path, err)
	}
	return sum, fileError(path, syncDir(filepath.Dir(path)))
}

// target remembers what the file itself failed with.
type target struct {
	*os.File
	err error
}

// Write implements io.Writer.
func (t *target) Write(p []byte) (int, error) {
	n, err := t.File.Write(p)
	if err != nil {
		t.err = err
	}
	return n, err
}

func fileOrOurs(path string, err error) error {
	var ours *errs.Error
	if errors.As(err, &ours) {
		return err
	}
	return fileError(path, err)
}

// ToFolder makes a backup into a folder, under a name with site and time, and then removes all but the newest keep files of
// such names of that site; 0 keeps all. It returns the file's path.
func ToFolder(ctx context.Context, dir, site string, now time.Time, keep int, make Maker) (string, *v1.BackupSummary, error) {
	path := filepath.Join(dir, fmt.Sprintf("infractl-%s-%s.age", site, now.UTC().Format("20060102T150405Z")))
	sum, err := ToFile(ctx, path, make)
	if err != nil || keep <= 0 {
		return path, sum, err
	}
	return path, sum, errs.Wrap("remove old backups", prune(dir, site, keep))
}

// prune removes the oldest backups of a site. Whatever is called otherwise is not ours to remove.
func prune(dir, site string, keep int) error {
	ours := regexp.MustCompile(`^infractl-` + regexp.QuoteMeta(site) + `-\d{8}T\d{6}Z\.age$`)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fileError(dir, err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.Type().IsRegular() || !ours.MatchString(e.Name()) })
	for i := 0; i < len(entries)-keep; i++ { // names sort by time
		path := filepath.Join(dir, entries[i].Name())
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fileError(path, err)
		}
	}
	return nil
}
