package facts

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"
)

// dockerVersion asks the engine for its version over its socket: one request, without the weight of a client library.
func (r *Reader) dockerVersion(ctx context.Context) string {
	if !r.cfg.Host.Exists(r.cfg.DockerSocket) {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.cfg.Host.Path(r.cfg.DockerSocket))
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/version", nil)
	if err != nil {
		return ""
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	var version struct{ Version string }
	if json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&version) != nil {
		return ""
	}
	return version.Version
}
