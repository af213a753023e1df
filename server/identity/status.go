package identity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// ListNodes implements NodeService.
func (s *Nodes) ListNodes(ctx context.Context, _ *v1.ListNodesRequest) (*v1.ListNodesResponse, error) {
	nodes, err := s.all(ctx)
	return &v1.ListNodesResponse{Nodes: nodes}, err
}

// GetNode implements NodeService.
func (s *Nodes) GetNode(ctx context.Context, req *v1.GetNodeRequest) (*v1.GetNodeResponse, error) {
	nodes, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if n.GetName() == req.GetName() || (n.GetEnrolmentId() != "" && n.GetEnrolmentId() == req.GetName()) {
			return &v1.GetNodeResponse{Node: n}, nil
		}
	}
	return nil, errs.New(errs.NotFound, "there is no node %.64q", req.GetName()).WithHint("infractl node list")
}

// all returns everything that is a node, wants to be one, or should be one, by name.
func (s *Nodes) all(ctx context.Context) ([]*v1.Node, error) {
	wanted, _, err := s.cfg.Site.Wanted(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := s.cfg.Fleet.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	enrolments, err := s.cfg.Fleet.Enrolments.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, err
	}
	asides, err := s.cfg.Fleet.AllSetAsides(ctx)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]fleet.Wanted, len(wanted))
	for _, w := range wanted {
		byName[w.Name] = w
	}
	known := make(map[string]bool)
	var out []*v1.Node
	add := func(m *v1.Node, first bool) {
		if w, ok := byName[m.GetName()]; ok {
			m.Role = w.Role
			// A machine that only wants the name is told by its own address, and nothing is sent to it.
			claims := m.GetState() == v1.NodeState_NODE_STATE_PENDING || m.GetState() == v1.NodeState_NODE_STATE_QUARANTINED
			if !claims {
				m.WantedDigest = w.Digest
			}
			if w.Address != "" && (!claims || m.Address == "") {
				m.Address = w.Address
			}
		}
		known[m.GetName()] = known[m.GetName()] || first
		out = append(out, m)
	}
	for _, n := range nodes {
		m := s.message(n)
		if n.Probe {
			m.Role = "probe"
		}
		add(m, true)
	}
	for _, it := range enrolments {
		if it.Value.State != fleet.EnrolmentIssued {
			add(s.pendingMessage(it.Value), true)
		}
	}
	for _, a := range asides {
		add(asideMessage(a), false)
	}
	for _, w := range wanted {
		if !known[w.Name] {
			add(&v1.Node{Name: w.Name, State: v1.NodeState_NODE_STATE_WANTED,
				Message: "waits for its machine: infractl token create --node " + w.Name}, false)
		}
	}
	slices.SortStableFunc(out, func(a, b *v1.Node) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

func (s *Nodes) message(n fleet.Node) *v1.Node {
	seen, skew := s.seen(n)
	m := &v1.Node{
		Name: n.Name, State: v1.NodeState_NODE_STATE_OFFLINE, Address: n.Address, AgentVersion: n.AgentVersion,
		LastSeen: stamp(seen), CertificateNotAfter: stamp(n.NotAfter), Skew: durationpb.New(skew), HostState: n.State.M,
		Facts: n.Facts.M, Fingerprint: n.Fingerprint.M, Serial: n.Serial, JoinCounter: n.JoinCounter, BootId: n.BootID,
		Message: n.Alarm, Enrolled: stamp(n.Enrolled), Containers: n.Containers.M, Router: n.Router.M,
		Clock: n.Clock.M,
	}
	for _, b := range n.KnownBad {
		m.KnownBad = append(m.KnownBad, &v1.KnownBad{Hash: b.Hash, Phase: b.Phase, Reason: b.Reason, Time: stamp(b.Time),
			SiteRevision: b.SiteRevision})
	}
	if _, live := s.cfg.Hub.Live(n.Name); live {
		m.State = v1.NodeState_NODE_STATE_ONLINE
	}
	restoredState(m, n)
	if n.IsRevoked() {
		m.State, m.Message = v1.NodeState_NODE_STATE_REVOKED, strings.TrimSuffix("revoked: "+n.RevokedReason, ": ")
	}
	return m
}

func (s *Nodes) pendingMessage(en fleet.Enrolment) *v1.Node {
	name := en.Node
	if name == "" {
		name = en.Asked
	}
	seen := en.LastSeen
	if t := s.cfg.LastPoll(en.ID); t.After(seen) {
		seen = t
	}
	m := &v1.Node{Name: name, State: v1.NodeState_NODE_STATE_PENDING, Address: en.Address, AgentVersion: en.AgentVersion,
		LastSeen: stamp(seen), Skew: durationpb.New(en.Skew), Fingerprint: en.Fingerprint.M, EnrolmentId: en.ID}
	if en.State == fleet.EnrolmentApproved {
		m.Message = "approved; it gets its identity when it asks next"
	} else {
		m.Message = fmt.Sprintf("%s; to let it in: infractl node approve %s", en.Note, en.ID[:min(len(en.ID), 8)])
	}
	return m
}

func asideMessage(a fleet.SetAside) *v1.Node {
	return &v1.Node{Name: a.Node, State: v1.NodeState_NODE_STATE_QUARANTINED, Address: a.Address, LastSeen: stamp(a.Last),
		Fingerprint: a.Fingerprint.M, EnrolmentId: a.ID, BootId: a.BootID,
		Message: fmt.Sprintf("%s; if it is the right machine: infractl node approve %s", a.Reason, a.ID)}
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// largeSkew is the clock error that is worth telling.
const largeSkew = 5 * time.Second

// maxShown is how many warnings of one host status shows; the rest is in "infractl node show".
const maxShown = 3

// GetStatus implements NodeService.
func (s *Nodes) GetStatus(ctx context.Context, _ *v1.GetStatusRequest) (*v1.GetStatusResponse, error) {
	site, err := s.cfg.Site.Status(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Clock.Now()
	clocks, err := s.clockFindings(ctx, now)
	if err != nil {
		return nil, err
	}
	resp := &v1.GetStatusResponse{
		Site: s.cfg.Authority.Site(), ServerVersion: s.cfg.Version, ServerTime: timestamppb.New(now), Revision: site.Revision,
		RolloutId: site.RolloutID, RolloutState: site.RolloutState, Nodes: nodes, NotManaged: site.NotManaged,
		CertificateNotAfter: stamp(s.cfg.ServerNotAfter()),
		Findings:            slices.Concat(site.Findings, s.authorityFindings(now), clocks, s.findings(nodes, now)),
	}
	slices.SortStableFunc(resp.Findings, func(a, b *v1.Finding) int { return int(b.GetSeverity()) - int(a.GetSeverity()) })
	return resp, nil
}

func (s *Nodes) findings(nodes []*v1.Node, now time.Time) []*v1.Finding {
	var out []*v1.Finding
	add := func(sev v1.Severity, n *v1.Node, hint, format string, args ...any) {
		out = append(out, &v1.Finding{Severity: sev, Where: "node " + n.GetName(), Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	const bad, warn = v1.Severity_SEVERITY_ERROR, v1.Severity_SEVERITY_WARNING
	for _, n := range nodes {
		name := n.GetName()
		switch n.GetState() {
		case v1.NodeState_NODE_STATE_QUARANTINED:
			add(bad, n, "infractl node approve "+n.GetEnrolmentId()+", or wipe that machine and: infractl node forget "+n.GetEnrolmentId(),
				"a second machine at %s shows its identity and is set aside", n.GetAddress())
			continue
		case v1.NodeState_NODE_STATE_OFFLINE:
			since := "has not connected yet"
			if n.GetLastSeen() != nil {
				since = "away since " + n.GetLastSeen().AsTime().Format(time.RFC3339)
			}
			add(bad, n, "look at the machine: journalctl -u infractl-agent", "%s", since)
		case v1.NodeState_NODE_STATE_AWAITING_RECONNECT:
			add(bad, n, "look at the machine: journalctl -u infractl-agent", "was not heard since the server was restored; nothing is applied to it")
		case v1.NodeState_NODE_STATE_CONFLICT_PAUSED:
			add(bad, n, "apply the newest site file (infractl apply), then: infractl node resume "+name, "%s", n.GetMessage())
		case v1.NodeState_NODE_STATE_PENDING:
			add(warn, n, "infractl node approve "+n.GetEnrolmentId(), "a machine at %s waits: %s", n.GetAddress(), n.GetMessage())
			continue
		case v1.NodeState_NODE_STATE_WANTED:
			add(warn, n, "infractl token create --node "+name, "no machine has enrolled")
			continue
		case v1.NodeState_NODE_STATE_REVOKED:
			continue
		}
		if n.GetMessage() != "" && n.GetState() != v1.NodeState_NODE_STATE_CONFLICT_PAUSED {
			add(bad, n, "infractl node clear "+name, "%s", n.GetMessage())
		}
		if skew := n.GetSkew().AsDuration(); skew.Abs() > largeSkew {
			side := "ahead"
			if skew < 0 {
				side = "behind"
			}
			add(warn, n, "check its time synchronisation", "its clock is %s %s", skew.Abs().Round(time.Millisecond), side)
		}
		if n.GetRole() == "" {
			add(warn, n, "add it to the site, or: infractl node revoke "+name, "the site has no node of this name")
		}
		if end := n.GetCertificateNotAfter(); end != nil && end.AsTime().Sub(now) < 24*time.Hour {
			add(warn, n, "look at the machine: journalctl -u infractl-agent", "its certificate ends %s and was not renewed",
				end.AsTime().Format(time.RFC3339))
		}
		for _, line := range n.GetHostState().GetDegraded() {
			add(bad, n, "mend it there, then: infractl apply", "degraded: %s", line)
		}
		for _, st := range n.GetContainers().GetStacks() {
			if st.GetProblem() != "" && !slices.ContainsFunc(n.GetHostState().GetDegraded(), func(l string) bool { return strings.Contains(l, "stack "+st.GetName()) }) {
				add(bad, n, "infractl logs --stack "+st.GetName(), "stack %s is degraded: %s", st.GetName(), st.GetProblem())
			}
		}
		warnings := n.GetFacts().GetWarnings()
		for i, line := range warnings {
			if i == maxShown {
				add(warn, n, "infractl node show "+name, "%d more warnings", len(warnings)-maxShown)
				break
			}
			add(warn, n, "", "%s", line)
		}
	}
	return out
}

// What is left of a certificate's life when a person should hear of it. An issuing certificate that is due is renewed at once
// where the root's key is at hand, so that a week's delay has a cause.
const (
	issuingLate = 7 * 24 * time.Hour
	rootSoon    = 365 * 24 * time.Hour
	serverSoon  = 30 * 24 * time.Hour
)

// authorityFindings are about the certificates that all others hang on.
func (s *Nodes) authorityFindings(now time.Time) []*v1.Finding {
	var out []*v1.Finding
	add := func(which string, end time.Time, hint string) {
		out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_ERROR, Where: "certificates", Hint: hint,
			Message: fmt.Sprintf("the %s certificate ends on %s and was not renewed", which, end.UTC().Format(time.DateOnly))})
	}
	if c := s.cfg.Authority.Issuing(); now.After(certs.RenewAt(c).Add(issuingLate)) {
		add("issuing", c.NotAfter, "put root.key back into the server's key folder; its log says what failed: journalctl -u infractl-server")
	}
	if c := s.cfg.Authority.Root(); c.NotAfter.Sub(now) < rootSoon {
		add("root", c.NotAfter, "a root is not renewed: plan a new server and enrol every machine there")
	}
	if end := s.cfg.ServerNotAfter(); end.Sub(now) < serverSoon {
		add("server", end, "journalctl -u infractl-server says why")
	}
	return out
}
