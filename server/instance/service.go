package instance

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/store"
)

// Service is the InstanceService.
type Service struct {
	v1.UnimplementedInstanceServiceServer
	*Instances
}

// NewService returns the service over the instances.
func NewService(s *Instances) *Service { return &Service{Instances: s} }

// CreateInstance implements v1.InstanceServiceServer.
func (s *Service) CreateInstance(ctx context.Context, req *v1.CreateInstanceRequest) (*v1.CreateInstanceResponse, error) {
	where, err := s.site(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.wanted(ctx, where, req)
	if err != nil {
		return nil, err
	}
	rec, err := s.predicted(ctx, where, p)
	if err != nil {
		return nil, err
	}
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	out := &v1.CreateInstanceResponse{Instance: v.show(rec), Plan: plan(where, rec, p)}
	out.Instance.State, out.Instance.Problem, out.Instance.Id, out.Instance.Subnet = v1.InstanceState_INSTANCE_STATE_CREATING, "", "", ""
	if req.GetDryRun() {
		return out, nil
	}
	op, err := s.engine.Start(ctx, operation.StartRequest{Kind: "instance.create", Target: target(p.Name), Params: p,
		Operator: access.CallerFrom(ctx).Actor})
	if errs.Is(err, errs.Conflict) {
		return nil, errs.New(errs.Exists, "an instance %s is being made or changed: %w", p.Name, err).WithHint("%s", errs.HintOf(err))
	}
	if err != nil {
		return nil, err
	}
	out.OperationId, out.Instance.OperationId, out.Instance.Operator = op.GetId(), op.GetId(), op.GetOperator()
	return out, nil
}

// site returns the newest site, which must be able to have instances.
func (s *Service) site(ctx context.Context) (*site.Site, error) {
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil {
		return nil, err
	}
	switch {
	case !where.InstancePool().IsValid():
		return nil, errs.New(errs.Precondition, "the site carries no instances").WithHint("add a dolibarr section to the site file, and apply it")
	case where.InstanceDomain("x") == "":
		return nil, errs.New(errs.Precondition, "the site has no domain for instances").WithHint("set proxy.domain in the site file, and apply it")
	}
	return where, nil
}

// wanted checks a request and fills the site's defaults in. What no image is there for is refused before anything happens.
func (s *Service) wanted(ctx context.Context, where *site.Site, req *v1.CreateInstanceRequest) (*createParams, error) {
	d := where.InstanceDefaults()
	p := &createParams{Name: req.GetName(), Version: cmp.Or(req.GetVersion(), d.Version), Node: req.GetNode(), Preprod: req.GetPreprod(),
		Company: req.GetCompany(), Country: cmp.Or(req.GetCountry(), "FR"), Language: cmp.Or(req.GetLanguage(), d.Language), Timezone: d.Timezone,
		Modules: slices.Clone(req.GetModules()), Cold: req.GetCold(), Admin: cmp.Or(req.GetAdminLogin(), "admin"),
		Limits: defaultLimits(where).with(req.GetLimits())}
	if err := checkName(where, p.Name); err != nil {
		return nil, err
	}
	var err error
	if p.Domains, err = checkDomains(where, req.GetDomains()); err != nil {
		return nil, err
	}
	if p.Version == "" || !site.IsDolibarrVersion(p.Version) {
		return nil, errs.New(errs.Invalid, "%.20q is no version of Dolibarr", p.Version).WithHint("all three numbers, such as --version 19.0.4")
	}
	if !loginForm.MatchString(p.Admin) || !countryForm.MatchString(p.Country) {
		return nil, errs.New(errs.Invalid, "login %.60q or country %.10q cannot be", p.Admin, p.Country).
			WithHint("a login of letters and digits, a country such as FR")
	}
	if err := errs.Join(checkLanguage(p.Language), checkCompany(p.Company), checkModules(p.Modules), p.Limits.check()); err != nil {
		return nil, err
	}
	p.AppImage, p.DBImage = where.InstanceImages(p.Version)
	return p, s.imagesThere(ctx, where, p.Version)
}

// imagesThere refuses a version whose images nobody has built.
func (s *Instances) imagesThere(ctx context.Context, where *site.Site, version string) error {
	res, err := s.sites.Present(ctx)
	if err != nil {
		return err
	}
	app, db := where.InstanceImages(version)
	for _, need := range []struct {
		image *v1.StackImage
		hint  string
	}{
		{where.Image(app, res), "infractl image build dolibarr --version " + version}, {where.Image(db, res), "infractl image build mariadb"},
		{where.FrontImage(res), "infractl image build front"},
	} {
		if site.MissingImage(need.image) {
			return errs.New(errs.Precondition, "there is no image %s", need.image.GetUse()).WithHint("%s", need.hint)
		}
	}
	return nil
}

// predicted is the instance as it would be if it were made now.
func (s *Service) predicted(ctx context.Context, where *site.Site, p *createParams) (*record, error) {
	list, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	if err := clash(where, p.Name, p.Domains, list, ""); err != nil {
		return nil, err
	}
	hosts, err := s.hosts(ctx, where, p.Node, p.Preprod, list)
	if err != nil {
		return nil, err
	}
	node, err := choose(hosts, p.Limits.Memory)
	if err != nil {
		return nil, err
	}
	if _, err := freeSubnet(where.InstancePool(), list, s.seenSubnets()); err != nil {
		return nil, err
	}
	return &record{Name: p.Name, Node: node, Preprod: p.Preprod, Version: p.Version, AppImage: p.AppImage, DBImage: p.DBImage,
		Domains: p.Domains, Limits: p.Limits, Timezone: p.Timezone, Language: p.Language, Company: p.Company, Cron: true, Admin: p.Admin, Modules: p.Modules}, nil
}

// plan says what a creation does, step by step.
func plan(where *site.Site, rec *record, p *createParams) []string {
	r := rec.resource()
	domains := where.InstanceDomains(&r)
	way := "a copy of the warm template where there is one"
	if p.Cold {
		way = "a new installation"
	}
	out := []string{
		fmt.Sprintf("place: on %s, with a network of its own from %s", rec.Node, where.InstancePool()),
		"secrets: " + strings.Join(secretNames(), ", "),
		fmt.Sprintf("host: database %s on %s, nobody gets in", rec.DBImage, rec.Node),
		fmt.Sprintf("install: Dolibarr %s (%s), %s", rec.Version, rec.AppImage, way),
		"open: " + strings.Join(domains, ", ") + " at the proxy and in the DNS",
		"probe: the login page says " + rec.Version,
		"names: the site's name servers know " + domains[0],
		"tls: the proxy serves " + strings.Join(domains, ", ") + " with a certificate (" + where.CertificateOf(domains[0]) + ") and the login page",
	}
	if len(p.Modules) > 0 {
		out[3] += ", modules " + strings.Join(p.Modules, ", ")
	}
	return out
}

// ListInstances implements v1.InstanceServiceServer.
func (s *Service) ListInstances(ctx context.Context, req *v1.ListInstancesRequest) (*v1.ListInstancesResponse, error) {
	list, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetAll() {
		gone, err := s.gone(ctx)
		if err != nil {
			return nil, err
		}
		list = append(list, gone...)
		slices.SortStableFunc(list, func(a, b record) int { return strings.Compare(a.Name, b.Name) })
	}
	out := &v1.ListInstancesResponse{}
	for i := range list {
		if r := &list[i]; req.GetNode() == "" || r.Node == req.GetNode() {
			out.Instances = append(out.Instances, v.show(r))
		}
	}
	return out, nil
}

// GetInstance implements v1.InstanceServiceServer.
func (s *Service) GetInstance(ctx context.Context, req *v1.GetInstanceRequest) (*v1.GetInstanceResponse, error) {
	rec, err := s.known(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := s.freshen(ctx, &rec); err != nil {
		return nil, err
	}
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.GetInstanceResponse{Instance: v.show(&rec), DestructionCertificate: rec.Certificate}, nil
}

// known returns the instance that has a name, or had it last.
func (s *Service) known(ctx context.Context, name string) (record, error) {
	rec, err := s.byName(ctx, name)
	if !errs.Is(err, errs.NotFound) {
		return rec, err
	}
	list, lerr := s.gone(ctx)
	if lerr != nil {
		return record{}, lerr
	}
	found := false
	for _, r := range list {
		if (r.Name == name || r.ID == name) && (!found || r.Purged.After(rec.Purged)) {
			rec, found = r, true
		}
	}
	if found {
		return rec, nil
	}
	return record{}, err
}

// audit writes what the server itself did, or what has no other entry.
func (s *Instances) audit(ctx context.Context, actor, action, name, result, message string) {
	_, err := s.cfg.Store.AppendAudit(ctx, store.AuditEntry{
		Time: s.cfg.Clock.Now(), Actor: actor, Action: action, Target: target(name), Result: result, Message: message,
	})
	if err != nil {
		s.cfg.Log.Error("could not write the audit log", "action", action, "instance", name, "error", err)
	}
}
