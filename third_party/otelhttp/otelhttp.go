// Package otelhttp stands in for OpenTelemetry's transport of that name, which Docker's clients wrap around their own. Nothing of ours
// collects traces, and the real one brings 300 KB into the agent; this one passes requests on.
package otelhttp

import "net/http"

// Option is an option of NewTransport; none has an effect.
type Option func()

// Transport passes requests on.
type Transport struct{ base http.RoundTripper }

// NewTransport returns a transport over base; nil means http.DefaultTransport.
func NewTransport(base http.RoundTripper, _ ...Option) *Transport {
	if base == nil {
		base = http.DefaultTransport
	}
	return &Transport{base}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) { return t.base.RoundTrip(r) }

// WithSpanNameFormatter would name spans.
func WithSpanNameFormatter(func(operation string, r *http.Request) string) Option { return nothing }

// WithTracerProvider would choose who gets spans.
func WithTracerProvider(any) Option { return nothing }

// WithPropagators would choose how spans travel.
func WithPropagators(any) Option { return nothing }

// WithClientTrace would follow connections.
func WithClientTrace(any) Option { return nothing }

func nothing() {}
