package demo

import (
	"context"
	"path/filepath"

	"github.com/infractl/infractl/internal/errs"
)

// ServerPage reads a page of the server over HTTP as the operator, such as /metrics.
func (s *Site) ServerPage(ctx context.Context, path string) (string, error) {
	identity := filepath.Join(s.ConfigDir(), "identity.pem") // key, certificate and root in one file
	argv := []string{"curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "10", "--cacert", identity,
		"--cert", identity, "--key", identity, "https://10.0.10.4:7443" + path}
	r, err := s.Lab.Namespace(Operator).Exec(ctx, argv...)
	if err == nil {
		err = r.OK("curl")
	}
	return r.Stdout, errs.Wrap("read "+path, err)
}
