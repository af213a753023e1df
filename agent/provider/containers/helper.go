package containers

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"time"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// compose runs the helper for a stack as its record says.
func (p *Provider) compose(ctx context.Context, action string, r *record) (*wire.Result, error) {
	req := wire.Request{Action: action, Project: r.Name, Socket: p.cfg.Socket}
	if action != wire.Down {
		req.Dir, req.File = p.host.Path(p.projectDir(r.Name)), r.File
		req.Variables, req.Images, req.Secrets, req.Files = r.Variables, r.Images, r.Secrets, slices.Clone(r.Files)
		req.SecretDir = p.host.Path(p.secretDir(r.Name))
		req.WaitSeconds = int(p.cfg.Wait.Seconds())
	}
	data, err := json.Marshal(req)
	if err != nil {
		return nil, errs.Wrap("ask infractl-compose", err)
	}
	out, err := p.host.RunCmd(ctx, host.Cmd{Argv: []string{p.cfg.Helper}, Stdin: data, Timeout: 2*p.cfg.Wait + 4*time.Minute,
		Env: []string{"DOCKER_CONFIG=/nonexistent", "GOMAXPROCS=2"}})
	if err == nil || len(out.Stdout) > 0 {
		result, rerr := wire.ReadResult(out.Stdout)
		if rerr == nil && err == nil || rerr != nil && result != nil {
			return result, rerr
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == nil:
		err = errs.New(errs.Internal, "%s ended without a result", path.Base(p.cfg.Helper))
	}
	return nil, errs.New(errs.CodeOf(err), "the helper infractl-compose failed: %w", err).
		WithHint("it belongs to the agent's package: is %s there?", p.cfg.Helper)
}
