package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"

	"filippo.io/age"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// ParseKey reads a recovery key as people type it from paper or keep it in a file: blanks, line breaks and case do not matter,
// lines that begin with # are passed over. The error never repeats what was typed.
func ParseKey(text []byte) (age.Identity, error) {
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			b.WriteString(strings.Join(strings.Fields(line), ""))
		}
	}
	key, err := age.ParseX25519Identity(strings.ToUpper(b.String()))
	if err != nil {
		return nil, errs.New(errs.Invalid, "this is no recovery key").
			WithHint("it is the line AGE-SECRET-KEY-1... that infractl-server init printed once; look for a letter misread")
	}
	return key, nil
}

// sink takes the files of a backup as they come.
type sink interface {
	// put takes one file; it reads all of from.
	put(name string, mode int64, size int64, from io.Reader) error
}

// read goes through a backup, gives each file to to, and returns the manifest once all of it was there and right. What the
// sink got is worth nothing when there is an error. Errors: Denied when the key does not open it, Invalid when it is damaged
// or cut short.
func read(ctx context.Context, from io.Reader, key age.Identity, to sink) (*Manifest, error) {
	plain, err := age.Decrypt(contextReader{ctx, from}, key)
	if err != nil {
		if ctx.Err() != nil {
			return nil, errs.Wrap("read backup", ctx.Err())
		}
		var other *age.NoIdentityMatchError
		if errors.As(err, &other) {
			return nil, errs.New(errs.Denied, "this recovery key does not open the backup").
				WithHint("use the paper of this very server's init; infractl-server init prints one key per server")
		}
		return nil, damaged(err)
	}
	in := tar.NewReader(plain)
	var got []Part
	for {
		head, err := in.Next()
		if err != nil {
			return nil, broken(ctx, err, "it ends before its manifest")
		}
		if head.Name == manifestName {
			break
		}
		if err := checkEntry(head, len(got)); err != nil {
			return nil, err
		}
		sum := sha256.New()
		counted := &reader{Reader: io.TeeReader(in, sum)}
		if err := to.put(head.Name, head.Mode, head.Size, counted); err != nil {
			if counted.err != nil { // the backup failed, not the disk
				return nil, broken(ctx, counted.err, "it is cut short")
			}
			return nil, err
		}
		got = append(got, Part{Name: head.Name, Size: head.Size, SHA256: hex.EncodeToString(sum.Sum(nil))})
	}
	m, err := readManifest(in)
	if err != nil {
		return nil, broken(ctx, err, "its manifest cannot be read")
	}
	// The envelope's last piece proves that nothing is missing behind it.
	if _, err := in.Next(); err != io.EOF {
		return nil, broken(ctx, err, "something follows its manifest")
	}
	if n, err := io.Copy(io.Discard, plain); err != nil || n > 1<<20 {
		return nil, broken(ctx, err, "something follows its end")
	}
	return m, m.check(got)
}

// reader remembers what the backup itself failed with.
type reader struct {
	io.Reader
	err error
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

func damaged(err error) error {
	return errs.New(errs.Invalid, "the backup is damaged, or is no backup: %w", err).WithHint("take an older one")
}

func broken(ctx context.Context, err error, what string) error {
	if ctx.Err() != nil {
		return errs.Wrap("read backup", ctx.Err())
	}
	if err == nil || errors.Is(err, io.EOF) {
		return damaged(errors.New(what))
	}
	var ours *errs.Error
	if errors.As(err, &ours) {
		return err
	}
	return damaged(err)
}

// checkEntry lets in plain files below data/ and keys/ alone.
func checkEntry(h *tar.Header, have int) error {
	name, ok := strings.CutPrefix(h.Name, dataPrefix)
	if !ok {
		name, ok = strings.CutPrefix(h.Name, keysPrefix)
	}
	clean := ok && name != "" && len(name) <= maxName && path.Clean("/"+name) == "/"+name && !strings.ContainsAny(name, "\\\x00")
	for part := range strings.SplitSeq(name, "/") {
		clean = clean && !strings.HasPrefix(part, ".")
	}
	if !clean || h.Typeflag != tar.TypeReg || h.Size < 0 || have >= maxParts {
		return errs.New(errs.Invalid, "the backup has an entry that no server wrote: %.100q", h.Name).
			WithHint("do not use this file; take one from another place")
	}
	return nil
}

func readManifest(in io.Reader) (*Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxManifest {
		return nil, errs.New(errs.Invalid, "the manifest is larger than %d bytes", maxManifest)
	}
	var any struct {
		Format  int    `json:"format"`
		Version string `json:"version"`
	}
	if err := json.Unmarshal(data, &any); err != nil {
		return nil, err
	}
	if any.Format != Format {
		return nil, errs.New(errs.Precondition, "the backup has format %d, and this infractl-server reads format %d", any.Format, Format).
			WithHint("install the infractl-server that made it (%.60q), restore, then upgrade", any.Version)
	}
	m := new(Manifest)
	return m, strictjson.Unmarshal(data, m)
}

// check compares what was read with what the manifest says.
func (m *Manifest) check(got []Part) error {
	if len(m.Parts) != len(got) {
		return damaged(errs.New(errs.Invalid, "it has %d files, and its manifest names %d", len(got), len(m.Parts)))
	}
	names := make(map[string]bool, len(got))
	for i, p := range m.Parts {
		if p != got[i] {
			return damaged(errs.New(errs.Invalid, "%.200q is not what the manifest says", got[i].Name))
		}
		if names[p.Name] {
			return damaged(errs.New(errs.Invalid, "%.200q stands twice in it", p.Name))
		}
		names[p.Name] = true
	}
	for _, needed := range []string{databaseName, dataPrefix + "server.json", keysPrefix + "ca/root.pem", keysPrefix + "ca/issuing.pem"} {
		if !names[needed] {
			return damaged(errs.New(errs.Invalid, "it has no %s", needed))
		}
	}
	return nil
}
