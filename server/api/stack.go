package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// restartTimeout is how long a restart of a stack may take to be accepted.
const restartTimeout = 20 * time.Second

// StackService implements v1.StackServiceServer.
type StackService struct {
	v1.UnimplementedStackServiceServer
	cfg Config
}

// ListStacks implements v1.StackServiceServer.
func (s *StackService) ListStacks(ctx context.Context, _ *v1.ListStacksRequest) (*v1.ListStacksResponse, error) {
	list, err := s.stacks(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range list {
		st.Compose = nil
	}
	return &v1.ListStacksResponse{Stacks: list}, nil
}

// GetStack implements v1.StackServiceServer.
func (s *StackService) GetStack(ctx context.Context, req *v1.GetStackRequest) (*v1.GetStackResponse, error) {
	st, err := s.stack(ctx, req.GetName())
	return &v1.GetStackResponse{Stack: st}, err
}

// RestartStack implements v1.StackServiceServer.
func (s *StackService) RestartStack(ctx context.Context, req *v1.RestartStackRequest) (*v1.RestartStackResponse, error) {
	st, err := s.stack(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if len(req.GetService()) > 255 {
		return nil, errs.New(errs.Invalid, "%.40q... is no service", req.GetService())
	}
	res, err := s.cfg.Hub.Do(ctx, st.GetNode(), &v1.Task{
		Id: rand.Text(), NotAfter: timestamppb.New(s.cfg.Clock.Now().Add(restartTimeout)),
		Work: &v1.Task_Restart{Restart: &v1.RestartTask{Stack: st.GetName(), Service: req.GetService()}},
	}, nil)
	if err != nil {
		return nil, err
	}
	if e := res.GetError(); e != nil {
		return nil, errs.New(errs.Code(e.GetCode()), "%s", e.GetMessage()).At("node "+st.GetNode()).WithHint("%s", e.GetHint())
	}
	return &v1.RestartStackResponse{Containers: res.GetRestart().GetContainers()}, nil
}

func (s *StackService) stack(ctx context.Context, name string) (*v1.Stack, error) {
	list, err := s.stacks(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range list {
		if st.GetName() == name {
			return st, nil
		}
	}
	return nil, errs.New(errs.NotFound, "the site has no stack %.80q", name).WithHint("infractl stack list")
}

// stacks returns the stacks of the current revision, with what their hosts last reported.
func (s *StackService) stacks(ctx context.Context) ([]*v1.Stack, error) {
	d, err := s.cfg.Revisions.Derive(ctx, 0)
	if err != nil {
		return nil, err
	}
	var out []*v1.Stack
	for node, spec := range d.Specs {
		for _, want := range spec.Spec.GetContainers().GetStacks() {
			st := &v1.Stack{Name: want.GetName(), Node: node, ComposeFile: want.GetComposeFile(), Compose: want.GetCompose()}
			for _, image := range want.GetImages() {
				st.Images = append(st.Images, &v1.StackImageUse{Reference: image.GetReference(), Use: image.GetUse(), ArchiveDigest: image.GetArchiveDigest()})
			}
			for _, secret := range want.GetSecrets() {
				st.Secrets = append(st.Secrets, secret.GetName())
			}
			if st.State, err = s.state(ctx, node, want.GetName()); err != nil {
				return nil, err
			}
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b *v1.Stack) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

// state is how a stack is, as its host last reported; nil while nothing was.
func (s *StackService) state(ctx context.Context, node, stack string) (*v1.StackState, error) {
	n, err := s.cfg.Fleet.Node(ctx, node)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, st := range n.Containers.M.GetStacks() {
		if st.GetName() == stack {
			return st, nil
		}
	}
	return nil, nil
}
