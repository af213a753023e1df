// Package probing opens connections for the server and says what it saw: whether a way is open, and whether a login works.
// Agents do it as witnesses and to prove the flows, the command line in place of a witness that does not exist yet.
package probing

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Limits.
const (
	// MaxProbes is the largest number of probes of one task.
	MaxProbes = 4096
	// Parallel is how many probes run at once.
	Parallel = 128
	// MaxTimeout bounds one probe; a probe without a timeout gets DefaultTimeout.
	MaxTimeout     = 30 * time.Second
	DefaultTimeout = 3 * time.Second
)

// Config is what a Prober needs.
type Config struct {
	// Keys are those for the login of a probe, tried in order; nil or none means that logins are rejected.
	Keys func(probe *v1.Probe) ([]ssh.Signer, error)
	// TLS is the configuration with which the caller reaches its server, for PROBE_KIND_SERVER; nil means that these are
	// rejected.
	TLS func() (*tls.Config, error)
}

// Prober carries out probes.
type Prober struct{ cfg Config }

// New returns a Prober.
func New(cfg Config) *Prober { return &Prober{cfg} }

// outcome is what one probe saw.
type outcome struct {
	seen   v1.ProbeOutcome
	detail string
}

func open(detail string) outcome { return outcome{v1.ProbeOutcome_PROBE_OUTCOME_OPEN, detail} }

func rejected(err error) outcome {
	return outcome{v1.ProbeOutcome_PROBE_OUTCOME_REJECTED, err.Error()}
}

// Probe carries out a task. A probe that cannot be made (no address, unknown kind) makes the whole task Invalid before
// anything is opened.
func (p *Prober) Probe(ctx context.Context, task *v1.ProbeTask) (*v1.ProbeResult, error) {
	if n := len(task.GetProbes()); n > MaxProbes {
		return nil, errs.New(errs.Invalid, "%d probes in one task, more than %d", n, MaxProbes)
	}
	for _, probe := range task.GetProbes() {
		if err := check(probe); err != nil {
			return nil, err
		}
	}
	result := &v1.ProbeResult{Observations: make([]*v1.ProbeObservation, len(task.GetProbes()))}
	slots := make(chan struct{}, Parallel)
	var group sync.WaitGroup
	for i, probe := range task.GetProbes() {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			result.Observations[i] = p.one(ctx, probe)
		})
	}
	group.Wait()
	return result, ctx.Err()
}

func check(probe *v1.Probe) error {
	if _, err := netip.ParseAddr(probe.GetAddress()); err != nil {
		return errs.New(errs.Invalid, "probe %.64q: %.64q is no IP address", probe.GetId(), probe.GetAddress())
	}
	if probe.GetPort() == 0 || probe.GetPort() > 65535 {
		return errs.New(errs.Invalid, "probe %.64q: port %d is not 1 to 65535", probe.GetId(), probe.GetPort())
	}
	switch probe.GetKind() {
	case v1.ProbeKind_PROBE_KIND_TCP, v1.ProbeKind_PROBE_KIND_UDP, v1.ProbeKind_PROBE_KIND_SSH_BANNER,
		v1.ProbeKind_PROBE_KIND_SSH_LOGIN, v1.ProbeKind_PROBE_KIND_SERVER:
		return nil
	}
	return errs.New(errs.Invalid, "probe %.64q: kind %d is not known here", probe.GetId(), probe.GetKind()).
		WithHint("use the server's version of infractl on this machine")
}

func (p *Prober) one(ctx context.Context, probe *v1.Probe) *v1.ProbeObservation {
	timeout := probe.GetTimeout().AsDuration()
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, min(timeout, MaxTimeout))
	defer cancel()
	address := net.JoinHostPort(probe.GetAddress(), strconv.Itoa(int(probe.GetPort())))
	started := time.Now()
	var saw outcome
	switch probe.GetKind() {
	case v1.ProbeKind_PROBE_KIND_UDP:
		saw = udp(ctx, address, int(probe.GetPort()))
	default:
		saw = p.tcp(ctx, address, probe)
	}
	const most = 500 // bytes of a detail: it is for people, and part of it comes from the other side
	return &v1.ProbeObservation{Id: probe.GetId(), Outcome: saw.seen, Detail: clean(saw.detail, most),
		Latency: durationpb.New(time.Since(started))}
}

// clean makes text from another machine fit to be printed.
func clean(text string, limit int) string {
	out := make([]rune, 0, min(len(text), limit))
	for _, r := range text {
		if len(out) == limit {
			break
		}
		if r < ' ' || r == 0x7f || r == 0xfffd {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}
