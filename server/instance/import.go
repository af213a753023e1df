package instance

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/operation"
)

// importParams name what to adopt.
type importParams struct {
	Node  string   `json:"node"`
	Names []string `json:"names"`
}

// ImportInstances implements v1.InstanceServiceServer.
func (s *Service) ImportInstances(ctx context.Context, req *v1.ImportInstancesRequest) (*v1.ImportInstancesResponse, error) {
	const most = 100
	where, err := s.site(ctx)
	if err != nil {
		return nil, err
	}
	nodes := slices.Concat(where.InstanceNodes(false), where.InstanceNodes(true))
	if !slices.Contains(nodes, req.GetNode()) {
		return nil, errs.New(errs.Invalid, "node %.64q carries no instances", req.GetNode()).
			WithHint("add it to the dolibarr section of the site file, and apply it")
	}
	list, err := s.candidates(ctx, where, req.GetNode())
	if err != nil {
		return nil, err
	}
	out := &v1.ImportInstancesResponse{Candidates: list}
	if len(req.GetNames()) == 0 {
		return out, nil
	}
	if len(req.GetNames()) > most {
		return nil, errs.New(errs.Invalid, "%d instances at once are more than %d", len(req.GetNames()), most)
	}
	res, err := s.sites.Present(ctx)
	if err != nil {
		return nil, err
	}
	if image := where.FrontImage(res); site.MissingImage(image) {
		return nil, errs.New(errs.Precondition, "there is no image %s, of which the front is made that answers for instances", image.GetUse()).
			WithHint("infractl image build front --push")
	}
	names := slices.Compact(slices.Sorted(slices.Values(req.GetNames())))
	for _, name := range names {
		if _, err := ready(list, name, req.GetNode()); err != nil {
			return nil, err
		}
	}
	op, err := s.engine.Start(ctx, operation.StartRequest{Kind: "instance.import", Target: "import/" + req.GetNode(),
		Params: importParams{req.GetNode(), names}, Operator: access.CallerFrom(ctx).Actor})
	if err != nil {
		return nil, err
	}
	out.OperationId = op.GetId()
	return out, nil
}

// ready returns a candidate that can be adopted.
func ready(list []*v1.ImportCandidate, name, node string) (*v1.ImportCandidate, error) {
	for _, c := range list {
		if c.GetName() != name {
			continue
		}
		if !c.GetReady() {
			return nil, errs.New(errs.Precondition, "%s on %s cannot be adopted: %s", name, node, strings.Join(c.GetProblems(), "; ")).
				WithHint("infractl instance import %s", node)
		}
		return c, nil
	}
	return nil, errs.New(errs.NotFound, "%s has nothing that looks like an instance %.60q", node, name).
		WithHint("infractl instance import %s", node)
}

// candidates looks on a host for what the original scripts made: NAME_dolibarr, NAME_mariadb, NAME_network, and the folder with its .env.
func (s *Instances) candidates(ctx context.Context, where *site.Site, node string) ([]*v1.ImportCandidate, error) {
	found, err := s.inventory(ctx, node)
	if err != nil {
		return nil, err
	}
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	byName := map[string]*v1.ImportCandidate{}
	for _, f := range found {
		if f.GetId() != "" || f.GetInstance() == "" {
			continue
		}
		c := byName[f.GetInstance()]
		if c == nil {
			c = &v1.ImportCandidate{Name: f.GetInstance()}
			byName[c.Name] = c
		}
		c.Parts = append(c.Parts, f)
		if f.GetVersion() != "" {
			c.Version = f.GetVersion()
		}
	}
	var out []*v1.ImportCandidate
	for _, name := range sortedKeys(byName) {
		c := byName[name]
		judge(where, c, all)
		out = append(out, c)
	}
	return out, nil
}

// judge says of a candidate what a person must look at, whether it can be adopted, and what that does.
func judge(where *site.Site, c *v1.ImportCandidate, all []record) {
	name := c.GetName()
	note := func(format string, args ...any) { c.Problems = append(c.Problems, fmt.Sprintf(format, args...)) }
	c.Ready = true
	stop := func(format string, args ...any) { note(format, args...); c.Ready = false }
	if err := checkName(where, name); err != nil {
		stop("%s", err)
	}
	if slices.ContainsFunc(all, func(r record) bool { return strings.EqualFold(r.Name, name) }) {
		stop("there is an instance of that name already")
	}
	a := partsOf(c)
	app, db := part(c, "container", a.App), part(c, "container", a.DB)
	for container, f := range map[string]*v1.FoundInstance{a.App: app, a.DB: db} {
		if f == nil {
			stop("container %s is missing", container)
		}
	}
	if app != nil && db != nil && runs(app) != runs(db) {
		stop("%s is %s and %s is %s: start both, or stop both", a.App, app.GetState(), a.DB, db.GetState())
	}
	if part(c, "network", a.Network) == nil {
		stop("network %s is missing", a.Network)
	} else if app != nil && !slices.Contains(strings.Fields(app.GetDetails()["networks"]), a.Network) {
		stop("%s is not in %s, and the front would not reach it: docker network connect %s %s", a.App, a.Network, a.Network, a.App)
	}
	c.Problems = append(c.Problems, judgeData(c, a)...)
	if slices.ContainsFunc(c.GetParts(), func(f *v1.FoundInstance) bool { return f.GetDetails()["elsewhere"] != "" }) {
		c.Ready = false
	}
	slices.Sort(c.Problems)
	if c.Ready {
		note("if the reverse proxy has a host for %s that infractl did not make, remove or rename that one by hand: until then it goes on answering the name "+
			"past the front, and users of a suspended instance see its error instead of a page", where.InstanceDomain(name))
		note("the reverse proxy's password is in its .env: give the proxy a new one")
		note("database and administrator have the same password: infractl instance password %s gives the administrator another one", name)
		note("conf.php says utf8mb3, which must change before an upgrade to 19")
		note("its network is not of the site's pool: it may reach what other containers of its host may")
		c.Plan = planOf(where, c, a)
	}
}

