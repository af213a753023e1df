package app

import (
	"errors"
	"path"

	"github.com/infractl/infractl/agent/enrol"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// copiedMark is a file that says: what was kept here was kept on another machine, of which this disk is a copy. It stands from
// the moment that the agent notices until this machine has kept, or found in place, a spec of its own; meanwhile the other
// machine's firewall and stacks are not put back.
func (a *App) copiedMark() string { return path.Join(a.cfg.StateDir, "copied") }

func (a *App) copied() bool { return a.host.Exists(a.copiedMark()) }

// checkMachine looks whether this is the machine that the identity was given to. Without an identity, or while the machine cannot
// be told yet, it says nothing: what is kept is then put back, which leaves no host open.
func (a *App) checkMachine() {
	if _, err := a.store.Identities(); err != nil {
		return
	}
	fingerprint, err := a.fingerprint()
	if err == nil {
		err = a.store.CheckMachine(fingerprint)
	}
	var cloned *enrol.ClonedError
	switch {
	case errors.As(err, &cloned):
		a.log.Warn("this machine is a clone: what was kept on its original is not put back", "reason", cloned.Why)
		a.markCopied()
	case err != nil:
		a.log.Debug("cannot tell yet whether this is the machine that enrolled", "error", err)
	}
}

func (a *App) markCopied() {
	if a.engine == nil {
		return // a probe keeps nothing
	}
	if _, err := a.host.WriteFile(a.copiedMark(), []byte("what was kept here is another machine's\n"), 0o600); err != nil {
		a.log.Error("cannot note that this disk is a copy", "error", err)
	}
}

// own notes that the host is as a spec of its own wants it.
func (a *App) own(result *v1.ApplyResult) {
	if !a.copied() {
		return
	}
	for _, p := range result.GetPhases() {
		commit := p.GetPhase() == v1.Phase_PHASE_WIDENING || p.GetPhase() == v1.Phase_PHASE_NARROWING
		stands := p.GetOutcome() == v1.PhaseOutcome_PHASE_OUTCOME_KEPT || p.GetOutcome() == v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC
		if !commit || !stands {
			continue
		}
		if err := a.host.Remove(a.copiedMark()); err != nil {
			a.log.Error("cannot forget that this disk was a copy", "error", err)
		}
		return
	}
}
