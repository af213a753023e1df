package instance

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
)

// createParams are all that a creation needs: defaults are filled in, so that a changed site changes nothing on the way.
type createParams struct {
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Node     string   `json:"node,omitempty"`
	Preprod  bool     `json:"preprod,omitempty"`
	Domains  []string `json:"domains,omitempty"`
	Company  string   `json:"company,omitempty"`
	Country  string   `json:"country"`
	Language string   `json:"language"`
	Timezone string   `json:"timezone"`
	Modules  []string `json:"modules,omitempty"`
	Limits   limits   `json:"limits"`
	Cold     bool     `json:"cold,omitempty"`
	Admin    string   `json:"admin"`
	AppImage string   `json:"app_image"`
	DBImage  string   `json:"db_image"`
}

const (
	// installLimit is how long an installation may take when its turn has come: an old disk, a cold cache, a cold install.
	installLimit = 10 * time.Minute
	// taskLimit is how long other work on an instance may take, taskStart how long its host has to begin.
	taskLimit, taskStart = 2 * time.Minute, 20 * time.Second
)

// keyID is where an operation keeps the id of its instance.
const keyID = "id"

// createKind makes an instance. Two deliveries are needed and no more: the installer needs the database on its host (one), and nobody
// must meet the installer, so that proxy and names come when it is done (the other, which tells host, proxy and name server together:
// they are of one wave and work at the same time). There is no pause between steps: each begins when the one before has ended. The last
// three prove from inside to outside: the front of the host, the name servers, the proxy as a browser meets it.
func (s *Instances) createKind() operation.Kind {
	return operation.Kind{Name: "instance.create", Steps: func(params json.RawMessage) ([]operation.Step, error) {
		var p createParams
		if err := decode(params, &p); err != nil {
			return nil, err
		}
		away, delivery := s.retry(s.cfg.Patience.Away), s.retry(s.cfg.Patience.Delivery)
		public := s.inPublic(s.mine, true)
		return []operation.Step{
			{Name: "place", Do: s.doPlace(&p), Undo: s.undoPlace, Retry: s.retry(1)},
			{Name: "secrets", Do: s.doSecrets, Undo: s.undoSecrets, Retry: away},
			{Name: "host", Do: s.doHost, Undo: s.undoHost, Retry: delivery},
			{Name: "install", Do: s.doInstall(&p), Retry: away},
			{Name: "open", Do: s.doOpen, Retry: delivery},
			{Name: "probe", Do: s.doProbe, Retry: away},
			public[0], s.made(public[1]),
		}, nil
	}}
}

