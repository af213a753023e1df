package instance

import (
	"context"
	"encoding/json"
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
		c.Problems, c.Ready = judged(where, c, all)
		out = append(out, c)
	}
	return out, nil
}

// judged says what a person must look at before something is adopted, and whether it can be.
func judged(where *site.Site, c *v1.ImportCandidate, all []record) (problems []string, ok bool) {
	ok = true
	stop := func(why string) { problems, ok = append(problems, why), false }
	if err := checkName(where, c.GetName()); err != nil {
		stop(err.Error())
	}
	if slices.ContainsFunc(all, func(r record) bool { return strings.EqualFold(r.Name, c.GetName()) }) {
		stop("there is an instance of that name already")
	}
	has := func(name string) bool {
		return slices.ContainsFunc(c.GetParts(), func(f *v1.FoundInstance) bool { return f.GetKind() == "container" && f.GetName() == name })
	}
	for _, part := range []string{"_dolibarr", "_mariadb"} {
		if !has(c.GetName() + part) {
			stop("container " + c.GetName() + part + " is missing")
		}
	}
	if !site.IsDolibarrVersion(c.GetVersion()) {
		problems = append(problems, "its exact version is not known: the original scripts record the major number alone")
	}
	problems = append(problems, "the reverse proxy's password is in its .env: give the proxy a new one",
		"database and administrator have the same password, and conf.php says utf8mb3: both must change before an upgrade to 19")
	return problems, ok
}

// importKind adopts what was made by the original scripts: it is known, listed, counted for placement and audited. Its containers, networks
// and data stay exactly as they are.
func (s *Instances) importKind() operation.Kind {
	return operation.Kind{Name: "instance.import", Steps: func(params json.RawMessage) ([]operation.Step, error) {
		var p importParams
		if err := decode(params, &p); err != nil {
			return nil, err
		}
		var steps []operation.Step
		for _, name := range p.Names {
			steps = append(steps, operation.Step{Name: "adopt " + name, Node: p.Node, Retry: s.retry(s.cfg.Patience.Away),
				Do:   func(ctx context.Context, run *operation.Run) error { return s.adopt(ctx, run, p.Node, name) },
				Undo: func(ctx context.Context, run *operation.Run) error { return s.unadopt(ctx, run, name) }})
		}
		return steps, nil
	}}
}

func (s *Instances) adopt(ctx context.Context, run *operation.Run, node, name string) error {
	key := keyID + " " + name
	var id string
	if ok, err := run.Get(key, &id); err != nil {
		return err
	} else if !ok {
		id = newID()
		if err := run.Set(ctx, key, id); err != nil {
			return err
		}
	}
	if _, err := s.get(ctx, id); err == nil || !errs.Is(err, errs.NotFound) {
		return err
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
	now := s.cfg.Clock.Now().UTC()
	rec := record{ID: id, Name: name, Node: node, Preprod: slices.Contains(where.InstanceNodes(true), node), Mode: running, Made: true,
		Imported: true, Version: c.GetVersion(), Limits: limits{Memory: d.MemoryBytes, MilliCPU: d.MilliCPUs, PIDs: d.PIDs, Disk: d.DiskBytes},
		Timezone: d.Timezone,
		Language: d.Language, Country: "FR", Admin: "InfraS", Created: now, Operator: run.Operator(), Operation: run.ID()}
	err = s.add(ctx, rec)
	if errs.Is(err, errs.Exists) {
		return taken(name)
	}
	return err
}

func (s *Instances) unadopt(ctx context.Context, run *operation.Run, name string) error {
	var id string
	if ok, err := run.Get(keyID+" "+name, &id); !ok || err != nil {
		return err
	}
	return s.release(ctx, id, nil)
}
