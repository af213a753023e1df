package instance

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
)

// databaseSecrets are the passwords that an instance's database has.
func databaseSecrets() []string { return []string{"db", "db-root"} }

// Where the operation keeps versions: those before it, and those that it made.
const (
	keyFormer = "former"
	keyFresh  = "fresh"
)

// RotateDatabase implements v1.InstanceServiceServer.
func (s *Service) RotateDatabase(ctx context.Context, req *v1.RotateDatabaseRequest) (*v1.RotateDatabaseResponse, error) {
	rec, err := s.atRest(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := modeIs(&rec, "infractl instance resume "+rec.Name, running); err != nil {
		return nil, err
	}
	if rec.Secrets["db"] == "" {
		return nil, errs.New(errs.Precondition, "infractl did not make the database of instance %s, and knows none of its passwords", rec.Name).
			WithHint("infractl instance show %s", rec.Name)
	}
	shown, id, err := s.start(ctx, "passwords", &rec, lifeParams{})
	return &v1.RotateDatabaseResponse{Instance: shown, OperationId: id}, err
}

// passwordsKind gives an instance's database new passwords. The host changes them so that the application can log in at every moment: the
// former ones are good until the new ones were tried.
func (s *Instances) passwordsKind() operation.Kind {
	return s.lifeKind("passwords", func(p *lifeParams) []operation.Step {
		return []operation.Step{
			{Name: "passwords", Retry: s.retry(1), Do: s.passwordStep(p, s.doPasswords), Undo: s.passwordStep(p, s.undoPasswords)},
			{Name: "database", Retry: s.retry(s.cfg.Patience.Delivery), Do: s.passwordStep(p, s.doDatabase)},
			{Name: "probe", Retry: s.retry(s.cfg.Patience.Away), Do: s.passwordStep(p, s.probe)},
			{Name: "forget", Retry: s.retry(1), Do: s.passwordStep(p, s.doForgetFormer)},
		}
	})
}

func (s *Instances) passwordStep(p *lifeParams, do func(context.Context, *operation.Run, *record) error) func(context.Context, *operation.Run) error {
	return func(ctx context.Context, run *operation.Run) error {
		rec, err := s.get(ctx, p.ID)
		if err != nil {
			return err
		}
		return do(ctx, run, &rec)
	}
}

// doPasswords makes the new versions. What they replace is noted first.
func (s *Instances) doPasswords(ctx context.Context, run *operation.Run, rec *record) error {
	former, fresh := map[string]string{}, map[string]string{}
	if ok, err := run.Get(keyFresh, &fresh); ok || err != nil {
		return err
	}
	ok, err := run.Get(keyFormer, &former)
	if err != nil {
		return err
	}
	if !ok {
		former = versionsOf(rec)
		if err := run.Set(ctx, keyFormer, former); err != nil {
			return err
		}
	}
	for _, name := range databaseSecrets() {
		if fresh[name], err = s.secrets.Renew(ctx, site.SecretName(rec.ID, name), run.Operator()); err != nil {
			return err
		}
	}
	return run.Set(ctx, keyFresh, fresh)
}

func versionsOf(rec *record) map[string]string {
	out := map[string]string{}
	for _, name := range databaseSecrets() {
		out[name] = rec.Secrets[name]
	}
	return out
}

// setVersions makes a record name versions of the database's passwords.
func (s *Instances) setVersions(ctx context.Context, id string, versions map[string]string) (record, error) {
	return s.update(ctx, id, func(r *record) error {
		for name, version := range versions {
			r.Secrets[name] = version
		}
		return nil
	})
}

// doDatabase brings the new versions to the host, which puts them into its database and into conf.php.
func (s *Instances) doDatabase(ctx context.Context, run *operation.Run, rec *record) error {
	fresh := map[string]string{}
	if _, err := run.Get(keyFresh, &fresh); err != nil {
		return err
	}
	now, err := s.setVersions(ctx, rec.ID, fresh)
	if err != nil {
		return err
	}
	return s.arrive(ctx, run, &now, "new passwords of its database", false)
}

// undoPasswords makes the former versions the right ones again; the host follows when it can, whatever it has done so far. What a host has
// had for so long that the former ones are forgotten stays.
func (s *Instances) undoPasswords(ctx context.Context, run *operation.Run, rec *record) error {
	former := map[string]string{}
	if ok, err := run.Get(keyFormer, &former); !ok || err != nil {
		return err
	}
	back := map[string]string{}
	for name, version := range former {
		full := site.SecretName(rec.ID, name)
		err := s.secrets.Revert(ctx, full, version)
		if errs.Is(err, errs.Precondition) {
			s.cfg.Log.Warn("a former password of a database is forgotten, the new one stays", "instance", rec.Name, "error", err)
			version, err = s.secrets.Current(ctx, full)
		}
		if err != nil {
			return err
		}
		back[name] = version
	}
	if _, err := s.setVersions(ctx, rec.ID, back); err != nil {
		return err
	}
	_, err := s.rollouts.Deliver(ctx, run.Operator(), "instance "+rec.Name+" keeps the passwords of its database")
	if errs.Is(err, errs.Precondition) {
		return nil // the site's rollout must be settled first; that brings it along
	}
	return err
}

func (s *Instances) doForgetFormer(ctx context.Context, _ *operation.Run, rec *record) error {
	var names []string
	for _, name := range databaseSecrets() {
		names = append(names, site.SecretName(rec.ID, name))
	}
	return s.secrets.ForgetFormer(ctx, names...)
}
