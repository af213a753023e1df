package image

import (
	"context"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/compose"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
)

// youngAge is how long an archive that nothing uses is kept: whoever pushed it may be about to apply.
const youngAge = time.Hour

// part is the size of the parts of an archive that an agent gets, in bytes.
const part = 256 << 10

// Wanted knows what the current revision wants.
type Wanted interface {
	// HostSpecs are the wishes for the nodes; none without a revision.
	HostSpecs(ctx context.Context) (map[string]*v1.HostSpec, error)
	// Changed says that resources changed.
	Changed()
}

// Service implements v1.ImageServiceServer, and what agents fetch.
type Service struct {
	v1.UnimplementedImageServiceServer
	library *Library
	wanted  Wanted
	// busy reports whether a rollout is at work.
	busy func(ctx context.Context) (bool, error)
	// templates returns the archives that the templates of a node are made of, those of all nodes for ""; nil: there are none.
	templates func(ctx context.Context, node string) ([]string, error)
}

// NewService returns the service. busy reports whether a rollout is at work: nothing is pruned then.
func NewService(l *Library, w Wanted, busy func(context.Context) (bool, error)) *Service {
	return &Service{library: l, wanted: w, busy: busy}
}

// ForTemplates tells the service which archives the templates of instances on a node are made of; "" asks for all nodes. It is called
// before the first call of a node.
func (s *Service) ForTemplates(archives func(ctx context.Context, node string) ([]string, error)) {
	s.templates = archives
}

// PushImage implements v1.ImageServiceServer.
func (s *Service) PushImage(stream grpc.ClientStreamingServer[v1.PushImageRequest, v1.PushImageResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx := stream.Context()
	r, existed, err := s.library.put(ctx, access.CallerFrom(ctx).Actor, first.GetStart(), func() ([]byte, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if m.GetStart() != nil {
			return nil, errs.New(errs.Invalid, "a push begins once")
		}
		return m.GetData(), nil
	})
	if err != nil {
		return err
	}
	s.wanted.Changed()
	used, err := s.usedBy(ctx)
	if err != nil {
		return err
	}
	return stream.SendAndClose(&v1.PushImageResponse{Image: r.toProto(used[r.Digest]), Existed: existed})
}

// ListImages implements v1.ImageServiceServer.
func (s *Service) ListImages(ctx context.Context, _ *v1.ListImagesRequest) (*v1.ListImagesResponse, error) {
	used, err := s.usedBy(ctx)
	if err != nil {
		return nil, err
	}
	out := &v1.ListImagesResponse{}
	for _, r := range s.library.snapshot() {
		out.Images = append(out.Images, r.toProto(used[r.Digest]))
	}
	return out, nil
}

// PruneImages implements v1.ImageServiceServer.
func (s *Service) PruneImages(ctx context.Context, req *v1.PruneImagesRequest) (*v1.PruneImagesResponse, error) {
	busy, err := s.busy(ctx)
	if err != nil {
		return nil, err
	}
	if busy && !req.GetDryRun() {
		return nil, errs.New(errs.Precondition, "a rollout is at work: its hosts may still need what looks unused").WithHint("infractl operation list --open; prune when it has ended")
	}
	used, err := s.usedBy(ctx)
	if err != nil {
		return nil, err
	}
	out := &v1.PruneImagesResponse{}
	old := s.library.cfg.Clock.Now().Add(-youngAge)
	for _, r := range s.library.snapshot() {
		if len(used[r.Digest]) > 0 || r.Pushed.After(old) {
			continue
		}
		if !req.GetDryRun() {
			if err := s.library.remove(ctx, r.Digest); err != nil {
				return nil, err
			}
		}
		out.Images = append(out.Images, r.toProto(nil))
	}
	if len(out.Images) > 0 && !req.GetDryRun() {
		s.wanted.Changed()
	}
	return out, nil
}

// usedBy returns what of the current revision uses an archive, by the archive.
func (s *Service) usedBy(ctx context.Context) (map[string][]string, error) {
	specs, err := s.wanted.HostSpecs(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, spec := range specs {
		for _, use := range site.ImagesOf(spec) {
			if d := use.Image.GetArchiveDigest(); d != "" && !slices.Contains(out[d], use.By) {
				out[d] = append(out[d], use.By)
			}
		}
	}
	if s.templates != nil {
		list, err := s.templates(ctx, "")
		if err != nil {
			return nil, err
		}
		for _, d := range list {
			if !slices.Contains(out[d], "instances") {
				out[d] = append(out[d], "instances")
			}
		}
	}
	for _, by := range out {
		slices.Sort(by)
	}
	return out, nil
}

// Fetch sends an archive to a node, from an offset on. Denied unless a stack, an instance or a template of the node uses the image: by the archive itself, or
// by its name, for a host that is still at work on what was wanted before a newer archive came.
func (s *Service) Fetch(ctx context.Context, node string, req *v1.FetchImageRequest, send func(*v1.FetchImageResponse) error) error {
	if !digestForm.MatchString(req.GetDigest()) {
		return errs.New(errs.Invalid, "%.100q is no digest", req.GetDigest())
	}
	specs, err := s.wanted.HostSpecs(ctx)
	if err != nil {
		return err
	}
	if !s.mayFetch(specs[node], req.GetDigest()) {
		ok, err := s.forTemplate(ctx, node, req.GetDigest())
		if err != nil {
			return err
		}
		if !ok {
			return errs.New(errs.Denied, "nothing on node %s uses the image archive %s", node, req.GetDigest())
		}
	}
	f, size, err := s.library.open(req.GetDigest())
	if err != nil {
		return err
	}
	defer f.Close()
	if req.GetOffset() > uint64(size) {
		return errs.New(errs.Invalid, "the archive has %d bytes: it cannot go on at %d", size, req.GetOffset())
	}
	if _, err := f.Seek(int64(req.GetOffset()), io.SeekStart); err != nil {
		return errs.New(errs.Internal, "read image archive: %w", err)
	}
	for first := true; ; first = false {
		// A message that was given to send must not be written to any more.
		data := make([]byte, part)
		n, err := io.ReadFull(f, data)
		if n > 0 || first {
			m := &v1.FetchImageResponse{Data: data[:n]}
			if first {
				m.Size = uint64(size)
			}
			if err := send(m); err != nil {
				return err
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return errs.New(errs.Internal, "read image archive: %w", err)
		}
	}
}

func (s *Service) mayFetch(spec *v1.HostSpec, digest string) bool {
	if spec == nil {
		return false
	}
	if slices.Contains(site.ArchivesOf(spec), digest) {
		return true
	}
	s.library.mu.Lock()
	r, ok := s.library.all[digest]
	s.library.mu.Unlock()
	if !ok {
		return false
	}
	for _, use := range site.ImagesOf(spec) {
		if name, ok := compose.Familiar(use.Image.GetUse()); ok && slices.Contains(r.Names, name) {
			return true
		}
	}
	return false
}

// forTemplate reports whether a node needs an archive for a template of instances, before any instance of it names the image.
func (s *Service) forTemplate(ctx context.Context, node, digest string) (bool, error) {
	if s.templates == nil {
		return false, nil
	}
	list, err := s.templates(ctx, node)
	return slices.Contains(list, digest), err
}
