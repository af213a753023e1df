// Package containers keeps the container stacks of a host: Compose files, used as they are.
//
// It looks at the engine itself, with one question per plan, and runs the helper infractl-compose only while a stack changes.
// What was applied stands in a record beside the stack's files, so that a plan without changes costs milliseconds. Images and
// secrets are fetched before (Stage); a stack that does not become healthy goes back to its former state. Volumes stay.
package containers

import (
	"context"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/images"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Engine is what the provider asks of the container engine; docker.Engine is one.
type Engine interface {
	Containers(ctx context.Context, labels ...string) ([]docker.Container, error)
	Inspect(ctx context.Context, id string) (docker.Detail, error)
	Logs(ctx context.Context, id string, o docker.LogOptions) (io.ReadCloser, error)
	Start(ctx context.Context, id string) error
	Restart(ctx context.Context, id string, grace time.Duration) error
	images.Engine
}

// Fetcher gets from the server what travels apart from the spec.
type Fetcher interface {
	images.Fetcher
	// Secrets returns the values in the order of the references.
	Secrets(ctx context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error)
}

// Config makes a Provider.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Engine is the container engine.
	Engine Engine
	// Fetcher gets images and secrets; nil means that there is no way to.
	Fetcher Fetcher
	// Dir is the folder of the stacks; "" means /var/lib/infractl/stacks. Archives on their way stand beside it.
	Dir string
	// Helper is the program infractl-compose; "" means the one beside the agent's own program.
	Helper string
	// Socket is the engine's socket, for the helper; "" means docker.DefaultSocket.
	Socket string
	// Wait bounds how long a stack may take to become healthy; 0 means 2 min.
	Wait time.Duration
	// Clock is the machine's clock; nil means the system's.
	Clock clock.Clock
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
}

// Provider implements provider.Provider for container stacks.
type Provider struct {
	cfg    Config
	host   *host.Host
	engine Engine
	log    hclog.Logger
	dir    string
	images *images.Images

	mu       sync.Mutex
	values   map[secretKey]secret.Value // staged secrets, until they are files
	repairs  map[string]*attempts
	details  map[string]detail
	problems map[string]string // by stack: what the last apply said
	report   *v1.ContainersReport
}

type secretKey struct{ name, version string }

var _ provider.Provider[*v1.ContainersSpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Dir == "" {
		cfg.Dir = "/var/lib/infractl/stacks"
	}
	if cfg.Socket == "" {
		cfg.Socket = docker.DefaultSocket
	}
	if cfg.Wait == 0 {
		cfg.Wait = 2 * time.Minute
	}
	if cfg.Helper == "" {
		cfg.Helper = "/usr/bin/infractl-compose"
		if program, err := os.Executable(); err == nil {
			cfg.Helper = filepath.Join(filepath.Dir(program), "infractl-compose")
		}
	}
	archives := images.New(images.Config{Host: cfg.Host, Engine: cfg.Engine, Fetcher: cfg.Fetcher, Log: cfg.Log,
		Dir: path.Join(path.Dir(cfg.Dir), "images")})
	return &Provider{cfg: cfg, host: cfg.Host, engine: cfg.Engine, log: cfg.Log, dir: cfg.Dir, images: archives, values: map[secretKey]secret.Value{}, repairs: map[string]*attempts{},
		details: map[string]detail{}, problems: map[string]string{}}
}

// Images brings images onto the host, for other providers too.
func (p *Provider) Images() *images.Images { return p.images }

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Services} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "containers" }

type (
	wish = provider.Wish[*v1.ContainersSpec]
	plan = provider.Plan[*v1.ContainersSpec]
)

// Plan implements provider.Provider: one question to the engine, the records and the files. An engine that does not answer
// is no error here, since it may be about to be installed; Apply says so. Errors: Invalid for a spec that can't be.
func (p *Provider) Plan(ctx context.Context, w wish) (provider.Plan[*v1.ContainersSpec], error) {
	result := plan{Wish: w}
	work, err := p.look(ctx, w.Spec)
	if err != nil {
		return result, err
	}
	for _, s := range work.stacks {
		result.Changes = append(result.Changes, s.changes...)
	}
	return result, ctx.Err()
}

// Verify implements provider.Provider: every container runs and none is unhealthy.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	if len(w.Spec.GetStacks()) == 0 {
		return nil
	}
	work, err := p.look(ctx, w.Spec)
	if err != nil {
		return err
	}
	if work.engineErr != nil {
		return work.engineErr
	}
	for _, s := range work.stacks {
		if len(s.changes) > 0 {
			return errs.New(errs.Internal, "stack %s is not as wanted: %s", s.name, s.changes[0].GetSubject()).
				WithHint("infractl stack show %s", s.name)
		}
	}
	return nil
}

// Keep implements provider.Provider; what was applied is on disk already, and the engine starts containers at boot.
func (p *Provider) Keep(context.Context, wish) error { return nil }
