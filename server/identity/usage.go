package identity

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// usageOver is the time that nodes measure over, usageLimit how long their answers may take.
	usageOver  = time.Second
	usageLimit = 6 * time.Second
	// usageFresh is how long one measurement serves all who ask.
	usageFresh = time.Second
	// maxUsageNodes bounds one request.
	maxUsageNodes = 1000
)

// measurements are shared: however many people look, each node is asked once at a time.
type measurements struct {
	mu  sync.Mutex
	all map[string]*measurement
}

type measurement struct {
	done  chan struct{}
	ended time.Time
	usage *v1.NodeUsage
}

// GetUsage implements NodeService. A node that does not answer in time says why instead.
func (s *Nodes) GetUsage(ctx context.Context, req *v1.GetUsageRequest) (*v1.GetUsageResponse, error) {
	names, err := s.usageNodes(ctx, req.GetNodes())
	if err != nil {
		return nil, err
	}
	out := make([]*v1.NodeUsage, len(names))
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() { out[i] = s.usage(ctx, name) })
	}
	asking.Wait()
	return &v1.GetUsageResponse{Nodes: out}, ctx.Err()
}

// usageNodes returns the nodes to ask, by name: those that were named, or all of the site that are enrolled.
func (s *Nodes) usageNodes(ctx context.Context, named []string) ([]string, error) {
	if len(named) > maxUsageNodes {
		return nil, errs.New(errs.Invalid, "more than %d nodes are named", maxUsageNodes)
	}
	nodes, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	var all []string
	for _, n := range nodes {
		probe := n.GetRole() == "probe"
		known[n.GetName()] = known[n.GetName()] || !probe
		online := n.GetState() == v1.NodeState_NODE_STATE_ONLINE || n.GetState() == v1.NodeState_NODE_STATE_OFFLINE
		if online && !probe {
			all = append(all, n.GetName())
		}
	}
	for _, name := range named {
		if !known[name] {
			return nil, errs.New(errs.NotFound, "there is no node %.64q", name).WithHint("infractl node list")
		}
	}
	if len(named) > 0 {
		all = slices.Clone(named)
	}
	slices.SortFunc(all, strings.Compare)
	all = slices.Compact(all)
	if len(all) > maxUsageNodes {
		return nil, errs.New(errs.Invalid, "the site has more than %d nodes", maxUsageNodes).WithHint("name some of them")
	}
	return all, nil
}

func (s *Nodes) usage(ctx context.Context, node string) *v1.NodeUsage {
	s.measured.mu.Lock()
	m := s.measured.all[node]
	if m == nil || (m.usage != nil && s.cfg.Clock.Now().Sub(m.ended).Abs() > usageFresh) {
		m = &measurement{done: make(chan struct{})}
		if s.measured.all == nil {
			s.measured.all = map[string]*measurement{}
		}
		s.measured.all[node] = m
		go s.measure(m, node)
	}
	s.measured.mu.Unlock()
	select {
	case <-m.done:
		return m.usage
	case <-ctx.Done():
		return &v1.NodeUsage{Node: node, Error: "nobody waits any more"}
	}
}

func (s *Nodes) measure(m *measurement, node string) {
	ctx, cancel := context.WithTimeout(context.Background(), usageLimit)
	defer cancel()
	usage := s.ask(ctx, node)
	s.measured.mu.Lock()
	m.usage, m.ended = usage, s.cfg.Clock.Now()
	s.measured.mu.Unlock()
	close(m.done)
}

func (s *Nodes) ask(ctx context.Context, node string) *v1.NodeUsage {
	out := &v1.NodeUsage{Node: node}
	if _, live := s.cfg.Hub.Live(node); !live {
		out.Error = "away"
		if at, _ := s.cfg.Hub.LastSeen(node); !at.IsZero() {
			out.Error = "away since " + at.UTC().Format(time.RFC3339)
		}
		return out
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // it never fails
	result, err := s.cfg.Hub.Ask(ctx, node, &v1.Task{Id: "usage-" + hex.EncodeToString(id),
		NotAfter: timestamppb.New(s.cfg.Clock.Now().Add(usageLimit)),
		Work:     &v1.Task_Usage{Usage: &v1.UsageTask{Over: durationpb.New(usageOver)}}})
	switch {
	case ctx.Err() != nil:
		out.Error = "it did not answer within " + usageLimit.String()
	case err != nil:
		out.Error = err.Error()
	case result.GetError() != nil:
		out.Error = result.GetError().GetMessage()
	default:
		out.Usage = result.GetUsage()
	}
	return out
}
