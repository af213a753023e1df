package instance

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
)

// view is what a list of instances is shown with: one picture of everything else.
type view struct {
	where  *site.Site
	open   map[string]*v1.Operation // by target, and by id
	disk   map[string]*v1.InstanceDisk
	health map[string]string
	usage  map[string]*v1.Usage
	// complaints are what hosts say that is not well, by node; gates is what proxy and name server say.
	complaints map[string][]string
	gates      []string
	// sights are how names were last seen from the world's side.
	sights map[string]*v1.PublicSight
}

// look takes the picture. Without a site, which a new server has not, instances have no names.
func (s *Instances) look(ctx context.Context) (*view, error) {
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	open, err := s.engine.Open(ctx)
	if err != nil {
		return nil, err
	}
	for _, op := range slices.Collect(maps.Values(open)) {
		open[op.GetId()] = op // a rename works on what has another name meanwhile
	}
	v := &view{where: where, open: open, complaints: map[string][]string{}}
	if where != nil {
		for _, node := range slices.Concat(where.InstanceNodes(false), where.InstanceNodes(true)) {
			if v.complaints[node], err = s.complaints(ctx, node); err != nil {
				return nil, err
			}
		}
		gates, err := s.gates(ctx)
		if err != nil {
			return nil, err
		}
		for _, node := range gates {
			lines, err := s.complaints(ctx, node)
			if err != nil {
				return nil, err
			}
			v.gates = append(v.gates, lines...)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.health, v.usage, v.disk, v.sights = maps.Clone(s.health), maps.Clone(s.usage), maps.Clone(s.disk), maps.Clone(s.sights)
	return v, nil
}

// complaints are the failures and the drift of instances that a host last reported.
func (s *Instances) complaints(ctx context.Context, node string) ([]string, error) {
	n, err := s.cfg.Fleet.Node(ctx, node)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	out := slices.Clone(n.State.M.GetDegraded())
	for _, c := range n.State.M.GetDrift() {
		if c.GetProvider() == "dolibarr" {
			out = append(out, "drift: "+c.GetSubject())
		}
	}
	return out, err
}

// target names an instance for operations.
func target(name string) string { return "instance/" + name }

// show is an instance as operators see it.
func (v *view) show(r *record) *v1.Instance {
	out := &v1.Instance{
		Name: r.Name, Id: r.ID, Node: r.Node, Preprod: r.Preprod, Version: r.Version, Limits: r.Limits.toProto(),
		Cron: r.Cron, Language: r.Language,
		Company: r.Company, Created: stamp(r.Created), Operator: r.Operator, SuspendedAt: stamp(r.Suspended), PurgeAfter: stamp(r.PurgeAfter),
		OperationId: r.Operation, Modules: slices.Clone(r.Modules), AdminLogin: r.Admin,
		Adopted: r.Adopted != nil,
	}
	if r.Subnet.IsValid() {
		out.Subnet = r.Subnet.String()
	}
	if u := v.usage[r.ID]; u != nil {
		out.Usage = proto.CloneOf(u)
	}
	if d := v.disk[r.ID]; d != nil && r.Purged.IsZero() {
		out.Disk = proto.CloneOf(d)
	}
	if v.where != nil && r.Purged.IsZero() {
		inst := r.resource()
		out.Domains = v.where.InstanceDomains(&inst)
		if len(out.Domains) > 0 {
			out.Url = "https://" + out.Domains[0] + "/"
			out.Certificate = v.certificates(out.Domains)
		}
	}
	out.State, out.Problem = v.state(r)
	return out
}

// certificates say where the main name's certificate comes from, how it was last seen, and which further names are not served as they
// should be.
func (v *view) certificates(domains []string) string {
	parts := []string{v.where.CertificateOf(domains[0])}
	for i, name := range domains {
		switch sight := v.sights[name]; {
		case sight == nil:
		case i > 0 && sight.GetState() != v1.PublicState_PUBLIC_STATE_SERVED:
			parts = append(parts, name+" "+words(sight))
		case i == 0:
			parts = append(parts, words(sight))
		}
	}
	return strings.Join(parts, "; ")
}

// state says where an instance stands, and what is wrong with it.
func (v *view) state(r *record) (v1.InstanceState, string) {
	if !r.Purged.IsZero() {
		return v1.InstanceState_INSTANCE_STATE_PURGED, ""
	}
	if op := cmp.Or(v.open[target(r.Name)], v.open[r.Operation]); op != nil {
		if operation.Still(op.GetState()) {
			return v1.InstanceState_INSTANCE_STATE_BROKEN, "operation " + op.GetId() + " needs a person: " + op.GetMessage()
		}
		if !r.Made {
			return v1.InstanceState_INSTANCE_STATE_CREATING, op.GetMessage()
		}
		return v1.InstanceState_INSTANCE_STATE_CHANGING, op.GetMessage()
	}
	switch {
	case !r.Made && r.Adopted != nil:
		return v1.InstanceState_INSTANCE_STATE_BROKEN, "its adoption was given up; nothing of it was changed: infractl instance delete " + r.Name + " --disown"
	case !r.Made:
		return v1.InstanceState_INSTANCE_STATE_BROKEN, "its creation was given up, and what was made of it may be left: infractl instance purge " +
			r.Name + " --early"
	case r.Mode == suspended:
		return v1.InstanceState_INSTANCE_STATE_SUSPENDED, ""
	case r.Mode == archived:
		return v1.InstanceState_INSTANCE_STATE_ARCHIVED, ""
	case r.Mode != running:
		return v1.InstanceState_INSTANCE_STATE_BROKEN, "what was done with it last was given up: infractl instance resume " + r.Name
	}
	for _, line := range v.complaints[r.Node] {
		if v.where != nil && names(line, r, v.where.InstanceDomains) {
			return v1.InstanceState_INSTANCE_STATE_BROKEN, line
		}
	}
	if why := v.health[r.ID]; why != "" {
		return v1.InstanceState_INSTANCE_STATE_BROKEN, why
	}
	return v1.InstanceState_INSTANCE_STATE_ACTIVE, v.otherwise(r)
}

// otherwise says why the names of an adopted instance, which works, do not lead to it by the front: somebody else serves them still.
func (v *view) otherwise(r *record) string {
	for _, line := range v.gates {
		if r.Adopted != nil && v.where != nil && names(line, r, v.where.InstanceDomains) {
			return line
		}
	}
	return ""
}

// defaultLimits are the site's.
func defaultLimits(where *site.Site) limits {
	d := where.InstanceDefaults()
	return limits{Memory: d.MemoryBytes, MilliCPU: d.MilliCPUs, PIDs: d.PIDs, Disk: d.DiskBytes}
}

func (l limits) toProto() *v1.InstanceLimits {
	return &v1.InstanceLimits{MemoryBytes: l.Memory, MilliCpus: l.MilliCPU, Pids: l.PIDs, DiskBytes: l.Disk}
}

// with returns the limits with those of m in place that are set.
func (l limits) with(m *v1.InstanceLimits) limits {
	if m.GetMemoryBytes() != 0 {
		l.Memory = m.GetMemoryBytes()
	}
	if m.GetMilliCpus() != 0 {
		l.MilliCPU = m.GetMilliCpus()
	}
	if m.GetPids() != 0 {
		l.PIDs = m.GetPids()
	}
	if m.GetDiskBytes() != 0 {
		l.Disk = m.GetDiskBytes()
	}
	return l
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
