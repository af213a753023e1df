package access

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/server/store"
)

// Reason says why something was refused; it is the label of infractl_refused_total.
type Reason string

// The reasons of refusals.
const (
	ReasonHandshake  Reason = "handshake"      // no TLS connection came about: wrong or expired certificate, or no TLS at all
	ReasonExpired    Reason = "expired"        // the certificate ended while the connection lived
	ReasonRevoked    Reason = "revoked"        // the identity was withdrawn
	ReasonUnknown    Reason = "unknown_caller" // a good certificate that this server has no record of
	ReasonCaller     Reason = "caller"         // a node on an operator's method, or the other way round
	ReasonRole       Reason = "role"           // the operator's role is not enough
	ReasonMethod     Reason = "method"         // no such method, or not on this listener
	ReasonTooLarge   Reason = "too_large"      // a message above its limit
	ReasonRate       Reason = "rate"           // too many calls
	ReasonMalformed  Reason = "malformed"      // a message that cannot be read
	ReasonToken      Reason = "token"          // an unknown, expired, used or revoked join token
	ReasonClone      Reason = "clone"          // a second machine under one identity
	ReasonForeign    Reason = "foreign"        // a node spoke of what belongs to another node
	ReasonRecovery   Reason = "recovery"       // a return after expiry that was not granted
	ReasonLogin      Reason = "login"          // a wrong, used or expired code of a person
	ReasonSocketPeer Reason = "socket_peer"    // a process on the Unix socket that does not run as root
)

// Reasons lists all reasons.
func Reasons() []Reason {
	return []Reason{ReasonHandshake, ReasonExpired, ReasonRevoked, ReasonUnknown, ReasonCaller, ReasonRole, ReasonMethod,
		ReasonTooLarge, ReasonRate, ReasonMalformed, ReasonToken, ReasonClone, ReasonForeign, ReasonRecovery, ReasonLogin,
		ReasonSocketPeer}
}

// Refusals are written to the audit log at this rate at most, so that nobody fills the disk by being refused: 17,000 entries,
// some megabytes, a day. The metric counts them all.
const (
	auditRate  = rate.Limit(0.2)
	auditBurst = 100
)

// RecorderConfig is what a Recorder needs.
type RecorderConfig struct {
	Audit store.Audit
	Clock clock.Clock
	Log   hclog.Logger
	// Registry gets the metric of refusals; nil leaves it out.
	Registry prometheus.Registerer
}

// Recorder counts and audits refusals, and writes audit entries.
type Recorder struct {
	cfg        RecorderConfig
	refused    *prometheus.CounterVec
	limit      *rate.Limiter
	suppressed atomic.Int64
}

// NewRecorder returns a recorder.
func NewRecorder(cfg RecorderConfig) *Recorder {
	r := &Recorder{
		cfg: cfg,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "infractl_refused_total", Help: "Connections, calls and messages that were refused, by reason.",
		}, []string{"reason"}),
		limit: rate.NewLimiter(auditRate, auditBurst),
	}
	for _, reason := range Reasons() { // so that an alert sees the first one as a change
		r.refused.WithLabelValues(string(reason))
	}
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(r.refused)
	}
	return r
}

// Refused counts a refusal and writes it to the audit log, as far as the rate of such entries allows. entry.Result and
// entry.Message say what was answered.
func (r *Recorder) Refused(ctx context.Context, reason Reason, entry store.AuditEntry) {
	r.refused.WithLabelValues(string(reason)).Inc()
	if !r.limit.Allow() {
		r.suppressed.Add(1)
		return
	}
	if n := r.suppressed.Swap(0); n > 0 {
		entry.Message = fmt.Sprintf("%s (%d refusals before this one were counted only)", entry.Message, n)
	}
	r.cfg.Log.Warn("refused", "reason", reason, "actor", entry.Actor, "source", entry.Source, "action", entry.Action,
		"message", entry.Message)
	r.Write(ctx, entry)
}

// Write appends an entry. An entry that cannot be written is logged: what it tells of has happened already.
func (r *Recorder) Write(ctx context.Context, entry store.AuditEntry) {
	if _, err := r.Append(ctx, entry); err != nil {
		r.cfg.Log.Error("audit entry not written", "error", err, "actor", entry.Actor, "action", entry.Action,
			"target", entry.Target, "result", entry.Result)
	}
}

// Append appends an entry and returns its number. It is for what must not happen without an entry.
func (r *Recorder) Append(ctx context.Context, entry store.AuditEntry) (int64, error) {
	if entry.Time.IsZero() {
		entry.Time = r.cfg.Clock.Now()
	}
	// The caller may be gone by now; the entry is owed all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return r.cfg.Audit.AppendAudit(ctx, entry)
}
