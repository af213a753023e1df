package dolibarr

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Limits of tasks. An installation without warm template writes some 300 tables, which takes minutes on a slow disk.
const (
	installLimit = 10 * time.Minute
	workLimit    = 4 * time.Minute
	probeLimit   = 45 * time.Second
	// stopGrace is how long a database may take to end cleanly.
	stopGrace = time.Minute
)

// templateID is the id of the instance that a template is made of.
const templateID = "template"

// Do does something once with an instance; see v1.InstanceTask. It never works on an instance beside an apply, and may be asked again at any
// point: what is done already is found done. Errors: Invalid for a task that can't be, Precondition when the host is not as it must be,
// Conflict for an instance that is there in another version.
func (p *Provider) Do(ctx context.Context, task *v1.InstanceTask) (*v1.InstanceResult, error) {
	limit := workLimit
	switch task.GetAction().(type) {
	case *v1.InstanceTask_Install, *v1.InstanceTask_Template:
		limit = installLimit
	case *v1.InstanceTask_Probe:
		limit = probeLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, ok := task.GetAction().(*v1.InstanceTask_Inventory); ok {
		return p.inventory(ctx)
	}
	if _, ok := task.GetAction().(*v1.InstanceTask_Template); ok {
		return p.makeTemplate(ctx, task.GetInstance())
	}
	if _, ok := task.GetAction().(*v1.InstanceTask_DropTemplate); ok {
		return p.dropTemplates(task.GetInstance().GetVersion())
	}
	inst := task.GetInstance()
	if !idForm.MatchString(inst.GetId()) || inst.GetId() == templateID {
		return nil, errs.New(errs.Invalid, "%.60q is no id of an instance", inst.GetId())
	}
	out, err := p.doOn(ctx, task, inst)
	return out, errs.Wrap("instance "+inst.GetName(), err)
}

func (p *Provider) doOn(ctx context.Context, task *v1.InstanceTask, inst *v1.InstanceSpec) (*v1.InstanceResult, error) {
	if _, ok := task.GetAction().(*v1.InstanceTask_Probe); ok {
		return p.probe(ctx, inst)
	}
	defer p.lock(inst.GetId())()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.working.Store(inst.GetId(), true)
	defer p.working.Delete(inst.GetId())
	if inst.GetAdopted() != nil {
		return p.doOnAdopted(ctx, task, inst)
	}
	switch a := task.GetAction().(type) {
	case *v1.InstanceTask_Install:
		return p.install(ctx, inst, a.Install)
	case *v1.InstanceTask_Password:
		return p.password(ctx, inst)
	case *v1.InstanceTask_Modules:
		return p.modules(ctx, inst, a.Modules)
	case *v1.InstanceTask_Purge:
		return p.purge(ctx, inst.GetId())
	}
	return nil, errs.New(errs.Invalid, "this agent does not know such a task for an instance").
		WithHint("upgrade the agent of this host to the server's version")
}

// steps are the parts of the work, in the order in which they ended.
type steps struct {
	mu   sync.Mutex
	list []*v1.InstanceStep
}

func (s *steps) add(name string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, &v1.InstanceStep{Name: name, Took: durationpb.New(took.Round(time.Millisecond))})
}

// do does one part and notes how long it took.
func (s *steps) do(name string, part func() error) error {
	started := time.Now()
	if err := part(); err != nil {
		return errs.Wrap(name, err)
	}
	s.add(name, time.Since(started))
	return nil
}

// all does parts at the same time and returns all their errors.
func all(parts ...func() error) error {
	failed := make([]error, len(parts))
	var group sync.WaitGroup
	for i, part := range parts {
		group.Go(func() { failed[i] = part() })
	}
	group.Wait()
	return errs.Join(failed...)
}

// password sets the administrator's password to the secret's value.
func (p *Provider) password(ctx context.Context, inst *v1.InstanceSpec) (*v1.InstanceResult, error) {
	t := &steps{}
	answer, err := p.single(ctx, t, inst, dolibarr.VerbPassword, dolibarr.PasswordInput{AdminLogin: inst.GetAdminLogin()})
	return &v1.InstanceResult{Version: answer.Version, Steps: t.list}, err
}

// modules turns modules on and off.
func (p *Provider) modules(ctx context.Context, inst *v1.InstanceSpec, a *v1.ModulesInstance) (*v1.InstanceResult, error) {
	t := &steps{}
	answer, err := p.single(ctx, t, inst, dolibarr.VerbModules, dolibarr.ModulesInput{Enable: a.GetEnable(), Disable: a.GetDisable()})
	return &v1.InstanceResult{Version: answer.Version, Modules: answer.Modules, Steps: t.list}, err
}

// single runs one verb beside an instance whose database runs, with the secrets of the task's versions.
func (p *Provider) single(ctx context.Context, t *steps, inst *v1.InstanceSpec, verb string, input any) (dolibarr.Answer, error) {
	if _, err := p.database(ctx, inst.GetId()); err != nil {
		return dolibarr.Answer{}, err
	}
	if err := t.do("secrets", func() error { return p.writeSecrets(ctx, inst) }); err != nil {
		return dolibarr.Answer{}, err
	}
	if err := p.writeTool(ctx, inst); err != nil {
		return dolibarr.Answer{}, err
	}
	var tool string
	if err := t.do("tool", func() (err error) { tool, err = p.startTool(ctx, inst, verb, false); return err }); err != nil {
		return dolibarr.Answer{}, err
	}
	defer p.dropTool(ctx, tool)
	return p.verb(ctx, t, tool, verb, input)
}

// database is the container of an instance's database, which must run.
func (p *Provider) database(ctx context.Context, id string) (container string, err error) {
	list, err := p.engine.Containers(ctx, LabelID+"="+id, LabelPart+"=db")
	if err != nil {
		return "", err
	}
	for _, c := range list {
		if c.State == "running" {
			return c.ID, nil
		}
	}
	return "", errs.New(errs.Precondition, "its database does not run").WithHint("resume it first; infractl apply brings a dead one back")
}

// checkInstallable refuses what could not be installed whole.
func checkInstallable(inst *v1.InstanceSpec) error {
	switch {
	case inst.GetAppImage().GetUse() == "" || inst.GetDbImage().GetUse() == "":
		return errs.New(errs.Invalid, "it names no images")
	case mainDomain(inst) == "" || !domainForm.MatchString(mainDomain(inst)):
		return errs.New(errs.Invalid, "%.80q is no domain of an instance", mainDomain(inst))
	}
	if _, err := dolibarr.ParseVersion(inst.GetVersion()); err != nil {
		return err
	}
	if !loginForm.MatchString(adminLogin(inst)) {
		return errs.New(errs.Invalid, "%.60q is no login of an administrator", inst.GetAdminLogin())
	}
	return nil
}

func adminLogin(inst *v1.InstanceSpec) string {
	if inst.GetAdminLogin() == "" {
		return "admin"
	}
	return inst.GetAdminLogin()
}

// redacted takes secrets out of an error: what a program says of its input may hold a piece of it.
func redacted(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	if text == err.Error() {
		return err
	}
	return errs.New(errs.CodeOf(err), "%s", text).WithHint("%s", errs.HintOf(err))
}
