package backup

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

// Source is a server to save.
type Source struct {
	// DataDir and KeyDir are its folders.
	DataDir, KeyDir string
	// StoreKey is the file of the key that opens secrets; it goes to the keys wherever it lies. Empty where there is none.
	StoreKey string
	// Store is its open store.
	Store store.Store
	// Version is that of this program.
	Version string
	Clock   clock.Clock
	Log     hclog.Logger
}

// tempPattern names the folders for copies of the database below the data folder.
const tempPattern = ".backup-*"

// Write makes a backup and writes it to w. The database is copied first, beside the one in use; the copy is removed again.
// Errors: Exhausted when the disk has no room for the copy, Precondition when a part of the server is missing.
func (s Source) Write(ctx context.Context, w io.Writer, withImages bool) (*Manifest, error) {
	m, err := s.write(ctx, w, withImages)
	return m, errs.Wrap("back the server up", err)
}

func (s Source) write(ctx context.Context, w io.Writer, withImages bool) (*Manifest, error) {
	recipient, err := readRecipient(filepath.Join(s.KeyDir, recipientKey))
	if err != nil {
		return nil, err
	}
	authority, err := certs.Open(filepath.Join(s.KeyDir, "ca"), s.Clock)
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(s.DataDir, tempPattern)
	if err != nil {
		return nil, fileError(s.DataDir, err)
	}
	defer os.RemoveAll(temp)
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails
	m := &Manifest{Format: Format, ID: hex.EncodeToString(raw), Version: s.Version, Site: authority.Site(),
		Fingerprint: authority.Fingerprint(), Made: s.Clock.Now().UTC()}
	if err := s.Store.Backup(ctx, filepath.Join(temp, databaseFile)); err != nil {
		return nil, err
	}
	if err := s.describe(ctx, temp, m); err != nil {
		return nil, err
	}
	files, left, err := s.files(temp, withImages)
	if err != nil {
		return nil, err
	}
	m.Left = left
	sealed, err := age.Encrypt(w, recipient)
	if err != nil {
		return nil, err
	}
	out := tar.NewWriter(sealed)
	for _, f := range files {
		part, err := f.copyTo(ctx, out)
		if err != nil {
			return nil, err
		}
		m.Parts = append(m.Parts, part)
	}
	if err := writeManifest(out, m); err != nil {
		return nil, err
	}
	return m, errors.Join(out.Close(), sealed.Close())
}

// describe opens the copy, which checks it, and notes what is in it.
func (s Source) describe(ctx context.Context, dir string, m *Manifest) (err error) {
	copied, err := sqlite.Open(ctx, sqlite.Config{Dir: dir, Clock: s.Clock, Logger: s.Log})
	if err != nil {
		return err
	}
	defer func() { err = errs.Join(err, copied.Close()) }()
	return m.count(ctx, copied)
}

// count notes what a store holds.
func (m *Manifest) count(ctx context.Context, from store.Store) (err error) {
	if m.SiteRevision, m.ResourceRevision, err = revision.Numbers(ctx, from); err != nil {
		return err
	}
	for kind, into := range map[store.Kind]*int{fleet.KindNode: &m.Nodes, fleet.KindOperator: &m.Operators, fleet.KindRevoked: &m.Revoked} {
		list, err := from.List(ctx, kind, store.ListOptions{NamesOnly: true})
		if err != nil {
			return err
		}
		*into = len(list)
	}
	last, err := from.ListAudit(ctx, store.AuditFilter{Reverse: true, Limit: 1})
	if err == nil && len(last) == 1 {
		m.AuditLast, m.AuditHash, m.AuditTime = last[0].Seq, last[0].Hash, last[0].Time
	}
	return err
}

// file is one file that goes into a backup.
type file struct{ path, name string }

