package instance

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
)

// lookLimit bounds how long the proxy and the name server may take to compare themselves with their wish.
const lookLimit = 30 * time.Second

// endsSoon is how long before its end a certificate is told of, or a quarter of its life where that is less: it is renewed at two thirds.
const endsSoon = 14 * 24 * time.Hour

// AuditInstances implements v1.InstanceServiceServer.
func (s *Service) AuditInstances(ctx context.Context, req *v1.AuditInstancesRequest) (*v1.AuditInstancesResponse, error) {
	return s.auditAll(ctx, req.GetNode())
}

// auditAll compares the records with what hosts, proxy and name server have, both ways. A host that cannot be asked is a finding.
func (s *Instances) auditAll(ctx context.Context, only string) (*v1.AuditInstancesResponse, error) {
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil {
		return nil, err
	}
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	nodes := slices.Concat(where.InstanceNodes(false), where.InstanceNodes(true))
	if only != "" && !slices.Contains(nodes, only) {
		return nil, errs.New(errs.NotFound, "node %.64q carries no instances", only).
			WithHint("dolibarr.prod and dolibarr.preprod name those that do")
	}
	out := &v1.AuditInstancesResponse{}
	out.Findings = lost(all, nodes, only)
	if only != "" {
		nodes = []string{only}
	}
	var asking sync.WaitGroup
	var mu sync.Mutex
	add := func(compared int, findings []*v1.AuditFinding) {
		mu.Lock()
		defer mu.Unlock()
		out.Compared += uint32(compared)
		out.Findings = append(out.Findings, findings...)
	}
	for _, node := range nodes {
		asking.Go(func() { add(s.auditHost(ctx, node, all)) })
	}
	if gates, err := s.gates(ctx); err != nil {
		return nil, err
	} else if only == "" {
		for _, node := range gates {
			asking.Go(func() { add(s.auditGate(ctx, where, node, all)) })
		}
		asking.Go(func() { add(s.auditCertificates(ctx, where, all)) })
	}
	asking.Wait()
	order := func(f *v1.AuditFinding) string {
		return strings.Join([]string{f.GetNode(), f.GetInstance(), f.GetWhat(), f.GetName()}, " ")
	}
	slices.SortFunc(out.Findings, func(a, b *v1.AuditFinding) int { return strings.Compare(order(a), order(b)) })
	return out, ctx.Err()
}

// lost finds instances on nodes that carry none any more.
func lost(all []record, nodes []string, only string) []*v1.AuditFinding {
	var out []*v1.AuditFinding
	for i := range all {
		r := &all[i]
		if r.Made && !slices.Contains(nodes, r.Node) && (only == "" || only == r.Node) {
			out = append(out, &v1.AuditFinding{Kind: "missing", What: "front", Name: r.Node, Instance: r.Name, Node: r.Node,
				Message: "the site says that this node carries no instances", Hint: "put it back into the dolibarr section of the site file"})
		}
	}
	return out
}

func unasked(node string, err error) []*v1.AuditFinding {
	return []*v1.AuditFinding{{Kind: "different", What: "front", Name: node, Node: node,
		Message: "could not be asked: " + err.Error(), Hint: "infractl node show " + node}}
}

func (s *Instances) auditHost(ctx context.Context, node string, all []record) (int, []*v1.AuditFinding) {
	found, err := s.inventory(ctx, node)
	if err != nil {
		return 0, unasked(node, err)
	}
	findings := compare(node, all, found)
	left, err := s.leftTemplates(ctx, node, found)
	if err != nil {
		return 0, unasked(node, err)
	}
	findings = append(findings, left...)
	compared := len(found)
	fronted := false
	for i := range all {
		if r := &all[i]; r.Node == node {
			compared += len(r.parts())
			fronted = fronted || r.inSpec()
		}
	}
	if fronted && !slices.ContainsFunc(found, func(f *v1.FoundInstance) bool { return f.GetKind() == "front" }) {
		findings = append(findings, &v1.AuditFinding{Kind: "missing", What: "front", Name: node, Node: node,
			Message: "no request reaches its instances", Hint: "infractl apply"})
	}
	return compared, findings
}

