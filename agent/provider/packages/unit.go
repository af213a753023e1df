package packages

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

const (
	unitPrefix = "infractl-apt-"
	// stampFile holds the time of our last look at the mirrors. It need not survive a reboot.
	stampFile  = "/run/infractl-apt-lists"
	listsAge   = 24 * time.Hour
	trialLimit = 2 * time.Minute
)

// environment keeps debconf and needrestart from asking, and needrestart from restarting Docker under the containers.
func environment() []string {
	return []string{"DEBIAN_FRONTEND=noninteractive", "DEBIAN_PRIORITY=critical", "NEEDRESTART_MODE=l", "NEEDRESTART_SUSPEND=1",
		"APT_LISTCHANGES_FRONTEND=none", "UCF_FORCE_CONFFOLD=1"}
}

// aptGet is an apt-get that asks nobody, waits for locks and keeps what somebody has configured.
func (p *Provider) aptGet(args ...string) []string {
	return append([]string{"apt-get", "-y", "-q", "--no-install-recommends",
		"-o", fmt.Sprintf("DPkg::Lock::Timeout=%d", int(p.lockWait.Seconds())),
		"-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
		"-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20",
	}, args...)
}

// unitName names a unit by what it does, so that two tries of the same thing can't run beside each other.
func unitName(argv []string) string {
	sum := sha256.Sum256([]byte(strings.Join(argv, "\x00")))
	return fmt.Sprintf("%s%x.service", unitPrefix, sum[:6])
}

func logFile(unit string) string { return "/run/" + strings.TrimSuffix(unit, ".service") + ".log" }

// inUnit runs a command in a transient unit and waits for its end. When ctx ends the unit goes on.
func (p *Provider) inUnit(ctx context.Context, what string, argv ...string) error {
	deadline := time.Now().Add(p.lockWait)
	for {
		err := p.oneUnit(ctx, what, argv)
		// apt waits for dpkg's locks by itself, and not for that of its lists; dpkg waits for none.
		if !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), inUse) || time.Now().After(deadline) {
			return err
		}
		p.log.Info("dpkg is in use; waiting", "what", what, "error", err)
		if err := pause(ctx, 10*p.poll); err != nil {
			return err
		}
	}
}

func (p *Provider) oneUnit(ctx context.Context, what string, argv []string) error {
	unit := unitName(argv)
	start := []string{"systemd-run", "--quiet", "--no-block", "--unit=" + unit, "--description=infractl: " + what,
		"--property=Type=oneshot", "--property=RemainAfterExit=yes", "--property=StandardInput=null",
		"--property=StandardOutput=truncate:" + logFile(unit), "--property=StandardError=inherit",
		fmt.Sprintf("--property=TimeoutStartSec=%d", int((p.limit + p.lockWait).Seconds())), "--setenv=LC_ALL=C", "--setenv=HOME=/root"}
	for _, e := range environment() {
		start = append(start, "--setenv="+e)
	}
	if _, err := p.host.Run(ctx, append(append(start, "--"), argv...)...); err != nil {
		p.leave(ctx, unit)
		return errs.Wrap("start "+what, err)
	}
	return p.await(ctx, what, unit)
}

// await waits for the end of a unit, forgets it and says how it ended.
func (p *Provider) await(ctx context.Context, what, unit string) error {
	bound := time.Now().Add(p.limit + p.lockWait + time.Minute) // systemd ends it before that
	for {
		if time.Now().After(bound) {
			return errs.New(errs.Timeout, "%s: %s has no end", what, unit).WithHint("systemctl status %s", unit)
		}
		out, err := p.host.Run(ctx, "systemctl", "show", "--property=ActiveState,Result,Job", "--", unit)
		if err != nil {
			p.leave(ctx, unit)
			return errs.Wrap("ask for "+unit, err)
		}
		active, result, queued := "", "", false
		for line := range strings.Lines(string(out.Stdout)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch key {
			case "ActiveState":
				active = value
			case "Result":
				result = value
			case "Job": // "0" where there is none; else it is only about to start
				queued = value != "" && value != "0"
			}
		}
		switch {
		case queued:
		case active == "active" || active == "inactive":
			return p.forget(ctx, unit)
		case active == "failed":
			text, _ := p.host.ReadFile(logFile(unit)) // without it the result must do
			if err := p.forget(ctx, unit); err != nil {
				return err
			}
			if result == "timeout" {
				return errs.New(errs.Timeout, "%s did not end within %s", what, p.limit+p.lockWait).WithHint("journalctl -u %s", unit)
			}
			return failure(what, string(text), errs.New(errs.Internal, "%s ended with %s", unit, result))
		}
		if err := pause(ctx, p.poll); err != nil {
			p.leave(ctx, unit)
			return errs.Wrap(what, err)
		}
	}
}

// leave remembers a unit that goes on when this process is told to stop.
func (p *Provider) leave(ctx context.Context, unit string) {
	if ctx.Err() == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = unit
}

func (p *Provider) forget(ctx context.Context, unit string) error {
	_, stopped := p.host.Run(ctx, "systemctl", "stop", "--", unit)
	_, reset := p.host.Run(ctx, "systemctl", "reset-failed", "--", unit)
	if err := ctx.Err(); err != nil {
		return errs.Wrap("forget "+unit, err)
	}
	if stopped != nil && reset != nil { // one of them has nothing to do
		return errs.Wrap("forget "+unit, stopped)
	}
	return p.host.Remove(logFile(unit))
}

// ready waits for the unit that an earlier try left, and mends what an interrupted dpkg has left.
func (p *Provider) ready(ctx context.Context) error {
	if !p.host.Has("apt-get") || !p.host.Has("systemd-run") {
		return errs.New(errs.Precondition, "this host has no apt-get or no systemd-run").
			WithHint("packages are managed on Debian and Ubuntu with systemd only")
	}
	if err := p.join(ctx); err != nil {
		return err
	}
	interrupted, err := p.interrupted()
	if err != nil || !interrupted {
		return err
	}
	p.log.Warn("dpkg was interrupted before; mending it")
	return p.inUnit(ctx, "mend an interrupted dpkg", "dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
}

// join waits for all of our units that are loaded. How they ended does not matter: what counts is what dpkg says then.
func (p *Provider) join(ctx context.Context) error {
	out, err := p.host.Run(ctx, "systemctl", "show", "--property=Id", "--", unitPrefix+"*.service")
	if err != nil {
		return errs.Wrap("look for a running apt of ours", err)
	}
	for line := range strings.Lines(string(out.Stdout)) {
		unit, ok := strings.CutPrefix(strings.TrimSpace(line), "Id=")
		if !ok || !strings.HasPrefix(unit, unitPrefix) {
			continue
		}
		p.log.Info("waiting for what an earlier try began", "unit", unit)
		if err := p.await(ctx, "what an earlier try began", unit); err != nil {
			if ctx.Err() != nil {
				return err
			}
			p.log.Warn("an earlier try failed", "unit", unit, "error", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = ""
	return nil
}

func (p *Provider) interrupted() (bool, error) {
	data, err := p.status()
	if err != nil {
		return false, err
	}
	broken := false
	scan(data, func(e *entry) { broken = broken || e.broken() })
	if broken {
		return true, nil
	}
	records, err := p.host.Glob(journal)
	return len(records) > 0, errs.Wrap("look at dpkg's journal", err)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// linesWith are the lines that start with one of the words.
func linesWith(text string, words ...string) []string {
	var list []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(line, w) }) {
			list = append(list, line)
		}
	}
	return list
}