// files lists what goes in and what does not.
func (s Source) files(temp string, withImages bool) (in []file, left []Part, err error) {
	in = []file{{filepath.Join(temp, databaseFile), databaseName}}
	data, err := list(s.DataDir, dataPrefix, storeFolder, imagesFolder)
	if err != nil {
		return nil, nil, err
	}
	keys, err := list(s.KeyDir, keysPrefix, codesFolder)
	if err != nil {
		return nil, nil, err
	}
	in = append(append(in, data...), keys...)
	if s.StoreKey != "" && !slices.ContainsFunc(in, func(f file) bool { return f.name == keysPrefix+storeKeyFile }) {
		if _, err := os.Stat(s.StoreKey); err == nil {
			in = append(in, file{s.StoreKey, keysPrefix + storeKeyFile})
		} else if !errors.Is(err, fs.ErrNotExist) { // a server of before has none
			return nil, nil, fileError(s.StoreKey, err)
		}
	}
	images, err := list(filepath.Join(s.DataDir, imagesFolder), dataPrefix+imagesFolder+"/")
	if err != nil {
		return nil, nil, err
	}
	if withImages {
		return append(in, images...), nil, nil
	}
	for _, f := range images {
		info, err := os.Stat(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned meanwhile
		}
		if err != nil {
			return nil, nil, fileError(f.path, err)
		}
		left = append(left, Part{Name: f.name, Size: info.Size()})
	}
	return in, left, nil
}

// list returns the files below a folder; entries that begin with a dot are half-made, and some at the top are left out. A
// folder that is not there has none.
func list(dir, prefix string, without ...string) ([]file, error) {
	root, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fileError(dir, err)
	}
	var out []file
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		leave := strings.HasPrefix(d.Name(), ".") || slices.Contains(without, rel)
		switch {
		case leave && d.IsDir():
			return filepath.SkipDir
		case !leave && d.Type().IsRegular():
			out = append(out, file{path, prefix + filepath.ToSlash(rel)})
		}
		return nil
	})
	if err != nil {
		return nil, fileError(dir, err)
	}
	return out, nil
}

// copyTo writes the file to a tar and returns its digest. A file that changes its size meanwhile is an error: all that may
// change is replaced as a whole.
func (f file) copyTo(ctx context.Context, out *tar.Writer) (Part, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return Part{}, fileError(f.path, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return Part{}, fileError(f.path, err)
	}
	mode := int64(0o600)
	if info.Mode().Perm()&0o044 != 0 {
		mode = 0o644
	}
	if err := out.WriteHeader(&tar.Header{Name: f.name, Size: info.Size(), Mode: mode, Typeflag: tar.TypeReg}); err != nil {
		return Part{}, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(contextReader{ctx, in}, info.Size()))
	if err != nil {
		return Part{}, err
	}
	if n != info.Size() {
		return Part{}, errs.New(errs.Conflict, "the file became shorter while it was read").At(f.path).WithHint("try again")
	}
	return Part{Name: f.name, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

func writeManifest(out *tar.Writer, m *Manifest) error {
	data, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: manifestName, Size: int64(len(data)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = out.Write(data)
	return err
}

func readRecipient(path string) (age.Recipient, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.New(errs.Precondition, "the recovery key's public half is not here: %w", err).At(path).
			WithHint("it is a line that begins with age1; with the paper at hand: age-keygen -y")
	}
	r, err := age.ParseX25519Recipient(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, errs.New(errs.Precondition, "the recovery key's public half is damaged").At(path).
			WithHint("it is a line that begins with age1; with the paper at hand: age-keygen -y")
	}
	return r, nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// fileError says what failed at a path, and a full disk as what it is.
func fileError(path string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.New(errs.Exhausted, "the disk is full: %w", err).At(path).
			WithHint("free space there (df -h %s), or choose another place", filepath.Dir(path))
	}
	code := errs.Internal
	if errors.Is(err, fs.ErrNotExist) {
		code = errs.NotFound
	}
	return errs.New(code, "%w", err).At(path)
}

// RemoveLeftovers removes copies that a backup left which was killed. The server calls it before it serves.
func RemoveLeftovers(dataDir string) {
	found, _ := filepath.Glob(filepath.Join(dataDir, tempPattern))
	for _, dir := range found {
		_ = os.RemoveAll(dir) // the next start tries again
	}
}
