package providertest

import (
	"fmt"
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

// atEachCall counts the calls of one undisturbed act and then repeats it on fresh machines with a fault at each of them.
func atEachCall[S any](t *testing.T, s Suite[S], step int, modes []Mode,
	ready func(*machine[S]) (act func() error, check func() error, err error)) error {
	m, err := fresh(t, s, step)
	if err != nil {
		return err
	}
	act, _, err := ready(m)
	if err != nil {
		return err
	}
	m.faults.Reset()
	if err := act(); err != nil {
		return fmt.Errorf("undisturbed: %w", err)
	}
	ops := m.faults.Ops()
	for _, at := range spread(len(ops), s.MaxFaults) {
		for _, mode := range modes {
			if ops[at-1].Write && (mode == FailAfter || mode == CrashAfter) {
				continue // the same as a fault before the next call
			}
			where := fmt.Sprintf("fault at call %d (%s), mode %d", at, ops[at-1].Text, mode)
			m, err := fresh(t, s, step)
			if err != nil {
				return err
			}
			act, check, err := ready(m)
			if err != nil {
				return err
			}
			m.faults.Arm(at, mode)
			_ = act() // whether it notices is its own affair; the state afterwards is what counts
			m.restart()
			if err := check(); err != nil {
				return fmt.Errorf("%s: %w", where, err)
			}
		}
	}
	return nil
}

func failureThenRollback[S any](t *testing.T, s Suite[S], i int) error {
	return faultThenRollback(t, s, i, FailBefore, FailAfter)
}

func crashThenRollback[S any](t *testing.T, s Suite[S], i int) error {
	return faultThenRollback(t, s, i, CrashBefore, CrashAfter)
}

func faultThenRollback[S any](t *testing.T, s Suite[S], i int, modes ...Mode) error {
	return atEachCall(t, s, i, modes, func(m *machine[S]) (func() error, func() error, error) {
		before, err := m.look()
		if err != nil {
			return nil, nil, err
		}
		plan, snapshot, err := m.begin(s.Steps[i].Wish)
		act := func() error { return m.Provider.Apply(m.ctx, plan) }
		check := func() error {
			if err := m.Provider.Rollback(m.ctx, snapshot); err != nil {
				return fmt.Errorf("rollback: %w", err)
			}
			return m.same("after rollback", before)
		}
		return act, check, err
	})
}

func crashThenApply[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i+1)
	if err != nil {
		return err
	}
	want, err := m.look()
	if err != nil {
		return err
	}
	wish := s.Steps[i].Wish
	return atEachCall(t, s, i, []Mode{CrashBefore, CrashAfter}, func(m *machine[S]) (func() error, func() error, error) {
		act := func() error { return m.applyAndKeep(wish) }
		check := func() error {
			if err := m.applyAndKeep(wish); err != nil {
				return err
			}
			return m.same("after the next apply", want)
		}
		return act, check, nil
	})
}

func crashInRollback[S any](t *testing.T, s Suite[S], i int) error {
	return atEachCall(t, s, i, []Mode{CrashBefore, CrashAfter}, func(m *machine[S]) (func() error, func() error, error) {
		before, err := m.look()
		if err != nil {
			return nil, nil, err
		}
		plan, snapshot, err := m.begin(s.Steps[i].Wish)
		if err != nil {
			return nil, nil, err
		}
		if err := m.Provider.Apply(m.ctx, plan); err != nil {
			return nil, nil, fmt.Errorf("apply: %w", err)
		}
		act := func() error { return m.Provider.Rollback(m.ctx, snapshot) }
		check := func() error {
			if err := m.Provider.Rollback(m.ctx, snapshot); err != nil {
				return fmt.Errorf("rollback: %w", err)
			}
			return m.same("after the next rollback", before)
		}
		return act, check, nil
	})
}

func crashInKeep[S any](t *testing.T, s Suite[S], i int) error {
	m, err := fresh(t, s, i+1)
	if err != nil {
		return err
	}
	want, err := m.look()
	if err != nil {
		return err
	}
	wish := s.Steps[i].Wish
	return atEachCall(t, s, i, []Mode{CrashBefore, CrashAfter}, func(m *machine[S]) (func() error, func() error, error) {
		if err := m.apply(wish); err != nil {
			return nil, nil, err
		}
		act := func() error { return m.Provider.Keep(m.ctx, wish) }
		check := func() error {
			if err := m.Provider.Keep(m.ctx, wish); err != nil {
				return fmt.Errorf("keep: %w", err)
			}
			return m.same("after the next keep", want)
		}
		return act, check, nil
	})
}

func driftIsMended[S any](t *testing.T, s Suite[S], d Drift[S]) error {
	n := d.After
	if n == 0 {
		n = len(s.Steps)
	}
	m, err := fresh(t, s, n)
	if err != nil {
		return err
	}
	want, err := m.look()
	if err != nil {
		return err
	}
	d.Do(t, m.Env)
	wish := s.Steps[n-1].Wish
	plan, err := m.Provider.Plan(m.ctx, wish)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if len(plan.Changes) == 0 {
		return fmt.Errorf("the plan does not see it")
	}
	if err := m.applyAndKeep(wish); err != nil {
		return err
	}
	return m.same("after the next apply", want)
}

func isRefused[S any](t *testing.T, s Suite[S], r Refusal[S]) error {
	m, err := fresh(t, s, 0)
	if err != nil {
		return err
	}
	if r.Prepare != nil {
		r.Prepare(t, m.Env)
	}
	before, err := m.look()
	if err != nil {
		return err
	}
	_, err = m.Provider.Plan(m.ctx, r.Wish)
	if err == nil {
		return fmt.Errorf("plan gave no error")
	}
	if errs.CodeOf(err) != r.Code {
		return fmt.Errorf("code = %q, want %q: %w", errs.CodeOf(err), r.Code, err)
	}
	if errs.HintOf(err) == "" {
		return fmt.Errorf("the error says not what to do next: %w", err)
	}
	return m.same("after the refusal", before)
}
