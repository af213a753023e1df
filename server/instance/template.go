package instance

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/store"
)

const (
	// templateAgain is when a template that could not be made is tried again with the same images.
	templateAgain = time.Hour
	// templateLimit is how long making one may take: it is a cold installation.
	templateLimit = 15 * time.Minute
)

// templateRecord says what the template of a version on a host was made of.
type templateRecord struct {
	Images string    `json:"images"`
	Made   time.Time `json:"made"`
	// Unused is since when nobody uses its version there; zero while somebody does.
	Unused time.Time `json:"unused,omitzero"`
}

// attempt is the last try to make a template.
type attempt struct {
	images string
	at     time.Time
}

// templateParams name a template.
type templateParams struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	// Images identify what it is made of.
	Images string `json:"images"`
}

// wantedTemplate is a template that a host should have: that of the site's default version, and of those that its instances have.
type wantedTemplate struct {
	templateParams
	spec *v1.InstanceSpec
}

// templates returns the templates that hosts should have and for which there are images.
func (s *Instances) templates(ctx context.Context) ([]wantedTemplate, error) {
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
	versions := templateVersions(where, res)
	var out []wantedTemplate
	for _, node := range sortedKeys(versions) {
		for _, version := range versions[node] {
			spec := templateSpec(where, res, version)
			if site.MissingImage(spec.GetAppImage()) || site.MissingImage(spec.GetDbImage()) {
				continue
			}
			out = append(out, wantedTemplate{templateParams{node, version, imagesOf(spec)}, spec})
		}
	}
	return out, nil
}

// templateVersions are the versions that hosts should have a template of: the site's default one, and those of their instances.
func templateVersions(where *site.Site, res site.Resources) map[string][]string {
	versions := map[string][]string{}
	for _, node := range slices.Concat(where.InstanceNodes(false), where.InstanceNodes(true)) {
		if v := where.InstanceDefaults().Version; v != "" {
			versions[node] = append(versions[node], v)
		}
	}
	for _, inst := range res.Instances {
		if inst.Adopted == nil && !slices.Contains(versions[inst.Node], inst.Version) {
			versions[inst.Node] = append(versions[inst.Node], inst.Version)
		}
	}
	return versions
}

// templateSpec is what a host is told of a template. It has no secrets: the host makes some up, and no instance ever has them.
func templateSpec(where *site.Site, res site.Resources, version string) *v1.InstanceSpec {
	d := where.InstanceDefaults()
	app, db := where.InstanceImages(version)
	spec := where.InstanceSpec(&site.Instance{Version: version, AppImage: app, DBImage: db, Timezone: d.Timezone, Language: d.Language,
		MemoryBytes: d.MemoryBytes, MilliCPUs: d.MilliCPUs, PIDs: d.PIDs, DiskBytes: d.DiskBytes, AdminLogin: "admin"}, res)
	spec.Name = "template"
	return spec
}

func imagesOf(spec *v1.InstanceSpec) string {
	id := func(i *v1.StackImage) string { return cmp.Or(i.GetImageId(), i.GetUse()) }
	return id(spec.GetAppImage()) + " " + id(spec.GetDbImage())
}

// Archives returns the image archives that templates of a node are made of, those of all nodes for "": agents may fetch them before an
// instance names them.
func (s *Instances) Archives(ctx context.Context, node string) ([]string, error) {
	list, err := s.templates(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, t := range list {
		for _, i := range []*v1.StackImage{t.spec.GetAppImage(), t.spec.GetDbImage()} {
			if d := i.GetArchiveDigest(); d != "" && (node == "" || node == t.Node) && !slices.Contains(out, d) {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

func (p *templateParams) name() string { return p.Node + "/" + p.Version }

// quiet returns the open operations by their targets, and whether none of them works on an instance.
func (s *Instances) quiet(ctx context.Context) (open map[string]*v1.Operation, quiet bool, err error) {
	open, err = s.engine.Open(ctx)
	for name := range open {
		if strings.HasPrefix(name, "instance/") {
			return open, false, err
		}
	}
	return open, true, err
}

// refreshTemplates starts making the templates that are missing or were made of other images. It waits while instances are worked on:
// a template saves seconds later, and must cost none now.
func (s *Instances) refreshTemplates(ctx context.Context) error {
	open, quiet, err := s.quiet(ctx)
	if err != nil || !quiet {
		return err
	}
	list, err := s.templates(ctx)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	d, err := s.sites.Derive(ctx, 0)
	if err != nil {
		return err
	}
	now := s.cfg.Clock.Now()
	for _, t := range list {
		have, err := s.template.Get(ctx, t.name())
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		s.mu.Lock()
		last := s.tried[t.name()]
		s.mu.Unlock()
		if have.Value.Images == t.Images || last.images == t.Images && now.Sub(last.at) < templateAgain || open["template/"+t.name()] != nil {
			continue
		}
		// The host must be there, and be what it should be: its engine and its network are needed.
		if n, err := s.keeps(ctx, t.Node); err != nil || !n.covers(d, t.Node) {
			continue
		}
		s.mu.Lock()
		s.tried[t.name()] = attempt{t.Images, now}
		s.mu.Unlock()
		_, err = s.engine.Start(ctx, operation.StartRequest{Kind: "instance.template", Target: "template/" + t.name(),
			Params: t.templateParams, Operator: "system"})
		if err != nil && !errs.Is(err, errs.Conflict) {
			return err
		}
	}
	return nil
}

// noTemplate takes in that a host had no template to copy: it was set up anew, or found its template damaged. Another one is made in time.
func (s *Instances) noTemplate(ctx context.Context, rec *record, meant bool) error {
	if meant {
		return nil
	}
	p := templateParams{Node: rec.Node, Version: rec.Version}
	return s.template.Delete(ctx, p.name(), store.Any)
}

// templateKind makes a template; the host puts it in the place of the former one when it is whole.
func (s *Instances) templateKind() operation.Kind {
	return operation.Kind{Name: "instance.template", Steps: func(params json.RawMessage) ([]operation.Step, error) {
		var p templateParams
		if err := decode(params, &p); err != nil {
			return nil, err
		}
		return []operation.Step{{Name: "template", Node: p.Node, Timeout: templateLimit, Retry: s.retry(1),
			Do: func(ctx context.Context, run *operation.Run) error { return s.doTemplate(ctx, run, &p) }}}, nil
	}}
}

func (s *Instances) doTemplate(ctx context.Context, run *operation.Run, p *templateParams) error {
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil {
		return err
	}
	res, err := s.sites.Present(ctx)
	if err != nil {
		return err
	}
	spec := templateSpec(where, res, p.Version)
	_, err = run.Task(ctx, p.Node, &v1.Task{Work: &v1.Task_Instance{Instance: &v1.InstanceTask{Instance: spec,
		Action: &v1.InstanceTask_Template{Template: &v1.TemplateInstance{}}}}})
	if err != nil {
		return final(err)
	}
	_, err = s.template.Put(ctx, p.name(), templateRecord{Images: imagesOf(spec), Made: s.cfg.Clock.Now().UTC()}, store.Any)
	return err
}