// decode reads parameters strictly.
func decode(params json.RawMessage, into any) error {
	dec := json.NewDecoder(strings.NewReader(string(params)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return errs.New(errs.Invalid, "the parameters of the operation cannot be read: %w", err)
	}
	return nil
}

func (s *Instances) retry(attempts int) operation.Retry {
	return operation.Retry{Min: s.cfg.Patience.Min, Max: s.cfg.Patience.Max, Attempts: attempts}
}

// doPlace chooses a host and a network, and takes the name.
func (s *Instances) doPlace(p *createParams) func(context.Context, *operation.Run) error {
	return func(ctx context.Context, run *operation.Run) error {
		id, err := s.operationID(ctx, run)
		if err != nil {
			return err
		}
		s.placing.Lock()
		defer s.placing.Unlock()
		if rec, err := s.get(ctx, id); err == nil {
			run.Say("on %s, network %s", rec.Node, rec.Subnet)
			return nil // a server that stopped in between had placed it
		} else if !errs.Is(err, errs.NotFound) {
			return err
		}
		list, err := s.all(ctx)
		if err != nil {
			return err
		}
		where, _, err := s.sites.Load(ctx, 0)
		if err != nil {
			return err
		}
		if err := clash(where, p.Name, p.Domains, list, ""); err != nil {
			return err
		}
		hosts, err := s.hosts(ctx, where, p.Node, p.Preprod, list)
		if err != nil {
			return err
		}
		rec := record{ID: id, Name: p.Name, Preprod: p.Preprod, Version: p.Version, AppImage: p.AppImage, DBImage: p.DBImage,
			Domains: p.Domains, Limits: p.Limits, Timezone: p.Timezone, Language: p.Language, Company: p.Company, Country: p.Country,
			Cron: true, Admin: p.Admin, Modules: p.Modules, Created: s.cfg.Clock.Now().UTC(), Operator: run.Operator(), Operation: run.ID()}
		if rec.Node, err = choose(hosts, p.Limits.Memory); err != nil {
			return final(err)
		}
		if rec.Subnet, err = freeSubnet(where.InstancePool(), list, s.seenSubnets()); err != nil {
			return final(err)
		}
		run.Say("on %s, network %s", rec.Node, rec.Subnet)
		err = s.add(ctx, rec)
		if errs.Is(err, errs.Exists) {
			return taken(p.Name)
		}
		return err
	}
}

// operationID returns the id of the instance that an operation makes. It is stored before anything of the instance exists.
func (s *Instances) operationID(ctx context.Context, run *operation.Run) (string, error) {
	var id string
	if ok, err := run.Get(keyID, &id); ok || err != nil {
		return id, err
	}
	for {
		id = newID()
		// Destroyed instances count, so that an id never means two of them.
		_, err := s.records.Get(ctx, id)
		_, gone := s.purged.Get(ctx, id)
		if errs.Is(err, errs.NotFound) && errs.Is(gone, errs.NotFound) {
			return id, run.Set(ctx, keyID, id)
		}
		if err != nil && !errs.Is(err, errs.NotFound) {
			return "", err
		}
	}
}

// mine returns the record of the instance that an operation is about.
func (s *Instances) mine(ctx context.Context, run *operation.Run) (record, error) {
	var id string
	if ok, err := run.Get(keyID, &id); !ok || err != nil {
		return record{}, errs.Join(err, errs.New(errs.Internal, "the operation has no instance"))
	}
	return s.get(ctx, id)
}

// clash refuses a name or a domain that another instance has.
func clash(where *site.Site, name string, domains []string, list []record, self string) error {
	for i := range list {
		r := &list[i]
		if r.ID == self {
			continue
		}
		if strings.EqualFold(r.Name, name) {
			return taken(r.Name)
		}
		for _, d := range domains {
			if slices.Contains(r.Domains, d) || d == where.InstanceDomain(r.Name) {
				return errs.New(errs.Exists, "instance %s has the name %s", r.Name, d).WithHint("infractl instance show %s", r.Name)
			}
		}
	}
	return nil
}

func taken(name string) error {
	return errs.New(errs.Exists, "there is an instance %s already", name).WithHint("infractl instance show %s", name)
}

// final makes a failure of what would otherwise be waited out.
func final(err error) error {
	if errs.Is(err, errs.Exhausted) {
		return errs.New(errs.Precondition, "%s", err.Error()).WithHint("%s", errs.HintOf(err))
	}
	return err
}

func (s *Instances) undoPlace(ctx context.Context, run *operation.Run) error {
	var id string
	if ok, err := run.Get(keyID, &id); !ok || err != nil {
		return err
	}
	return s.release(ctx, id, nil)
}

func (s *Instances) doSecrets(ctx context.Context, run *operation.Run) error {
	rec, err := s.mine(ctx, run)
	if err != nil {
		return err
	}
	versions := map[string]string{}
	for _, name := range secretNames() {
		if versions[name], err = s.secrets.Make(ctx, site.SecretName(rec.ID, name), run.Operator()); err != nil {
			return err
		}
	}
	_, err = s.update(ctx, rec.ID, func(r *record) error { r.Secrets = versions; return nil })
	return err
}

func (s *Instances) undoSecrets(ctx context.Context, run *operation.Run) error {
	var id string
	if ok, err := run.Get(keyID, &id); !ok || err != nil {
		return err
	}
	return s.forget(ctx, id)
}

// forget removes the secrets of an instance.
func (s *Instances) forget(ctx context.Context, id string) error {
	var list []string
	for _, name := range secretNames() {
		list = append(list, site.SecretName(id, name))
	}
	return s.secrets.Forget(ctx, list...)
}

// setMode changes what an instance should be.
func (s *Instances) setMode(ctx context.Context, id string, mode v1.InstanceMode) (record, error) {
	return s.update(ctx, id, func(r *record) error { r.Mode = mode; return nil })
}

// doHost brings the instance to its host, closed: network, database, no way in.
func (s *Instances) doHost(ctx context.Context, run *operation.Run) error {
	rec, err := s.mine(ctx, run)
	if err != nil {
		return err
	}
	if err := s.turn(ctx, run, &rec); err != nil {
		return err
	}
	if rec, err = s.setMode(ctx, rec.ID, closed); err != nil {
		return err
	}
	problems, err := s.bring(ctx, run, "instance "+rec.Name+" is being made", []string{rec.Node})
	if err != nil {
		return err
	}
	return s.blame(ctx, &rec, problems)
}

// undoHost takes it from its host: first out of the wish, so that nothing puts back what goes, then all that is there of it.
func (s *Instances) undoHost(ctx context.Context, run *operation.Run) error {
	s.turns.end(run.ID())
	rec, err := s.mine(ctx, run)
	if err != nil {
		return err
	}
	if _, err = s.setMode(ctx, rec.ID, withdrawn); err != nil {
		return err
	}
	// A delivery that is refused because the site's own rollout must be settled first was refused before, too: the host never heard of it.
	_, err = s.bring(ctx, run, "instance "+rec.Name+" is not made after all", []string{rec.Node})
	if err != nil && !errs.Is(err, errs.Precondition) {
		return err
	}
	if err := s.retract(ctx); err != nil { // it is tried again all the while
		s.cfg.Log.Warn("public records are not removed", "error", err)
	}
	_, err = s.purgeTask(ctx, run, &rec)
	return err
}

// instanceTask lets the host of an instance do something with it.
func (s *Instances) instanceTask(ctx context.Context, run *operation.Run, rec *record, task *v1.InstanceTask) (*v1.InstanceResult, error) {
	spec, err := s.specOf(ctx, rec)
	if err != nil {
		return nil, err
	}
	task.Instance = spec
	res, err := run.Task(ctx, rec.Node, &v1.Task{Work: &v1.Task_Instance{Instance: task}})
	if err != nil {
		return nil, final(err)
	}
	return res.GetInstance(), nil
}

// specOf is what a host is told of an instance, whether it is to have it or not.
func (s *Instances) specOf(ctx context.Context, rec *record) (*v1.InstanceSpec, error) {
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil {
		return nil, err
	}
	res, err := s.sites.Present(ctx)
	if err != nil {
		return nil, err
	}
	r := rec.resource()
	return where.InstanceSpec(&r, res), nil
}

func (s *Instances) purgeTask(ctx context.Context, run *operation.Run, rec *record) ([]string, error) {
	res, err := s.instanceTask(ctx, run, rec, &v1.InstanceTask{Action: &v1.InstanceTask_Purge{Purge: &v1.PurgeInstance{}}})
	return res.GetRemoved(), err
}

// doInstall installs Dolibarr: a copy of the warm template where there is one.
func (s *Instances) doInstall(p *createParams) func(context.Context, *operation.Run) error {
	return func(ctx context.Context, run *operation.Run) error {
		rec, err := s.mine(ctx, run)
		if err != nil {
			return err
		}
		if err := s.turn(ctx, run, &rec); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, installLimit)
		defer cancel()
		res, err := s.instanceTask(ctx, run, &rec, &v1.InstanceTask{Action: &v1.InstanceTask_Install{Install: &v1.InstallInstance{
			FromTemplate: !p.Cold, Modules: p.Modules, Company: p.Company, Country: p.Country}}})
		if err != nil {
			return err
		}
		if err := rightVersion(res, &rec, "the installed Dolibarr"); err != nil {
			return err
		}
		way := "installed"
		if res.GetFromTemplate() {
			way = "copied from the template"
		} else if err := s.noTemplate(ctx, &rec, p.Cold); err != nil {
			return err
		}
		var parts []string
		for _, step := range res.GetSteps() {
			parts = append(parts, fmt.Sprintf("%s %.1f s", step.GetName(), step.GetTook().AsDuration().Seconds()))
		}
		run.Say("%s: %s", way, strings.Join(parts, ", "))
		return nil
	}
}

