package cmd

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/probing"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// reportLimit bounds a report: a commit's window is not much longer.
const reportLimit = 20 * time.Second

// witness takes the place of witnesses that do not exist: it opens the connections and logins from here and reports what it
// saw. What goes wrong is told and not fatal: the commit then reverts by itself.
type witness struct {
	app *app
	api v1.RolloutServiceClient
	// people makes certificates for logins; nil means that only the operator's own keys are used.
	people   v1.OperatorServiceClient
	identity string
	note     func(format string, args ...any)

	mu     sync.Mutex
	busy   map[string]bool // commits that are looked at now
	keys   *sshKeys
	passes map[string]witnessPass // by account and node
}

// look does what the server asks for.
func (w *witness) look(ctx context.Context, req *v1.WitnessRequest) {
	if !w.begin(req.GetCommitId()) {
		return
	}
	defer w.end(req.GetCommitId())
	w.note("%s has no witness yet: %d way(s) are tried from here", req.GetNode(), len(req.GetProbes()))
	keys := w.loginKeys(ctx, req)
	seen, err := probing.New(probing.Config{Keys: keys.signers, TLS: w.tls}).Probe(ctx, &v1.ProbeTask{Probes: req.GetProbes()})
	if err != nil {
		w.note("could not look as a witness of %s: %v", req.GetNode(), err)
		return
	}
	for i, o := range seen.GetObservations() {
		w.note("    %s: %s, %s%s", way(req.GetProbes()[i]), word(o.GetOutcome(), "PROBE_OUTCOME_"), o.GetDetail(), keys.by(req.GetProbes()[i], o))
	}
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	_, err = w.api.ReportWitness(ctx, &v1.ReportWitnessRequest{CommitId: req.GetCommitId(), Observations: seen.GetObservations()},
		grpc.WaitForReady(true))
	if err != nil {
		w.note("could not report as a witness of %s: %v", req.GetNode(), errs.FromGRPC(err))
	}
}

// begin reports whether nobody looks at the commit yet: the server repeats its question until it is answered.
func (w *witness) begin(commit string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[commit] {
		return false
	}
	if w.busy == nil {
		w.busy = map[string]bool{}
	}
	w.busy[commit] = true
	return true
}

func (w *witness) end(commit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.busy, commit)
}

// way names a probe for people.
func way(p *v1.Probe) string {
	address := net.JoinHostPort(p.GetAddress(), strconv.Itoa(int(p.GetPort())))
	switch p.GetKind() {
	case v1.ProbeKind_PROBE_KIND_SSH_LOGIN:
		return "login to " + address + " as " + p.GetUser()
	case v1.ProbeKind_PROBE_KIND_SSH_BANNER:
		return "SSH at " + address
	case v1.ProbeKind_PROBE_KIND_SERVER:
		return "server at " + address
	}
	return address
}

func (w *witness) tls() (*tls.Config, error) {
	f, err := w.app.folder()
	if err != nil {
		return nil, err
	}
	return f.TLS(w.app.clock)
}

func (w *witness) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keys != nil {
		w.keys.close()
	}
}
