package providertest

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func planWritesNothing[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i)
	if err != nil {
		return err
	}
	before, err := m.look()
	if err != nil {
		return err
	}
	plan, _, err := m.begin(s.Steps[i].Wish)
	if err != nil {
		return err
	}
	for _, op := range m.faults.Ops() {
		if op.Write {
			return fmt.Errorf("planning did: %s", op.Text)
		}
	}
	if (len(plan.Changes) == 0) != s.Steps[i].NoChange {
		return fmt.Errorf("planned %d changes, NoChange is %v", len(plan.Changes), s.Steps[i].NoChange)
	}
	if err := wellFormed(m.Provider.Name(), plan.Changes); err != nil {
		return err
	}
	return m.same("after planning", before)
}

func wellFormed(name string, changes []*v1.Change) error {
	if !regexp.MustCompile(`^[a-z]+$`).MatchString(name) {
		return fmt.Errorf("name %q is not one lower-case word", name)
	}
	for _, c := range changes {
		switch {
		case c.GetProvider() != name:
			return fmt.Errorf("a change names the provider %q, want %q", c.GetProvider(), name)
		case c.GetSubject() == "":
			return fmt.Errorf("a change has no subject: %v", c)
		case c.GetAction() == v1.ChangeAction_CHANGE_ACTION_UNSPECIFIED, c.GetRisk() == v1.Risk_RISK_UNSPECIFIED:
			return fmt.Errorf("a change has no action or no risk: %v", c)
		}
	}
	return nil
}

func applyThenPlanIsEmpty[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i)
	if err != nil {
		return err
	}
	if err := m.apply(s.Steps[i].Wish); err != nil {
		return err
	}
	if err := m.inSync(i, "after apply"); err != nil {
		return err
	}
	if err := m.Provider.Keep(m.ctx, s.Steps[i].Wish); err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	m.restart()
	if err := m.inSync(i, "after keep and a restart"); err != nil {
		return err
	}
	return m.foreignUntouched("after apply")
}

func (m *machine[S]) inSync(i int, when string) error {
	plan, err := m.Provider.Plan(m.ctx, m.suite.Steps[i].Wish)
	if err != nil {
		return fmt.Errorf("plan %s: %w", when, err)
	}
	if len(plan.Changes) > 0 {
		return fmt.Errorf("the plan %s is not empty:\n%s", when, show(plan.Changes))
	}
	return nil
}

func show(changes []*v1.Change) string {
	var b strings.Builder
	for _, c := range changes {
		b.WriteString(prototext.MarshalOptions{Multiline: true}.Format(c))
	}
	return b.String()
}

func applyTwiceEqualsOnce[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i)
	if err != nil {
		return err
	}
	wish := s.Steps[i].Wish
	plan, _, err := m.begin(wish)
	if err != nil {
		return err
	}
	if err := m.Provider.Apply(m.ctx, plan); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	once, err := m.look()
	if err != nil {
		return err
	}
	if err := m.Provider.Apply(m.ctx, plan); err != nil {
		return fmt.Errorf("second apply of the same plan: %w", err)
	}
	if err := m.same("after a second apply of the same plan", once); err != nil {
		return err
	}
	if err := m.apply(wish); err != nil {
		return fmt.Errorf("apply of a new plan: %w", err)
	}
	return m.same("after an apply of a new plan", once)
}

func keepTwiceEqualsOnce[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i+1)
	if err != nil {
		return err
	}
	once, err := m.look()
	if err != nil {
		return err
	}
	if err := m.Provider.Keep(m.ctx, s.Steps[i].Wish); err != nil {
		return fmt.Errorf("second keep: %w", err)
	}
	return m.same("after a second keep", once)
}

func rollbackGivesSameBytes[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i)
	if err != nil {
		return err
	}
	before, err := m.look()
	if err != nil {
		return err
	}
	plan, snapshot, err := m.begin(s.Steps[i].Wish)
	if err != nil {
		return err
	}
	if err := m.Provider.Apply(m.ctx, plan); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	m.restart() // the boot unit or the timer does it, not the agent that applied
	for _, when := range []string{"after rollback", "after a second rollback"} {
		if err := m.Provider.Rollback(m.ctx, snapshot); err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
		if err := m.same(when, before); err != nil {
			return err
		}
	}
	return nil
}

