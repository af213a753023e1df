package rollouttest

import (
	"context"
	"maps"
	"sync"

	"github.com/infractl/infractl/internal/site"
)

// Secrets is a source of resources: secrets that somebody has set.
type Secrets struct {
	mu       sync.Mutex
	versions map[string]string
}

// ExampleSecrets are those that the example site names.
func ExampleSecrets() *Secrets {
	return &Secrets{versions: map[string]string{"npm-db": "v1", "npm-admin": "v1", "portainer-admin": "v1", "smtp": "v1", "grafana-admin": "v1"}}
}

// Forget takes a secret away.
func (s *Secrets) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.versions, name)
}

// Resources implements revision.Source.
func (s *Secrets) Resources(_ context.Context, into *site.Resources) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	into.Secrets = maps.Clone(s.versions)
	return nil
}
