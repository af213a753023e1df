package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// put stores what next returns until io.EOF, and returns its record. existed says that it was there already.
func (l *Library) put(ctx context.Context, operator string, start *v1.PushImageStart, next func() ([]byte, error)) (r record, existed bool, err error) {
	if err := l.check(start); err != nil {
		return record{}, false, err
	}
	select {
	case l.pushes <- struct{}{}:
		defer func() { <-l.pushes }()
	default:
		return record{}, false, errs.New(errs.Exhausted, "%d images are being pushed already", maxPushes).WithHint("try again when one is done")
	}
	side, err := os.CreateTemp(l.incoming(), "push-*")
	if err != nil {
		return record{}, false, errs.New(errs.Internal, "%w", err)
	}
	defer os.Remove(side.Name()) // once it has become an archive there is nothing of that name
	defer side.Close()
	digest, size, err := l.receive(side, next)
	if err != nil {
		return record{}, false, err
	}
	if want := start.GetDigest(); want != "" && want != digest {
		return record{}, false, errs.New(errs.Invalid, "the archive has the digest %s, not %s: it was damaged on the way", digest, want).WithHint("push it again")
	}
	if want := start.GetSize(); want != 0 && want != uint64(size) {
		return record{}, false, errs.New(errs.Invalid, "the archive has %d bytes, %d were announced", size, want).WithHint("push it again")
	}
	l.mu.Lock()
	r, existed = l.all[digest]
	l.mu.Unlock()
	if existed {
		return l.again(ctx, r, operator)
	}
	about, err := inspect(side)
	if err != nil {
		return record{}, false, err
	}
	r = record{Digest: digest, Names: about.names, ImageID: about.id, Size: size, Pushed: l.cfg.Clock.Now().UTC(), Operator: operator}
	return r, false, l.keep(ctx, side, r)
}

// again makes an archive that was there the newest of its references: whoever pushes it wants it to be the one that runs.
func (l *Library) again(ctx context.Context, r record, operator string) (record, bool, error) {
	r.Pushed, r.Operator = l.cfg.Clock.Now().UTC(), operator
	if _, err := l.table.Put(ctx, strings.TrimPrefix(r.Digest, "sha256:"), r, store.Any); err != nil {
		return record{}, false, errs.Wrap("store image", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[r.Digest] = r
	return r, true, nil
}

func (l *Library) check(start *v1.PushImageStart) error {
	l.mu.Lock()
	n := len(l.all)
	l.mu.Unlock()
	switch {
	case start == nil:
		return errs.New(errs.Invalid, "the first message of a push says what comes")
	case start.GetDigest() != "" && !digestForm.MatchString(start.GetDigest()):
		return errs.New(errs.Invalid, "%.100q is no digest", start.GetDigest())
	case start.GetSize() > MaxArchive:
		return tooLarge()
	case n >= MaxArchives:
		return errs.New(errs.Exhausted, "there are %d image archives already", n).WithHint("infractl image prune")
	}
	return l.room(start.GetSize())
}

func tooLarge() error {
	return errs.New(errs.Invalid, "the archive is larger than %d GiB", MaxArchive>>30).WithHint("an image of that size is not meant for many hosts")
}

// receive writes the parts to the side file and makes them durable.
func (l *Library) receive(side *os.File, next func() ([]byte, error)) (digest string, size int64, err error) {
	hash := sha256.New()
	looked := int64(0)
	for {
		data, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", 0, err
		}
		if size += int64(len(data)); size > MaxArchive {
			return "", 0, tooLarge()
		}
		if size-looked >= roomEvery {
			looked = size
			if err := l.room(0); err != nil {
				return "", 0, err
			}
		}
		hash.Write(data)
		if _, err := side.Write(data); err != nil {
			return "", 0, errs.New(errs.Exhausted, "write the archive: %w", err).WithHint("look at the disk of the server")
		}
	}
	if err := side.Sync(); err != nil {
		return "", 0, errs.New(errs.Exhausted, "write the archive: %w", err).WithHint("look at the disk of the server")
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), size, nil
}

// keep gives the side file its name, and the archive its record. A crash between the two leaves a file without a record, which the
// next start removes.
func (l *Library) keep(ctx context.Context, side *os.File, r record) error {
	if err := os.Rename(side.Name(), l.file(r.Digest)); err != nil {
		return errs.New(errs.Internal, "store image: %w", err)
	}
	if err := syncDir(l.archives()); err != nil {
		return errs.New(errs.Internal, "store image: %w", err)
	}
	if _, err := l.table.Put(ctx, strings.TrimPrefix(r.Digest, "sha256:"), r, store.Any); err != nil {
		_ = os.Remove(l.file(r.Digest))
		return errs.Wrap("store image", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[r.Digest] = r
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