// judgeData says what of a candidate's data is not where it should be.
func judgeData(c *v1.ImportCandidate, a *adopted) (problems []string) {
	for _, f := range c.GetParts() {
		switch {
		case f.GetKind() == "folder" && f.GetDetails()["elsewhere"] != "":
			problems = append(problems, fmt.Sprintf("its folder %s is in none of %s, and could not be told from others later: move it there",
				f.GetName(), f.GetDetails()["elsewhere"]))
		case f.GetKind() == "volume" && f.GetDetails()["mounted"] == "":
			problems = append(problems, fmt.Sprintf("volume %s is called like one of its, and is in none of its containers: it is left alone", f.GetName()))
		}
		for _, dir := range strings.Fields(f.GetDetails()["writes"]) {
			if a.Folder == "" || dir != a.Folder && !strings.HasPrefix(dir, a.Folder+"/") {
				problems = append(problems, fmt.Sprintf("%s writes into %s, which is not in its folder: a purge waits until that is removed by hand", f.GetName(), dir))
			}
		}
	}
	return problems
}

// planOf says what an adoption does.
func planOf(where *site.Site, c *v1.ImportCandidate, a *adopted) []string {
	domain := where.InstanceDomain(c.GetName())
	out := []string{
		fmt.Sprintf("adopt: %s, %s, %s, as they are: none is made, changed or restarted", a.App, a.DB, a.Network),
		fmt.Sprintf("take up: the front of its host joins %s; %s at the proxy and in the DNS", a.Network, domain),
		"look: the login page says its exact version",
	}
	if !runs(part(c, "container", a.App)) {
		out[2] = "it does not run: it is adopted as a suspended one, and says its exact version when it is resumed"
	}
	return out
}

// partsOf names what is adopted of a candidate.
func partsOf(c *v1.ImportCandidate) *adopted {
	name := c.GetName()
	a := &adopted{App: name + "_dolibarr", DB: name + "_mariadb", Network: name + "_network"}
	for _, f := range c.GetParts() {
		switch {
		case f.GetKind() == "folder":
			a.Folder = f.GetName()
		case f.GetKind() == "volume" && f.GetDetails()["mounted"] != "":
			a.Volumes = append(a.Volumes, f.GetName())
		}
	}
	return a
}

func part(c *v1.ImportCandidate, kind, name string) *v1.FoundInstance {
	for _, f := range c.GetParts() {
		if f.GetKind() == kind && f.GetName() == name {
			return f
		}
	}
	return nil
}

func runs(f *v1.FoundInstance) bool { return f.GetState() == "running" || f.GetState() == "unhealthy" }

// importKind adopts what was made by the original scripts: it is an instance like others from then on, but that its containers, networks
// and data stay exactly as they are.
func (s *Instances) importKind() operation.Kind {
	return operation.Kind{Name: "instance.import", Steps: func(params json.RawMessage) ([]operation.Step, error) {
		var p importParams
		if err := decode(params, &p); err != nil {
			return nil, err
		}
		var steps, looks []operation.Step
		for _, name := range p.Names {
			steps = append(steps, operation.Step{Name: "adopt " + name, Node: p.Node, Retry: s.retry(s.cfg.Patience.Away),
				Do:   func(ctx context.Context, run *operation.Run) error { return s.adopt(ctx, run, p.Node, name) },
				Undo: func(ctx context.Context, run *operation.Run) error { return s.unadopt(ctx, run, name) }})
			looks = append(looks, operation.Step{Name: "look " + name, Node: p.Node, Retry: s.retry(s.cfg.Patience.Delivery),
				Do: func(ctx context.Context, run *operation.Run) error { return s.lookAt(ctx, run, name) }})
		}
		steps = append(steps, operation.Step{Name: "take up", Node: p.Node, Retry: s.retry(s.cfg.Patience.Delivery),
			Do:   func(ctx context.Context, run *operation.Run) error { return s.takeUp(ctx, run, &p) },
			Undo: func(ctx context.Context, run *operation.Run) error { return s.letGo(ctx, run, &p) }})
		return append(steps, looks...), nil
	}}
}

