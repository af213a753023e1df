package instance

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// templateKept is how long a template stays that nobody uses, dropLimit how long its removal may take.
const (
	templateKept = 7 * 24 * time.Hour
	dropLimit    = time.Minute
)

// usedVersions are the versions that hosts should have a template of; nil without a site.
func (s *Instances) usedVersions(ctx context.Context) (map[string][]string, error) {
	where, _, err := s.sites.Load(ctx, 0)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	res, err := s.sites.Present(ctx)
	if err != nil {
		return nil, err
	}
	return templateVersions(where, res), nil
}

// dropTemplates removes the templates of versions that nobody has used for a while. It waits while instances are worked on.
func (s *Instances) dropTemplates(ctx context.Context) error {
	open, quiet, err := s.quiet(ctx)
	if err != nil || !quiet {
		return err
	}
	used, err := s.usedVersions(ctx)
	if err != nil || used == nil {
		return err
	}
	items, err := s.template.List(ctx, store.ListOptions{})
	if err != nil {
		return errs.Wrap("read templates", err)
	}
	now := s.cfg.Clock.Now().UTC()
	var faults []error
	for _, it := range items {
		node, version, _ := strings.Cut(it.Name, "/")
		inUse, unused := slices.Contains(used[node], version), it.Value.Unused
		switch {
		case open["template/"+it.Name] != nil, inUse && unused.IsZero():
		case inUse:
			faults = append(faults, s.setUnused(ctx, it.Name, time.Time{}))
		case unused.IsZero():
			faults = append(faults, s.setUnused(ctx, it.Name, now))
		case now.Sub(unused) >= templateKept:
			faults = append(faults, s.dropTemplate(ctx, node, version))
		}
	}
	return errs.Join(faults...)
}

func (s *Instances) setUnused(ctx context.Context, name string, since time.Time) error {
	_, err := s.template.Update(ctx, name, func(r *templateRecord) error { r.Unused = since; return nil })
	return errs.Wrap("store template", err)
}

// dropTemplate removes a template from its host. One that is away is asked again; one that is gone for good has none any more.
func (s *Instances) dropTemplate(ctx context.Context, node, version string) error {
	name := node + "/" + version
	_, err := s.cfg.Fleet.Node(ctx, node)
	if errs.Is(err, errs.NotFound) {
		return s.template.Delete(ctx, name, store.Any)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dropLimit)
	defer cancel()
	res, err := s.cfg.Hub.DoLive(ctx, node, &v1.Task{Id: "template-" + randomText(), NotAfter: timestamppb.New(s.cfg.Clock.Now().Add(taskStart)),
		Work: &v1.Task_Instance{Instance: &v1.InstanceTask{Instance: &v1.InstanceSpec{Version: version},
			Action: &v1.InstanceTask_DropTemplate{DropTemplate: &v1.DropTemplate{}}}}})
	switch {
	case errs.Is(err, errs.Unavailable):
		return nil
	case err != nil:
		return err
	case res.GetError() != nil:
		return errs.New(errs.Code(res.GetError().GetCode()), "remove template %s: %s", name, res.GetError().GetMessage())
	}
	if err := s.template.Delete(ctx, name, store.Any); err != nil {
		return err
	}
	_, err = s.cfg.Store.AppendAudit(ctx, store.AuditEntry{Time: s.cfg.Clock.Now(), Actor: "system", Action: "instance.template.drop",
		Target: "template/" + name, Result: "ok", Message: "nobody has used this version there for 7 days"})
	return err
}

// noteTemplates takes in templates of a host that no record knows, such as those of before the server was put back: they go in their time.
func (s *Instances) noteTemplates(ctx context.Context, node string, found []*v1.FoundInstance) error {
	left, err := s.leftTemplates(ctx, node, found)
	if err != nil {
		return err
	}
	for _, f := range left {
		version, _, _ := strings.Cut(f.GetName(), "-")
		_, err := s.template.Put(ctx, node+"/"+version, templateRecord{Unused: s.cfg.Clock.Now().UTC()}, store.Absent)
		if err != nil && !errs.Is(err, errs.Exists) && !errs.Is(err, errs.Conflict) {
			return err
		}
	}
	return nil
}

// leftTemplates finds templates of a host that nobody uses and that do not go by themselves.
func (s *Instances) leftTemplates(ctx context.Context, node string, found []*v1.FoundInstance) (out []*v1.AuditFinding, err error) {
	used, err := s.usedVersions(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		if f.GetKind() != "template" || slices.Contains(used[node], f.GetVersion()) {
			continue
		}
		it, err := s.template.Get(ctx, node+"/"+f.GetVersion())
		if err == nil && s.cfg.Clock.Now().Sub(it.Value.Unused) < templateKept+24*time.Hour || err == nil && it.Value.Unused.IsZero() {
			continue // its time is not over, or was a moment ago
		}
		if err != nil && !errs.Is(err, errs.NotFound) {
			return nil, err
		}
		out = append(out, &v1.AuditFinding{Kind: "orphan", What: "template", Name: f.GetName(), Node: node,
			Message: "no instance of the host is of version " + f.GetVersion() + ", nor is a new one",
			Hint:    "it goes by itself 7 days after the server has seen it; or remove it on the host, below templates"})
	}
	return out, nil
}
