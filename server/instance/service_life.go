package instance

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/operation"
)

const (
	// keepDays is how long an archived instance is kept unless somebody says otherwise, maxKeepDays the longest.
	keepDays, maxKeepDays = 21, 365
)

// atRest returns an instance that was made, and that no operation works on.
func (s *Service) atRest(ctx context.Context, name string) (record, error) {
	rec, err := s.byName(ctx, name)
	if err != nil {
		return record{}, err
	}
	open, err := s.engine.Open(ctx)
	if err != nil {
		return record{}, err
	}
	for _, op := range open {
		if op.GetId() == rec.Operation || op.GetTarget() == target(rec.Name) {
			return record{}, errs.New(errs.Conflict, "operation %s works on instance %s", op.GetId(), name).
				WithHint("infractl operation watch %s", op.GetId())
		}
	}
	return rec, nil
}

// modeIs refuses an instance that is in none of these modes.
func modeIs(rec *record, hint string, modes ...v1.InstanceMode) error {
	switch {
	case !rec.Made && rec.Adopted != nil:
		return errs.New(errs.Precondition, "instance %s was never adopted to its end", rec.Name).
			WithHint("infractl instance delete %s --disown", rec.Name)
	case !rec.Made:
		return errs.New(errs.Precondition, "instance %s was never made to its end", rec.Name).
			WithHint("infractl instance purge %s --early", rec.Name)
	case !slices.Contains(modes, rec.Mode):
		word := strings.ToLower(strings.TrimPrefix(rec.Mode.String(), "INSTANCE_MODE_"))
		return errs.New(errs.Precondition, "instance %s is %s", rec.Name, word).WithHint("%s", hint)
	}
	return nil
}

// start begins an operation on an instance.
func (s *Service) start(ctx context.Context, kind string, rec *record, p lifeParams) (*v1.Instance, string, error) {
	p.ID = rec.ID
	op, err := s.engine.Start(ctx, operation.StartRequest{Kind: "instance." + kind, Target: target(rec.Name), Params: p,
		Operator: access.CallerFrom(ctx).Actor})
	if err != nil {
		return nil, "", err
	}
	now, err := s.noteOperation(ctx, *rec, op.GetId())
	if err != nil {
		return nil, "", err
	}
	v, err := s.look(ctx)
	if err != nil {
		return nil, "", err
	}
	return v.show(&now), op.GetId(), nil
}

// noteOperation puts into a record which operation works on it. One that destroys it may have ended before.
func (s *Instances) noteOperation(ctx context.Context, rec record, id string) (record, error) {
	now, err := s.update(ctx, rec.ID, func(r *record) error { r.Operation = id; return nil })
	if errs.Is(err, errs.NotFound) {
		rec.Operation = id
		return rec, nil
	}
	return now, err
}

// SuspendInstance implements v1.InstanceServiceServer.
func (s *Service) SuspendInstance(ctx context.Context, req *v1.SuspendInstanceRequest) (*v1.SuspendInstanceResponse, error) {
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := modeIs(&rec, "infractl instance show "+rec.Name, running, closed, withdrawn); err != nil {
		return nil, err
	}
	shown, id, err := s.start(ctx, "suspend", &rec, lifeParams{})
	return &v1.SuspendInstanceResponse{Instance: shown, OperationId: id}, err
}

// ResumeInstance implements v1.InstanceServiceServer.
func (s *Service) ResumeInstance(ctx context.Context, req *v1.ResumeInstanceRequest) (*v1.ResumeInstanceResponse, error) {
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := modeIs(&rec, "infractl instance restart "+rec.Name, suspended, archived, closed, withdrawn); err != nil {
		return nil, err
	}
	shown, id, err := s.start(ctx, "resume", &rec, lifeParams{})
	return &v1.ResumeInstanceResponse{Instance: shown, OperationId: id}, err
}

