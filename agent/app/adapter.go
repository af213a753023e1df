package app

import (
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/agent/engine"
	"github.com/infractl/infractl/agent/probe"
	"github.com/infractl/infractl/agent/session"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// engineAdapter is the engine as a session sees it: each package names its own Confirmer.
type engineAdapter struct {
	*engine.Engine
	// applied is told of each result.
	applied func(*v1.ApplyResult)
}

// Apply implements session.Engine.
func (e engineAdapter) Apply(ctx context.Context, task *v1.ApplyTask, id string, c session.Confirmer, progress func(v1.Phase, string)) (*v1.ApplyResult, error) {
	result, err := e.Engine.Apply(ctx, task, id, c, progress)
	e.applied(result)
	return result, err
}

// lateProber is the prober, which needs the session's identity, as the session sees it, which needs the prober.
type lateProber struct{ *probe.Prober }

func witnessKey(key ssh.Signer) func() (ssh.Signer, error) {
	return func() (ssh.Signer, error) { return key, nil }
}

var _ session.Engine = engineAdapter{}
