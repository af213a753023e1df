// Package images brings container images onto a host: archives of the server by digest, or from a registry.
package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// reserve is what must stay free on the disk.
	reserve = 256 << 20
	// fetchTries is how often a cut transfer goes on where it was.
	fetchTries = 5
)

// Engine is what is asked of the container engine; docker.Engine is one.
type Engine interface {
	ImageID(ctx context.Context, ref string) (string, error)
	TagImage(ctx context.Context, id, ref string) error
	LoadImage(ctx context.Context, archive io.Reader) error
	PullImage(ctx context.Context, ref string) error
	DataRoot(ctx context.Context) (string, error)
}

// Fetcher gets archives from the server.
type Fetcher interface {
	// Image calls each for every part of an archive, from offset on, with the size of the whole.
	Image(ctx context.Context, digest string, offset uint64, each func(size uint64, data []byte) error) error
}

// Config makes Images.
type Config struct {
	Host   *host.Host
	Engine Engine
	// Fetcher gets archives; nil means that there is no way to.
	Fetcher Fetcher
	// Dir is where archives are on their way.
	Dir string
	Log hclog.Logger
}

// Images brings images onto the host, one archive at a time. It is safe for concurrent use.
type Images struct {
	cfg    Config
	host   *host.Host
	engine Engine
	log    hclog.Logger
	mu     sync.Mutex
}

// New returns Images.
func New(cfg Config) *Images {
	return &Images{cfg: cfg, host: cfg.Host, engine: cfg.Engine, log: cfg.Log}
}

// Stage makes an image be in the engine. Nothing that runs is touched. Errors: Exhausted for a full disk, Invalid for an archive with
// another digest, Unavailable without server or engine.
func (p *Images) Stage(ctx context.Context, i *v1.StackImage) error {
	id, err := p.engine.ImageID(ctx, i.GetUse())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	if id != "" && (i.GetImageId() == "" || id == i.GetImageId()) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bring(ctx, i)
}

func (p *Images) bring(ctx context.Context, i *v1.StackImage) error {
	if i.GetArchiveDigest() == "" {
		p.log.Info("image is pulled", "image", i.GetUse())
		return p.engine.PullImage(ctx, i.GetUse())
	}
	if i.GetImageId() != "" {
		if _, err := p.engine.ImageID(ctx, i.GetImageId()); err == nil {
			return nil // it is here under another name; Apply gives it this one
		}
	}
	file, err := p.fetch(ctx, i.GetArchiveDigest())
	if err != nil {
		return err
	}
	if err := p.load(ctx, file); err != nil {
		return err
	}
	if err := p.host.Remove(file); err != nil {
		return err
	}
	if i.GetImageId() == "" {
		return nil
	}
	if _, err = p.engine.ImageID(ctx, i.GetImageId()); errs.Is(err, errs.NotFound) {
		return errs.New(errs.Invalid, "the archive does not hold the image %.80s", i.GetImageId()).WithHint("push it again: infractl image push")
	}
	return err
}

func (p *Images) load(ctx context.Context, file string) error {
	stream, err := p.host.Append(file)
	if err != nil {
		return err
	}
	defer stream.Close()
	return p.engine.LoadImage(ctx, io.NewSectionReader(stream.File, 0, stream.Size))
}

// fetch brings an archive onto the disk and returns its file once its digest is right. A part that is there is gone on with.
func (p *Images) fetch(ctx context.Context, digest string) (string, error) {
	want := strings.TrimPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(want); err != nil || len(raw) != sha256.Size {
		return "", errs.New(errs.Invalid, "%.100q is no digest of an archive", digest)
	}
	if p.cfg.Fetcher == nil {
		return "", errs.New(errs.Unavailable, "there is no connection to the server")
	}
	part := path.Join(p.cfg.Dir, want+".part")
	if err := p.clean(part); err != nil {
		return "", err
	}
	out, err := p.host.Append(part)
	if err != nil {
		return "", err
	}
	defer out.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(out.File, 0, out.Size)); err != nil {
		return "", errs.Wrap("read "+part, err)
	}
	offset, size := uint64(out.Size), uint64(0)
	each := func(whole uint64, data []byte) error {
		if whole != 0 && size == 0 {
			size = whole
			if err := p.room(ctx, part, whole, offset); err != nil {
				return err
			}
		}
		if size == 0 || offset+uint64(len(data)) > size {
			return errs.New(errs.Invalid, "the archive is longer than the server said")
		}
		n, err := out.Write(data)
		sum.Write(data[:n])
		offset += uint64(n)
		return err
	}
	for try := 1; ; try++ {
		before := offset
		err = p.cfg.Fetcher.Image(ctx, digest, offset, each)
		if err == nil && size != 0 && offset < size {
			err = errs.New(errs.Unavailable, "the archive ended after %d of %d bytes", offset, size)
		}
		if err == nil || ctx.Err() != nil || !errs.Is(err, errs.Unavailable) {
			break
		}
		if offset > before {
			try = 1
		}
		if try >= fetchTries {
			break
		}
		select {
		case <-time.After(time.Duration(try) * time.Second):
		case <-ctx.Done():
		}
	}
	if err != nil {
		return "", err // what came stays, to go on with
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		if err := p.host.Remove(part); err != nil {
			return "", err
		}
		return "", errs.New(errs.Invalid, "the archive has the digest %s, not the wanted one", got).
			WithHint("push the image again: infractl image push")
	}
	return part, nil
}

// room refuses an archive that does not fit: here, and once more in the engine's folder.
func (p *Images) room(ctx context.Context, part string, size, have uint64) error {
	need := reserve + size - min(have, size)
	free, err := p.host.Free(path.Dir(part))
	if err != nil {
		return err
	}
	root, err := p.engine.DataRoot(ctx)
	if err != nil {
		return err
	}
	in, err := p.host.Free(root)
	if err != nil {
		return err
	}
	shared := in == free // one file system, most likely
	if free < need || in < size+reserve || shared && free < need+size {
		return errs.New(errs.Exhausted, "the image needs %d MB twice, and there are %d MB", size>>20, min(free, in)>>20).
			WithHint("free space on this host: docker system df")
	}
	return nil
}

// clean removes archives that nobody goes on with.
func (p *Images) clean(keep string) error {
	list, err := p.host.Glob(path.Join(p.cfg.Dir, "*.part"))
	if err != nil {
		return errs.Wrap("list archives", err)
	}
	for _, file := range list {
		if file != keep {
			if err := p.host.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// Pin makes the name that runs stand for the wanted image, and returns the image's id. Errors: Precondition when it is not on the host.
func (p *Images) Pin(ctx context.Context, i *v1.StackImage) (id string, err error) {
	id, err = p.engine.ImageID(ctx, i.GetUse())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return "", err
	}
	if wanted := i.GetImageId(); wanted != "" && id != wanted {
		if err := p.engine.TagImage(ctx, wanted, i.GetUse()); err != nil {
			return "", errs.New(errs.CodeOf(err), "image %s is not on this host: %w", i.GetUse(), err).WithHint("infractl image push, then: infractl apply")
		}
		id = wanted
	}
	if id == "" {
		return "", errs.New(errs.Precondition, "image %s is not on this host", i.GetUse()).WithHint("infractl image push, then: infractl apply")
	}
	return id, nil
}
