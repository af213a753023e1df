package containers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// reserve is what must stay free on the disk.
	reserve = 256 << 20
	// fetchTries is how often a cut transfer goes on where it was.
	fetchTries = 5
)

// Stage fetches what the wish needs and the host has not: images into the engine, secrets into memory. Nothing that runs is
// touched. Errors: Exhausted for a full disk, Invalid for an archive with another digest, Unavailable without server or engine.
func (p *Provider) Stage(ctx context.Context, spec *v1.ContainersSpec) error {
	if err := check(spec); err != nil {
		return err
	}
	if len(spec.GetStacks()) == 0 {
		return nil
	}
	var failed []error
	for _, s := range spec.GetStacks() {
		for _, i := range s.GetImages() {
			if err := p.stageImage(ctx, i); err != nil {
				err = errs.Wrap("stack "+s.GetName()+": image "+i.GetUse(), err)
				p.problem(s.GetName(), err.Error())
				failed = append(failed, err)
			}
		}
	}
	failed = append(failed, p.stageSecrets(ctx, spec))
	return errs.Join(failed...)
}

// stageImage makes an image be in the engine.
func (p *Provider) stageImage(ctx context.Context, i *v1.StackImage) error {
	id, err := p.engine.ImageID(ctx, i.GetUse())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	if id != "" && (i.GetImageId() == "" || id == i.GetImageId()) {
		return nil
	}
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

func (p *Provider) load(ctx context.Context, file string) error {
	stream, err := p.host.Append(file)
	if err != nil {
		return err
	}
	defer stream.Close()
	return p.engine.LoadImage(ctx, io.NewSectionReader(stream.File, 0, stream.Size))
}

// fetch brings an archive onto the disk and returns its file once its digest is right. A part that is there is gone on with.
func (p *Provider) fetch(ctx context.Context, digest string) (string, error) {
	want := strings.TrimPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(want); err != nil || len(raw) != sha256.Size {
		return "", errs.New(errs.Invalid, "%.100q is no digest of an archive", digest)
	}
	if p.cfg.Fetcher == nil {
		return "", errs.New(errs.Unavailable, "there is no connection to the server")
	}
	part := path.Join(p.staging, want+".part")
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
func (p *Provider) room(ctx context.Context, part string, size, have uint64) error {
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
func (p *Provider) clean(keep string) error {
	list, err := p.host.Glob(path.Join(p.staging, "*.part"))
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

// stageSecrets fetches the versions that are not on the disk.
func (p *Provider) stageSecrets(ctx context.Context, spec *v1.ContainersSpec) error {
	var refs []*v1.SecretRef
	for _, s := range spec.GetStacks() {
		have, err := p.record(s.GetName())
		if err != nil {
			return err
		}
		for _, ref := range s.GetSecrets() {
			fresh := have == nil || have.Pending || have.Secrets[ref.GetName()] != ref.GetVersion()
			if fresh && !slices.ContainsFunc(refs, func(r *v1.SecretRef) bool {
				return r.GetName() == ref.GetName() && r.GetVersion() == ref.GetVersion()
			}) {
				refs = append(refs, ref)
			}
		}
	}
	p.forgetSecrets()
	return errs.Wrap("fetch secrets", p.fetchSecrets(ctx, refs))
}

func (p *Provider) fetchSecrets(ctx context.Context, refs []*v1.SecretRef) error {
	for some := range slices.Chunk(refs, 100) {
		if p.cfg.Fetcher == nil {
			return errs.New(errs.Unavailable, "there is no connection to the server")
		}
		values, err := p.cfg.Fetcher.Secrets(ctx, some)
		if err != nil {
			return err
		}
		if len(values) != len(some) {
			return errs.New(errs.Internal, "the server gave %d of %d secrets", len(values), len(some))
		}
		p.mu.Lock()
		for i, v := range values {
			if v.GetName() == some[i].GetName() && v.GetVersion() == some[i].GetVersion() {
				p.values[secretKey{v.GetName(), v.GetVersion()}] = secret.New(v.GetValue())
			}
		}
		p.mu.Unlock()
	}
	return nil
}

// value returns a secret: staged, or fetched now.
func (p *Provider) value(ctx context.Context, name, version string) ([]byte, error) {
	key := secretKey{name, version}
	for range 2 {
		p.mu.Lock()
		value, ok := p.values[key]
		p.mu.Unlock()
		if ok {
			return value.Reveal(), nil
		}
		if err := p.fetchSecrets(ctx, []*v1.SecretRef{{Name: name, Version: version}}); err != nil {
			return nil, errs.Wrap("fetch secret "+name, err)
		}
	}
	return nil, errs.New(errs.Internal, "the server gave another secret than %s", name)
}

// forgetSecrets drops what is in memory.
func (p *Provider) forgetSecrets() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.values)
}