// RestartInstance implements v1.InstanceServiceServer.
func (s *Service) RestartInstance(ctx context.Context, req *v1.RestartInstanceRequest) (*v1.RestartInstanceResponse, error) {
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := modeIs(&rec, "infractl instance resume "+rec.Name, running); err != nil {
		return nil, err
	}
	shown, id, err := s.start(ctx, "restart", &rec, lifeParams{})
	return &v1.RestartInstanceResponse{Instance: shown, OperationId: id}, err
}

// ConfigureInstance implements v1.InstanceServiceServer.
func (s *Service) ConfigureInstance(ctx context.Context, req *v1.ConfigureInstanceRequest) (*v1.ConfigureInstanceResponse, error) {
	where, err := s.site(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := modeIs(&rec, "infractl instance show "+rec.Name, running, suspended, archived); err != nil {
		return nil, err
	}
	to, err := s.changed(ctx, where, &rec, req)
	if err != nil {
		return nil, err
	}
	shown, id, err := s.start(ctx, "configure", &rec, lifeParams{Settings: to})
	return &v1.ConfigureInstanceResponse{Instance: shown, OperationId: id}, err
}

// changed checks new settings and puts them over the present ones.
func (s *Service) changed(ctx context.Context, where *site.Site, rec *record, req *v1.ConfigureInstanceRequest) (*settings, error) {
	to := rec.settings()
	to.Limits = to.Limits.with(req.GetLimits())
	if req.GetCron() {
		if err := notAdopted(rec, "infractl makes no container for its scheduled jobs", "let its host's cron, or a service of your own, call Dolibarr's"); err != nil {
			return nil, err
		}
	}
	if req.GetLimits().GetDiskBytes() != 0 {
		if err := notAdopted(rec, "the disk space of what infractl did not make is not measured", "infractl instance limits "+rec.Name+" --memory, --cpus, --pids"); err != nil {
			return nil, err
		}
	}
	if req.Cron != nil {
		to.Cron = req.GetCron()
	}
	if req.GetLanguage() != "" {
		to.Language = req.GetLanguage()
	}
	add, err := checkDomains(where, req.GetAddDomains())
	if err != nil {
		return nil, err
	}
	for _, d := range req.GetRemoveDomains() {
		if d == where.InstanceDomain(rec.Name) {
			return nil, errs.New(errs.Invalid, "%s is the name that every instance has, it stays", d).
				WithHint("infractl instance rename %s NEW", rec.Name)
		}
		if !slices.Contains(to.Domains, d) {
			return nil, errs.New(errs.Invalid, "instance %s has no name %.260q", rec.Name, d).WithHint("infractl instance show %s", rec.Name)
		}
	}
	to.Domains = slices.DeleteFunc(to.Domains, func(d string) bool { return slices.Contains(req.GetRemoveDomains(), d) })
	for _, d := range add {
		if !slices.Contains(to.Domains, d) {
			to.Domains = append(to.Domains, d)
		}
	}
	if _, err := checkDomains(where, to.Domains); err != nil {
		return nil, err
	}
	list, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	limited := to.Limits
	if rec.Adopted != nil { // what nobody has set is nothing to check
		limited = defaultLimits(where).with(limited.toProto())
	}
	return &to, errs.Join(clash(where, "", add, list, rec.ID), checkLanguage(to.Language), limited.check(), s.grows(ctx, rec, to.Limits, list))
}

// grows refuses a memory limit for which the host has no room.
func (s *Service) grows(ctx context.Context, rec *record, to limits, list []record) error {
	if to.Memory <= rec.counted() {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(list), func(r record) bool { return r.ID == rec.ID })
	h := []host{s.measured(ctx, rec.Node)}
	count(h, others)
	_, err := choose(h, to.Memory)
	return err
}

// RenameInstance implements v1.InstanceServiceServer.
func (s *Service) RenameInstance(ctx context.Context, req *v1.RenameInstanceRequest) (*v1.RenameInstanceResponse, error) {
	where, err := s.site(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkName(where, req.GetNewName()); err != nil {
		return nil, err
	}
	if err := modeIs(&rec, "infractl instance show "+rec.Name, running, suspended, archived); err != nil {
		return nil, err
	}
	err = notAdopted(&rec, "its containers, network and folder carry its name", "infractl instance domains "+rec.Name+" --add NAME gives it a further one")
	if err != nil {
		return nil, err
	}
	list, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	if err := clash(where, req.GetNewName(), nil, list, ""); err != nil {
		return nil, err
	}
	shown, id, err := s.start(ctx, "rename", &rec, lifeParams{NewName: req.GetNewName()})
	return &v1.RenameInstanceResponse{Instance: shown, OperationId: id}, err
}

// DeleteInstance implements v1.InstanceServiceServer.
func (s *Service) DeleteInstance(ctx context.Context, req *v1.DeleteInstanceRequest) (*v1.DeleteInstanceResponse, error) {
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	days := uint32(keepDays)
	if req.KeepDays != nil {
		days = req.GetKeepDays()
	}
	if days > maxKeepDays {
		return nil, errs.New(errs.Invalid, "an archived instance is kept for 0 to %d days, not %d", maxKeepDays, days)
	}
	if req.GetDisown() {
		if rec.Adopted == nil {
			return nil, errs.New(errs.Precondition, "instance %s was made by infractl: nobody else would keep it", rec.Name).
				WithHint("infractl instance delete %s keeps its data for a while", rec.Name)
		}
		shown, id, err := s.start(ctx, "disown", &rec, lifeParams{})
		return &v1.DeleteInstanceResponse{Instance: shown, OperationId: id}, err
	}
	if err := modeIs(&rec, "infractl instance purge "+rec.Name, running, suspended, closed, withdrawn); err != nil {
		return nil, err
	}
	shown, id, err := s.start(ctx, "delete", &rec, lifeParams{PurgeAfter: s.cfg.Clock.Now().UTC().Add(time.Duration(days) * 24 * time.Hour)})
	return &v1.DeleteInstanceResponse{Instance: shown, OperationId: id}, err
}

// PurgeInstance implements v1.InstanceServiceServer.
func (s *Service) PurgeInstance(ctx context.Context, req *v1.PurgeInstanceRequest) (*v1.PurgeInstanceResponse, error) {
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if rec.Made || rec.Adopted != nil {
		if err := modeIs(&rec, "infractl instance delete "+rec.Name+" comes first", archived); err != nil {
			return nil, err
		}
	}
	if left := rec.PurgeAfter.Sub(s.cfg.Clock.Now()); rec.Made && left > 0 && !req.GetEarly() {
		return nil, errs.New(errs.Precondition, "instance %s is kept until %s", rec.Name, rec.PurgeAfter.Format(time.RFC3339)).
			WithHint("infractl instance purge %s --early destroys it now, for good", rec.Name)
	}
	_, id, err := s.start(ctx, "purge", &rec, lifeParams{})
	return &v1.PurgeInstanceResponse{OperationId: id}, err
}

// task lets a host do something with an instance, outside of an operation.
func (s *Instances) task(ctx context.Context, rec *record, limit time.Duration, task *v1.InstanceTask) (*v1.InstanceResult, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if task.GetInstance() == nil {
		spec, err := s.specOf(ctx, rec)
		if err != nil {
			return nil, err
		}
		task.Instance = spec
	}
	res, err := s.cfg.Hub.Do(ctx, rec.Node, &v1.Task{Id: "instance-" + randomText(), NotAfter: timestamppb.New(s.cfg.Clock.Now().Add(taskStart)),
		Work: &v1.Task_Instance{Instance: task}}, nil)
	if err != nil {
		return nil, err
	}
	if e := res.GetError(); e != nil {
		return nil, errs.New(errs.Code(e.GetCode()), "%s", e.GetMessage()).At("node "+rec.Node).WithHint("%s", e.GetHint())
	}
	return res.GetInstance(), nil
}

// SetModules implements v1.InstanceServiceServer.
func (s *Service) SetModules(ctx context.Context, req *v1.SetModulesRequest) (*v1.SetModulesResponse, error) {
	if err := errs.Join(checkModules(req.GetEnable()), checkModules(req.GetDisable())); err != nil {
		return nil, err
	}
	for _, m := range req.GetEnable() {
		if slices.Contains(req.GetDisable(), m) {
			return nil, errs.New(errs.Invalid, "module %s cannot be turned on and off", m)
		}
	}
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := modeIs(&rec, "infractl instance resume "+rec.Name, running); err != nil {
		return nil, err
	}
	leave, err := s.alone(&rec)
	if err != nil {
		return nil, err
	}
	defer leave()
	res, err := s.task(ctx, &rec, taskLimit, &v1.InstanceTask{Action: &v1.InstanceTask_Modules{
		Modules: &v1.ModulesInstance{Enable: req.GetEnable(), Disable: req.GetDisable()}}})
	if err != nil {
		return nil, err
	}
	_, err = s.update(ctx, rec.ID, func(r *record) error { r.Modules = slices.Clone(res.GetModules()); return nil })
	return &v1.SetModulesResponse{Modules: res.GetModules()}, err
}

// alone makes sure that one call at a time works on an instance.
func (s *Instances) alone(rec *record) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[rec.ID] {
		return nil, errs.New(errs.Conflict, "somebody else works on instance %s", rec.Name).WithHint("try again in a moment")
	}
	s.busy[rec.ID] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, rec.ID)
	}, nil
}