// importNote is what an import keeps of an instance: its id, and whether it runs.
type importNote struct {
	ID   string          `json:"id"`
	Mode v1.InstanceMode `json:"mode"`
}

func (s *Instances) noted(run *operation.Run, name string) (note importNote, ok bool, err error) {
	ok, err = run.Get(keyID+" "+name, &note)
	return note, ok, err
}

// adopt writes an instance down; no host hears of it yet.
func (s *Instances) adopt(ctx context.Context, run *operation.Run, node, name string) error {
	note, ok, err := s.noted(run, name)
	if err != nil {
		return err
	}
	if ok {
		if _, err := s.get(ctx, note.ID); err == nil || !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil {
		return err
	}
	list, err := s.candidates(ctx, where, node)
	if err != nil {
		return err
	}
	c, err := ready(list, name, node)
	if err != nil {
		return err
	}
	d := where.InstanceDefaults()
	a := partsOf(c)
	a.Memory = d.MemoryBytes
	if !ok {
		note = importNote{ID: newID(), Mode: running}
	}
	if !runs(part(c, "container", a.App)) {
		note.Mode = suspended
	}
	if err := run.Set(ctx, keyID+" "+name, note); err != nil {
		return err
	}
	now := s.cfg.Clock.Now().UTC()
	rec := record{ID: note.ID, Name: name, Node: node, Preprod: slices.Contains(where.InstanceNodes(true), node), Adopted: a, Version: c.GetVersion(),
		Timezone: d.Timezone, Language: d.Language, Country: "FR", Admin: cmp.Or(adminOf(c), "InfraS"), Shown: true, Created: now, Operator: run.Operator(),
		Operation: run.ID()}
	err = s.add(ctx, rec)
	if errs.Is(err, errs.Exists) {
		return taken(name)
	}
	return err
}

func adminOf(c *v1.ImportCandidate) string {
	for _, f := range c.GetParts() {
		if login := f.GetDetails()["admin"]; f.GetKind() == "folder" && loginForm.MatchString(login) {
			return login
		}
	}
	return ""
}

func (s *Instances) unadopt(ctx context.Context, run *operation.Run, name string) error {
	note, ok, err := s.noted(run, name)
	if !ok || err != nil {
		return err
	}
	return s.release(ctx, note.ID, nil)
}

// takeUp brings adopted instances to their host and the gates. That the proxy serves a name by a host that is not ours is said, and stops
// nothing: it is served as it was.
func (s *Instances) takeUp(ctx context.Context, run *operation.Run, p *importParams) error {
	var list []record
	for _, name := range p.Names {
		note, _, err := s.noted(run, name)
		if err != nil {
			return err
		}
		rec, err := s.update(ctx, note.ID, func(r *record) error {
			if r.Mode = note.Mode; r.Mode == suspended && r.Suspended.IsZero() {
				r.Suspended = s.cfg.Clock.Now().UTC()
			}
			return nil
		})
		if err != nil {
			return err
		}
		list = append(list, rec)
	}
	gates, err := s.gates(ctx)
	if err != nil {
		return err
	}
	problems, err := s.bring(ctx, run, "adopted instances: "+strings.Join(p.Names, ", "), append(gates, p.Node))
	if err != nil {
		return err
	}
	atHost := map[string]string{}
	if text := problems[p.Node]; text != "" {
		atHost[p.Node] = text
	}
	for i := range list {
		if err := s.blame(ctx, &list[i], atHost); err != nil {
			return err
		}
		if err := s.blame(ctx, &list[i], problems); err != nil {
			run.Say("not as it should be: %s (%s)", err, errs.HintOf(err))
		}
	}
	return nil
}

// letGo takes the wish away. Nobody is waited for: what is there of them stays as it is, with the front or without it.
func (s *Instances) letGo(ctx context.Context, run *operation.Run, p *importParams) error {
	for _, name := range p.Names {
		note, ok, err := s.noted(run, name)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if _, err := s.setMode(ctx, note.ID, withdrawn); err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	_, err := s.rollouts.Deliver(ctx, run.Operator(), "instances are not adopted after all: "+strings.Join(p.Names, ", "))
	if errs.Is(err, errs.Precondition) {
		return nil // the site's rollout must be settled first; that brings it along
	}
	return err
}

// lookAt asks a running instance for its version, through the front, and says how the world reaches it.
func (s *Instances) lookAt(ctx context.Context, run *operation.Run, name string) error {
	note, _, err := s.noted(run, name)
	if err != nil {
		return err
	}
	rec, err := s.get(ctx, note.ID)
	if err != nil {
		return err
	}
	if rec.Mode == running {
		if err := s.probe(ctx, run, &rec); err != nil {
			return err
		}
		if rec, err = s.get(ctx, note.ID); err != nil {
			return err
		}
		if err := s.doTLS(ctx, run, &rec, laxWait); err != nil && ctx.Err() == nil {
			run.Say("not as it should be: %s (%s)", err, errs.HintOf(err))
		}
	}
	_, err = s.update(ctx, rec.ID, func(r *record) error { r.Made = true; return nil })
	return err
}