// rightVersion refuses another version than the one that was asked for.
func rightVersion(res *v1.InstanceResult, rec *record, what string) error {
	if got := res.GetVersion(); got != rec.Version {
		return errs.New(errs.Precondition, "%s says that it is version %.20q, not %s", what, got, rec.Version).At("node "+rec.Node).
			WithHint("the image %s is not what its tag says: infractl image build dolibarr --version %s", rec.AppImage, rec.Version)
	}
	return nil
}

// turn waits until an instance may be made on its host; an operation that another server has begun takes its turn when it goes on.
func (s *Instances) turn(ctx context.Context, run *operation.Run, rec *record) error {
	return s.turns.take(ctx, run.ID(), rec.Node, s.capacity(ctx, rec.Node).cores, func() { run.Say("waits for other creations on %s", rec.Node) })
}

// doOpen lets the world in: host, proxy and names at once.
func (s *Instances) doOpen(ctx context.Context, run *operation.Run) error {
	rec, err := s.mine(ctx, run)
	if err != nil {
		return err
	}
	if rec, err = s.setMode(ctx, rec.ID, running); err != nil {
		return err
	}
	gates, err := s.gates(ctx)
	if err != nil {
		return err
	}
	published := s.publish(ctx)
	problems, err := s.bring(ctx, run, "instance "+rec.Name+" is opened", append(gates, rec.Node))
	published()
	if err != nil {
		return err
	}
	return s.blame(ctx, &rec, problems)
}

// doProbe asks for the login page as the proxy would.
func (s *Instances) doProbe(ctx context.Context, run *operation.Run) error {
	rec, err := s.mine(ctx, run)
	if err != nil {
		return err
	}
	if err := s.probe(ctx, run, &rec); err != nil {
		return err
	}
	s.turns.end(run.ID()) // what is left to prove is no work of the host
	return nil
}

// made ends a creation with a step: what failed before leaves nothing.
func (s *Instances) made(step operation.Step) operation.Step {
	do := step.Do
	step.Do = func(ctx context.Context, run *operation.Run) error {
		if err := do(ctx, run); err != nil {
			return err
		}
		rec, err := s.mine(ctx, run)
		if err != nil {
			return err
		}
		_, err = s.update(ctx, rec.ID, func(r *record) error { r.Made = true; return nil })
		return err
	}
	return step
}

func (s *Instances) probe(ctx context.Context, run *operation.Run, rec *record) error {
	ctx, cancel := context.WithTimeout(ctx, taskLimit)
	defer cancel()
	res, err := s.instanceTask(ctx, run, rec, &v1.InstanceTask{Action: &v1.InstanceTask_Probe{Probe: &v1.ProbeInstance{}}})
	if err != nil {
		return err
	}
	run.Say("the login page says %s", res.GetVersion())
	if rec.Adopted != nil {
		return s.learn(ctx, rec, res.GetVersion())
	}
	return rightVersion(res, rec, "the login page")
}