func rollbackThenApplyAgain[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i)
	if err != nil {
		return err
	}
	plan, snapshot, err := m.begin(s.Steps[i].Wish)
	if err != nil {
		return err
	}
	// A rollback before anything was applied: the agent died between the record and the apply.
	before, err := m.look()
	if err != nil {
		return err
	}
	if err := m.Provider.Rollback(m.ctx, snapshot); err != nil {
		return fmt.Errorf("rollback before apply: %w", err)
	}
	if err := m.same("after rollback before apply", before); err != nil {
		return err
	}
	if err := m.Provider.Apply(m.ctx, plan); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := m.Provider.Rollback(m.ctx, snapshot); err != nil {
		return fmt.Errorf("rollback: %w", err)
	}
	if err := m.applyAndKeep(s.Steps[i].Wish); err != nil {
		return fmt.Errorf("second try after rollback: %w", err)
	}
	return m.inSync(i, "after a second try")
}

func noSecretIsPrinted[S any](t *testing.T, s Suite[S], i int) error {
	if len(s.Secrets) == 0 {
		return nil
	}
	m, err := fresh(t, s, i)
	if err != nil {
		return err
	}
	plan, _, err := m.begin(s.Steps[i].Wish)
	if err != nil {
		return err
	}
	printed := show(plan.Changes)
	if err := m.Provider.Apply(m.ctx, plan); err != nil {
		printed += err.Error()
	}
	for _, op := range m.faults.Ops() {
		printed += op.Text + "\n"
	}
	n := len(m.faults.Ops())
	for _, at := range spread(n, s.MaxFaults) {
		if m, err = fresh(t, s, i); err != nil {
			return err
		}
		m.faults.Arm(at, FailBefore)
		printed += fmt.Sprintf("%v\n", m.apply(s.Steps[i].Wish))
	}
	for _, secret := range s.Secrets {
		if at := strings.Index(printed, secret); at >= 0 {
			return fmt.Errorf("a secret is printed, behind: %s", printed[max(0, at-200):at])
		}
	}
	return nil
}

func cancelReturnsPromptly[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i)
	if err != nil {
		return err
	}
	wish := s.Steps[i].Wish
	if err := m.apply(wish); err != nil {
		return err
	}
	calls := len(m.faults.Ops())
	for _, at := range spread(calls, 6) {
		if m, err = fresh(t, s, i); err != nil {
			return err
		}
		before, err := m.look()
		if err != nil {
			return err
		}
		_, snapshot, err := m.begin(wish)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(m.ctx)
		whole := m.ctx
		m.faults.OnHang(cancel)
		m.faults.Arm(at, Hang)
		m.ctx = ctx
		started := time.Now()
		err = m.apply(wish)
		took := time.Since(started)
		hung := ctx.Err() != nil
		cancel()
		m.ctx = whole
		if limit := s.promptly(); hung && took > limit {
			return fmt.Errorf("call %d was cancelled; it took %s to return, want %s", at, took, limit)
		}
		if hung && err == nil {
			return fmt.Errorf("call %d was cancelled and no error came\n%s", at, m.calls())
		}
		m.restart()
		if err := m.Provider.Rollback(m.ctx, snapshot); err != nil {
			return fmt.Errorf("rollback after a cancelled call %d: %w", at, err)
		}
		if err := m.same(fmt.Sprintf("after a cancelled call %d and rollback", at), before); err != nil {
			return err
		}
	}
	return nil
}

func (s Suite[S]) promptly() time.Duration {
	if s.Promptly == 0 {
		return 3 * time.Second
	}
	return s.Promptly
}

func unknownSnapshotIsRefused[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i)
	if err != nil {
		return err
	}
	plan, snapshot, err := m.begin(s.Steps[i].Wish)
	if err != nil {
		return err
	}
	if err := m.Provider.Apply(m.ctx, plan); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	applied, err := m.look()
	if err != nil {
		return err
	}
	unknown := map[string][]byte{
		"nothing":            nil,
		"empty object":       []byte("{}"),
		"not json":           []byte("not a snapshot"),
		"another kind":       []byte(`{"version":4711,"something":"else"}`),
		"half of a snapshot": snapshot[:len(snapshot)/2],
	}
	for name, data := range unknown {
		err := m.Provider.Rollback(m.ctx, data)
		if err == nil {
			return fmt.Errorf("rollback of %s gave no error", name)
		}
		if errs.CodeOf(err) == errs.Internal {
			return fmt.Errorf("rollback of %s gave an error without a code of its own: %w", name, err)
		}
		if err := m.same("after rollback of "+name, applied); err != nil {
			return err
		}
	}
	return nil
}
