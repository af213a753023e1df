package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"
)

// enrol gives each machine a join token and waits until all agents have sessions. The agents have been running since boot
// and find their tokens by themselves.
func (s *Site) enrol(ctx context.Context) error {
	// The router must forward before the operator reaches the server.
	if err := s.Lab.WaitBooted(ctx, Router); err != nil {
		return err
	}
	cfg := s.Lab.Config()
	names := cfg.VMNames()
	g, gctx := errgroup.WithContext(ctx)
	for _, name := range names {
		g.Go(func() error {
			token, err := s.Must(gctx, "token", "create", "--node", name)
			if err != nil {
				return errs.Wrap("make a token for "+name, err)
			}
			return s.Lab.VM(name).WriteFile(gctx, "/etc/infractl/join-token", 0o600, []byte(token))
		})
	}
	g.Go(func() error { return s.startOperatorProbe(gctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.WaitOnline(ctx, 60*time.Second, append(names, Operator)...); err != nil {
		return err
	}
	s.Say("agents: %d machines enrolled by themselves, and the operator's probe", len(names))
	return nil
}

// startOperatorProbe runs a probe where the operator is: it proves the way in to the relay.
func (s *Site) startOperatorProbe(ctx context.Context) error {
	token, err := s.Must(ctx, "token", "create", "--node", Operator)
	if err != nil {
		return errs.Wrap("make a token for the operator's probe", err)
	}
	state := s.file("operator", "probe")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return errs.Wrap("start the operator's probe", err)
	}
	if err := os.WriteFile(filepath.Join(state, "join-token"), []byte(token), 0o600); err != nil {
		return errs.Wrap("start the operator's probe", err)
	}
	log, err := os.OpenFile(filepath.Join(state, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return errs.Wrap("start the operator's probe", err)
	}
	defer log.Close()
	// It outlives this command, and ends with its namespace.
	cmd := s.Lab.Namespace(Operator).Command(context.Background(), filepath.Join(s.opts.Bin, "infractl-agent"), "run",
		"--probe", Operator, "--state-dir", state)
	cmd.Stdout, cmd.Stderr = log, log
	// This machine may be a container, which has no id.
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return errs.Wrap("start the operator's probe", err)
	}
	cmd.Env = append(cmd.Environ(), "INFRACTL_MACHINE_ID="+hex.EncodeToString(id))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errs.Wrap("start the operator's probe", err)
	}
	go cmd.Wait() //nolint:errcheck // reaps it while this command lives
	return nil
}

type nodeList struct {
	Nodes []struct {
		Name  string `json:"name"`
		State string `json:"state"`
	} `json:"nodes"`
}

// WaitOnline waits until the named nodes have sessions.
func (s *Site) WaitOnline(ctx context.Context, limit time.Duration, names ...string) error {
	deadline := time.Now().Add(limit)
	for {
		missing := map[string]string{}
		for _, n := range names {
			missing[n] = "unknown"
		}
		out, err := s.Must(ctx, "node", "list", "-o", "json")
		if err == nil {
			var list nodeList
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				return errs.New(errs.Internal, "node list does not parse: %w", err)
			}
			for _, n := range list.Nodes {
				if _, wanted := missing[n.Name]; !wanted {
					continue
				}
				missing[n.Name] = strings.ToLower(strings.TrimPrefix(n.State, "NODE_STATE_"))
				if n.State == "NODE_STATE_ONLINE" {
					delete(missing, n.Name)
				}
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errs.New(errs.Timeout, "not online after %s: %v (last error: %v)", limit, missing, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
