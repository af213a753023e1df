package app

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"path"
	"time"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/session"
	"github.com/infractl/infractl/internal/errs"
)

const (
	// repairEvery is how often the agent looks whether its own chains are still in place.
	repairEvery = 30 * time.Second
	// driftEvery is how often the agent compares the host with what it should be.
	driftEvery = 5 * time.Minute
)

// upkeep finishes what is left of a commit, puts our own chains back and looks for drift, now and then and never beside an
// apply.
func (a *App) upkeep(ctx context.Context) {
	nextDrift := time.Now().Add(time.Minute + rand.N(driftEvery))
	for enrol.Sleep(ctx, repairEvery/2+rand.N(repairEvery)) == nil {
		if s := a.current(); s != nil && s.Applying() {
			continue
		}
		if err := a.engine.Mend(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("a commit that is over is not finished; tried again", "error", err)
		}
		if a.copied() {
			continue
		}
		a.repair(ctx)
		a.keepStacks(ctx)
		a.keepInstances(ctx)
		a.keepProxy(ctx)
		if time.Now().Before(nextDrift) {
			continue
		}
		nextDrift = time.Now().Add(driftEvery)
		if err := a.engine.LookForDrift(ctx); err != nil {
			a.log.Warn("cannot look for drift", "error", err)
		}
		if s := a.current(); s != nil {
			s.Report()
		}
	}
}

func (a *App) current() *session.Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live
}

// repair puts chains, routes and the tunnel back that are gone. It is no commit: it makes true again what was kept.
func (a *App) repair(ctx context.Context) {
	var done []string
	var failed []error
	alone := a.engine.Alone(ctx, func() {
		if a.engine.State().GetArmedCommit() == "" { // what was kept is not what has to stand while one is undecided
			for _, r := range a.repairers() {
				lines, err := r.Repair(ctx)
				done, failed = append(done, lines...), append(failed, err)
			}
		}
	})
	if err := errs.Join(append(failed, alone)...); err != nil && ctx.Err() == nil {
		a.log.Error("cannot put back what is gone", "error", err)
	}
	if len(done) > 0 {
		a.log.Warn("what was gone is back", "lines", len(done), "first", done[0])
	}
}

// StatusFile returns where a running agent says how it stands, for "infractl-agent status".
func StatusFile(stateDir string) string {
	if stateDir == DefaultStateDir {
		return "/run/infractl/agent.json"
	}
	return path.Join(stateDir, "agent.json")
}

// changed tells the unit's status line and the status file how the session stands.
func (a *App) changed(st session.Status) {
	line := "STATUS=no session: " + st.Problem
	if st.Connected {
		line = "STATUS=connected to " + st.Server
	}
	a.cfg.Notify(line)
	data, err := json.Marshal(st)
	if err == nil {
		_, err = a.host.WriteFile(StatusFile(a.cfg.StateDir), append(data, '\n'), 0o644)
	}
	if err != nil {
		a.log.Debug("cannot write the status file", "error", err)
	}
}
