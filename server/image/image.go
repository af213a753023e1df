// Package image keeps image archives by digest, so that a site needs no registry: operators push what "docker save" writes, and
// the agents of the hosts whose stacks name the image fetch it.
//
// An archive is a file under DIR/sha256, its description a record. A push goes to a side file first; only what was read to its end,
// has the digest that was announced, and holds a whole image becomes an archive.
package image

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// KindImage is the kind of the records of archives, under the hexadecimal digits of their digest.
const KindImage store.Kind = "image"

const (
	// MaxArchive is the largest archive, in bytes.
	MaxArchive = 16 << 30
	// MaxArchives is how many archives there may be.
	MaxArchives = 1000
	// reserve is what stays free on the disk: the store of the server needs room too.
	reserve = 512 << 20
	// roomEvery is after how many bytes of a push the disk is looked at again.
	roomEvery = 64 << 20
	// maxPushes is how many pushes run at once.
	maxPushes = 4
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Config is what a Library needs.
type Config struct {
	Records store.Records
	// Dir is the folder of the archives; it is made.
	Dir   string
	Clock clock.Clock
	Log   hclog.Logger
	// Free says how many bytes are free where a folder lies; nil asks the file system.
	Free func(dir string) (uint64, error)
}

// Library holds the archives. Its methods may be called from many goroutines.
type Library struct {
	cfg    Config
	table  *store.Table[record]
	pushes chan struct{}

	mu  sync.Mutex
	all map[string]record // by digest
}

// record is an archive as the store keeps it.
type record struct {
	Digest   string    `json:"digest"`
	Names    []string  `json:"names"`
	ImageID  string    `json:"image_id"`
	Size     int64     `json:"size"`
	Pushed   time.Time `json:"pushed"`
	Operator string    `json:"operator"`
}

func (r *record) toProto(usedBy []string) *v1.Image {
	return &v1.Image{Digest: r.Digest, Names: slices.Clone(r.Names), ImageId: r.ImageID, Size: uint64(r.Size),
		Pushed: timestamppb.New(r.Pushed), Operator: r.Operator, UsedBy: usedBy}
}

// Open returns the archives of a folder. What a push that was cut off has left is removed, and so are files without a record.
func Open(ctx context.Context, cfg Config) (*Library, error) {
	const op = "open image archives"
	if cfg.Free == nil {
		cfg.Free = freeBytes
	}
	l := &Library{cfg: cfg, table: store.NewTable(cfg.Records, KindImage, store.JSON[record]()), all: map[string]record{},
		pushes: make(chan struct{}, maxPushes)}
	for _, dir := range []string{l.incoming(), l.archives()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errs.Wrap(op, errs.New(errs.Internal, "%w", err))
		}
	}
	items, err := l.table.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	for _, it := range items {
		if info, err := os.Stat(l.file(it.Value.Digest)); err != nil || info.Size() != it.Value.Size {
			cfg.Log.Error("an image archive is missing or damaged: push it again", "digest", it.Value.Digest, "names", it.Value.Names)
			continue
		}
		l.all[it.Value.Digest] = it.Value
	}
	l.sweep()
	return l, nil
}

func (l *Library) incoming() string { return filepath.Join(l.cfg.Dir, "incoming") }
func (l *Library) archives() string { return filepath.Join(l.cfg.Dir, "sha256") }
func (l *Library) file(digest string) string {
	return filepath.Join(l.archives(), strings.TrimPrefix(digest, "sha256:"))
}

// sweep removes files that belong to nothing.
func (l *Library) sweep() {
	for _, dir := range []string{l.incoming(), l.archives()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if _, known := l.all["sha256:"+e.Name()]; known && dir == l.archives() {
				continue
			}
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				l.cfg.Log.Warn("left over image archive not removed", "error", err)
			}
		}
	}
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// room returns an Exhausted error when more bytes do not fit on the disk.
func (l *Library) room(more uint64) error {
	free, err := l.cfg.Free(l.cfg.Dir)
	if err != nil {
		return errs.New(errs.Internal, "look at the disk: %w", err)
	}
	if free < more+reserve {
		return errs.New(errs.Exhausted, "the server's disk has no room for the archive: %d MiB are free, and %d MiB stay free for the server itself",
			free>>20, reserve>>20).WithHint("infractl image prune, or give the server's machine a larger disk")
	}
	return nil
}

// snapshot returns all records, newest first.
func (l *Library) snapshot() []record {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]record, 0, len(l.all))
	for _, r := range l.all {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b record) int {
		return cmp.Or(b.Pushed.Compare(a.Pushed), cmp.Compare(a.Digest, b.Digest))
	})
	return out
}

// Resources implements revision.Source: the newest archive of each reference.
func (l *Library) Resources(_ context.Context, into *site.Resources) error {
	for _, r := range l.snapshot() {
		for _, name := range r.Names {
			if into.Images == nil {
				into.Images = map[string]site.ImageArchive{}
			}
			if _, newer := into.Images[name]; !newer {
				into.Images[name] = site.ImageArchive{Digest: r.Digest, ImageID: r.ImageID}
			}
		}
	}
	return nil
}

// remove forgets an archive and removes its file.
func (l *Library) remove(ctx context.Context, digest string) error {
	if err := l.table.Delete(ctx, strings.TrimPrefix(digest, "sha256:"), store.Any); err != nil {
		return errs.Wrap("remove image", err)
	}
	l.mu.Lock()
	delete(l.all, digest)
	l.mu.Unlock()
	if err := os.Remove(l.file(digest)); err != nil && !os.IsNotExist(err) {
		return errs.New(errs.Internal, "remove image: %w", err)
	}
	return nil
}

// open opens an archive for reading. NotFound when there is none of that digest.
func (l *Library) open(digest string) (*os.File, int64, error) {
	l.mu.Lock()
	r, ok := l.all[digest]
	l.mu.Unlock()
	if !ok {
		return nil, 0, errs.New(errs.NotFound, "there is no image archive %.80s", digest).WithHint("infractl image list")
	}
	f, err := os.Open(l.file(digest))
	if err != nil {
		return nil, 0, errs.New(errs.Internal, "open image archive: %w", err)
	}
	return f, r.Size, nil
}