// ResetPassword implements v1.InstanceServiceServer. The password that a creation made is given out by the first call, as it is: so it
// travels once, over mTLS, and never through an operation.
func (s *Service) ResetPassword(ctx context.Context, req *v1.ResetPasswordRequest) (*v1.ResetPasswordResponse, error) {
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	leave, err := s.alone(&rec)
	if err != nil {
		return nil, err
	}
	defer leave()
	name := site.SecretName(rec.ID, "admin")
	if !rec.Shown {
		if err := modeIs(&rec, "infractl instance show "+rec.Name, running, suspended, archived); err != nil {
			return nil, err
		}
	} else if err := s.newPassword(ctx, &rec, name); err != nil {
		return nil, err
	}
	value, err := s.secrets.Own(ctx, name)
	if err != nil {
		return nil, err
	}
	// It counts as shown before it leaves: what got lost on the way is replaced, never shown twice.
	if _, err := s.update(ctx, rec.ID, func(r *record) error { r.Shown = true; return nil }); err != nil {
		return nil, err
	}
	return &v1.ResetPasswordResponse{Login: rec.Admin, Password: string(value.Reveal())}, nil
}

// newPassword makes a new password and sets it.
func (s *Service) newPassword(ctx context.Context, rec *record, name string) error {
	if err := modeIs(rec, "infractl instance resume "+rec.Name, running); err != nil {
		return err
	}
	version, err := s.secrets.Renew(ctx, name, access.CallerFrom(ctx).Actor)
	if err != nil {
		return err
	}
	now, err := s.update(ctx, rec.ID, func(r *record) error {
		if r.Secrets == nil {
			r.Secrets = map[string]string{} // an adopted one
		}
		r.Secrets["admin"] = version
		return nil
	})
	if err != nil {
		return err
	}
	task := &v1.InstanceTask{Action: &v1.InstanceTask_Password{Password: &v1.PasswordInstance{}}}
	if _, err := s.task(ctx, &now, taskLimit, task); err != nil {
		return err
	}
	// The host's copy of the secret follows; nobody has to wait for that.
	if _, err := s.rollouts.Deliver(ctx, access.CallerFrom(ctx).Actor, "instance "+rec.Name+" has a new administrator's password"); err != nil {
		s.cfg.Log.Warn("the new password of an administrator is set, but not yet on its host's disk", "instance", rec.Name, "error", err)
	}
	return nil
}
