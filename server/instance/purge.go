package instance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
)

// keyDestroyed is where a purge keeps what it destroyed, for the certificate.
const keyDestroyed = "destroyed"

// destroyed is what a purge destroyed on the host.
type destroyed struct {
	// Found are the parts that were there before, Removed those that the host removed; none is left.
	Found   []string  `json:"found,omitempty"`
	Removed []string  `json:"removed,omitempty"`
	Begun   time.Time `json:"begun"`
	Ended   time.Time `json:"ended,omitzero"`
	Domains []string  `json:"domains,omitempty"`
}

// purgeKind destroys an instance for good. There is no way back, so that a step that fails stands until a person has mended the cause;
// a host that is away is waited for, for ever: what is certified must be true.
func (s *Instances) purgeKind() operation.Kind {
	return s.lifeKind("purge", func(p *lifeParams) []operation.Step {
		step := func(name string, do func(context.Context, *operation.Run, *record) error) operation.Step {
			return operation.Step{Name: name, OnFailure: operation.Stop, Retry: s.retry(0), Do: func(ctx context.Context, run *operation.Run) error {
				rec, err := s.get(ctx, p.ID)
				if errs.Is(err, errs.NotFound) {
					if _, gone := s.purged.Get(ctx, p.ID); gone == nil {
						return nil // a server that stopped in between had ended it
					}
				}
				if err != nil {
					return err
				}
				return do(ctx, run, &rec)
			}}
		}
		return []operation.Step{step("withdraw", s.doWithdraw), step("destroy", s.doDestroy), step("secrets", s.doForget),
			step("certificate", s.doCertify)}
	})
}

// doWithdraw takes the instance out of what hosts, proxy and name server are to be.
func (s *Instances) doWithdraw(ctx context.Context, run *operation.Run, rec *record) error {
	spec, err := s.specOf(ctx, rec)
	if err != nil {
		return err
	}
	var d destroyed
	if ok, err := run.Get(keyDestroyed, &d); err != nil {
		return err
	} else if !ok {
		d = destroyed{Begun: s.cfg.Clock.Now().UTC(), Domains: spec.GetDomains()}
		for _, part := range s.partsOf(ctx, rec) {
			d.Found = append(d.Found, partName(part))
		}
		if err := run.Set(ctx, keyDestroyed, d); err != nil {
			return err
		}
	}
	if _, err := s.setMode(ctx, rec.ID, withdrawn); err != nil {
		return err
	}
	gates, err := s.gates(ctx)
	if err != nil {
		return err
	}
	problems, err := s.bring(ctx, run, "instance "+rec.Name+" is purged", append(gates, rec.Node))
	if err != nil {
		return err
	}
	return errs.Join(s.blame(ctx, rec, problems), s.retract(ctx))
}

// partsOf is what a host has of an instance; nothing when it cannot be asked.
func (s *Instances) partsOf(ctx context.Context, rec *record) []*v1.FoundInstance {
	found, err := s.inventory(ctx, rec.Node)
	if err != nil {
		s.cfg.Log.Warn("a host could not be asked what it has of an instance", "instance", rec.Name, "node", rec.Node, "error", err)
	}
	return slices.DeleteFunc(found, func(f *v1.FoundInstance) bool { return !rec.owns(f) })
}

func partName(f *v1.FoundInstance) string { return f.GetKind() + " " + f.GetName() }

// doDestroy removes everything of the instance on its host, and looks whether something is left.
func (s *Instances) doDestroy(ctx context.Context, run *operation.Run, rec *record) error {
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	if err := s.newVolumes(ctx, rec); err != nil {
		return err
	}
	removed, err := s.purgeTask(ctx, run, rec)
	if err != nil {
		return err
	}
	found, err := s.inventory(ctx, rec.Node)
	if err != nil {
		return err
	}
	var left []string
	for _, f := range found {
		if rec.owns(f) {
			left = append(left, partName(f))
		}
	}
	if len(left) > 0 {
		return errs.New(errs.Precondition, "after its purge %s still has %s", rec.Node, strings.Join(left, ", ")).At("node " + rec.Node).
			WithHint("see on the host what holds it")
	}
	var d destroyed
	if _, err := run.Get(keyDestroyed, &d); err != nil {
		return err
	}
	for _, name := range removed {
		if !slices.Contains(d.Removed, name) {
			d.Removed = append(d.Removed, name)
		}
	}
	d.Ended = s.cfg.Clock.Now().UTC()
	return run.Set(ctx, keyDestroyed, d)
}

func (s *Instances) doForget(ctx context.Context, _ *operation.Run, rec *record) error {
	return s.forget(ctx, rec.ID)
}

// doCertify writes the certificate, and gives name and network back.
func (s *Instances) doCertify(ctx context.Context, run *operation.Run, rec *record) error {
	var d destroyed
	if _, err := run.Get(keyDestroyed, &d); err != nil {
		return err
	}
	now := s.cfg.Clock.Now().UTC()
	text, err := s.cfg.Sign([]byte(s.certificate(rec, &d, run, now)))
	if err != nil {
		return err
	}
	err = s.release(ctx, rec.ID, func(r *record) {
		// What is kept is what the certificate needs, and nothing of the customer beside it.
		*r = record{ID: r.ID, Name: r.Name, Node: r.Node, Preprod: r.Preprod, Made: true, Mode: withdrawn, Version: r.Version, Created: r.Created,
			Operator: r.Operator, Suspended: r.Suspended, Purged: now, Operation: run.ID(), Certificate: text}
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(text))
	s.audit(ctx, run.Operator(), "instance.purge", rec.Name, "ok", "certificate of destruction sha256:"+hex.EncodeToString(sum[:]))
	run.Say("certificate: infractl instance show %s", rec.Name)
	return nil
}