// auditGate lets the proxy or the name server compare itself with its wish, which names every instance: what it would make is missing,
// what it would remove is an orphan.
func (s *Instances) auditGate(ctx context.Context, where *site.Site, node string, all []record) (int, []*v1.AuditFinding) {
	d, err := s.sites.Derive(ctx, 0)
	if err != nil {
		return 0, unasked(node, err)
	}
	spec := d.Specs[node]
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	changes, err := rollout.Look(ctx, s.cfg.Hub, node, spec.Content, spec.Digest, s.cfg.Clock.Now().Add(lookLimit))
	if err != nil {
		return 0, unasked(node, err)
	}
	var out []*v1.AuditFinding
	for _, c := range changes {
		if c.GetProvider() != "proxy" && c.GetProvider() != "dns" {
			continue
		}
		f := &v1.AuditFinding{What: c.GetProvider(), Name: c.GetSubject(), Node: node, Kind: "different",
			Message: "it is not as it should be", Hint: "infractl apply"}
		switch c.GetAction() {
		case v1.ChangeAction_CHANGE_ACTION_CREATE:
			f.Kind, f.Message = "missing", "it is not there"
		case v1.ChangeAction_CHANGE_ACTION_DELETE:
			f.Kind, f.Message = "orphan", "nothing wants it any more"
		}
		for i := range all {
			if names(strings.Join(slices.Concat([]string{c.GetSubject()}, c.GetBefore(), c.GetAfter()), "\n"), &all[i], where.InstanceDomains) {
				f.Instance = all[i].Name
			}
		}
		out = append(out, f)
	}
	return len(spec.Spec.GetProxy().GetHosts()) + len(spec.Spec.GetDns().GetZones()), out
}

// auditCertificates finds names that are not served with a good certificate, or with one that ends soon: its renewal has failed by then.
// What waits for its turn is as it should be.
func (s *Instances) auditCertificates(ctx context.Context, where *site.Site, all []record) (int, []*v1.AuditFinding) {
	node := where.ProxyNode()
	seen, err := s.seeAll(ctx, all, false)
	var out []*v1.AuditFinding
	if err != nil {
		out = unasked(node, err)
		out[0].What = "certificate"
	}
	for i := range all {
		inst := all[i].resource()
		for _, name := range where.InstanceDomains(&inst) {
			if f := certificateFinding(seen[name], s.cfg.Clock.Now()); f != nil {
				f.What, f.Name, f.Instance, f.Node = "certificate", name, all[i].Name, node
				out = append(out, f)
			}
		}
	}
	return len(seen), out
}

func certificateFinding(sight *v1.PublicSight, now time.Time) *v1.AuditFinding {
	switch {
	case sight.GetState() == v1.PublicState_PUBLIC_STATE_WRONG && sight.GetEnds() == nil:
		return &v1.AuditFinding{Kind: "missing", Message: sight.GetMessage(), Hint: sight.GetHint()}
	case sight.GetState() == v1.PublicState_PUBLIC_STATE_WRONG:
		return &v1.AuditFinding{Kind: "different", Message: sight.GetMessage(), Hint: sight.GetHint()}
	case sight.GetEnds() != nil && sight.GetEnds().AsTime().Sub(now) < min(endsSoon, sight.GetEnds().AsTime().Sub(sight.GetBegins().AsTime())/4):
		return &v1.AuditFinding{Kind: "different", Message: "its certificate ends at " + sight.GetEnds().AsTime().UTC().Format(time.RFC3339) +
			" and was not renewed", Hint: "does the name still lead to the site? the proxy's log says why the authority refused"}
	}
	return nil
}
