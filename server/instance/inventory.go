package instance

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const inventoryLimit = time.Minute

// inventory asks a host what it has of instances, ours or not.
func (s *Instances) inventory(ctx context.Context, node string) ([]*v1.FoundInstance, error) {
	ctx, cancel := context.WithTimeout(ctx, inventoryLimit)
	defer cancel()
	res, err := s.cfg.Hub.Do(ctx, node, &v1.Task{Id: "inventory-" + randomText(), NotAfter: timestamppb.New(s.cfg.Clock.Now().Add(taskStart)),
		Work: &v1.Task_Instance{Instance: &v1.InstanceTask{Action: &v1.InstanceTask_Inventory{Inventory: &v1.InventoryInstances{}}}}}, nil)
	if err != nil {
		return nil, err
	}
	if e := res.GetError(); e != nil {
		return nil, errs.New(errs.Code(e.GetCode()), "%s", e.GetMessage()).At("node "+node).WithHint("%s", e.GetHint())
	}
	found := res.GetInstance().GetFound()
	s.noteSubnets(node, found)
	slices.SortFunc(found, func(a, b *v1.FoundInstance) int {
		return cmp.Or(strings.Compare(a.GetInstance(), b.GetInstance()), strings.Compare(partName(a), partName(b)))
	})
	return found, nil
}

// noteSubnets keeps which networks a host has.
func (s *Instances) noteSubnets(node string, found []*v1.FoundInstance) {
	var list []netip.Prefix
	for _, f := range found {
		if p, err := netip.ParsePrefix(f.GetDetails()["subnet"]); err == nil && f.GetKind() == "network" {
			list = append(list, p.Masked())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[node] = list
}

// seenSubnets are the networks that hosts had when they were last asked.
func (s *Instances) seenSubnets() []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []netip.Prefix
	for _, list := range s.seen {
		out = append(out, list...)
	}
	return out
}

// parts are what a host must have of an instance: kind and name.
func (r *record) parts() []string {
	if r.Adopted != nil {
		return r.Adopted.parts()
	}
	base := "infractl-" + r.ID
	out := []string{"network " + base, "folder " + r.ID}
	for _, volume := range []string{"-data", "-documents", "-custom"} {
		out = append(out, "volume "+base+volume)
	}
	if r.Mode == running || r.Mode == closed {
		out = append(out, "container "+base+"-db")
	}
	if r.Mode == running {
		out = append(out, "container "+base+"-app")
		if r.Cron {
			out = append(out, "container "+base+"-cron")
		}
	}
	return out
}

// isPart reports whether something found is the part of that name. Folders may be reported by their path.
func isPart(f *v1.FoundInstance, part string) bool {
	kind, name, _ := strings.Cut(part, " ")
	return f.GetKind() == kind && (f.GetName() == name || kind == "folder" && strings.HasSuffix(f.GetName(), "/"+name))
}

// compare finds what differs between the records of a host's instances and what is there, both ways. all are all records.
func compare(node string, all []record, found []*v1.FoundInstance) []*v1.AuditFinding {
	var out []*v1.AuditFinding
	add := func(kind, what, name, instance, hint, format string, args ...any) {
		out = append(out, &v1.AuditFinding{Kind: kind, What: what, Name: name, Instance: instance, Node: node,
			Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	owner := map[string]*record{}
	for i := range all {
		r := &all[i]
		owner[r.ID] = r
		if r.Node != node || !r.Made || r.Mode == withdrawn {
			continue
		}
		for _, part := range r.parts() {
			kind, name, _ := strings.Cut(part, " ")
			at := slices.IndexFunc(found, func(f *v1.FoundInstance) bool { return isPart(f, part) })
			switch {
			case at < 0 && r.Adopted != nil:
				add("missing", kind, name, r.Name, "only its compose file makes it again: infractl instance show "+r.Name, "instance %s should have it", r.Name)
			case at < 0:
				add("missing", kind, name, r.Name, "infractl apply brings it back; a lost volume comes back empty", "instance %s should have it", r.Name)
			case kind == "container" && (r.Mode == running || r.Mode == closed) && wrongState(found[at].GetState()):
				add("different", kind, name, r.Name, "infractl instance logs "+r.Name, "it is %s", found[at].GetState())
			}
		}
	}
	for _, f := range found {
		switch r := owner[f.GetId()]; {
		case f.GetKind() == "front", f.GetKind() == "template": // they belong to no instance
		case f.GetId() == "":
			if !slices.ContainsFunc(all, func(r record) bool { return r.Adopted != nil && r.Node == node && r.Name == f.GetInstance() }) {
				add("orphan", f.GetKind(), f.GetName(), f.GetInstance(), "infractl instance import "+node,
					"it looks like an instance, and was not made by infractl")
			}
		case r == nil:
			add("orphan", f.GetKind(), f.GetName(), f.GetInstance(), "look what it holds, then remove it on the host",
				"no instance has the id %s", f.GetId())
		case r.Node != node:
			add("orphan", f.GetKind(), f.GetName(), r.Name, "look what it holds, then remove it on the host", "instance %s is on %s", r.Name, r.Node)
		case f.GetInstance() != "" && f.GetInstance() != r.Name && f.GetKind() == "container":
			add("different", f.GetKind(), f.GetName(), r.Name, "infractl apply", "it carries the name %s", f.GetInstance())
		}
	}
	return out
}

// wrongState reports whether a container of a running instance is not well.
func wrongState(state string) bool {
	switch strings.ToLower(state) {
	case "", "running", "healthy", "starting", "created":
		return false
	}
	return true
}
