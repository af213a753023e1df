// Package logins watches who logs in by SSH and reports it to the server for the audit log. It follows sshd's lines in the
// journal, from where it left off; failed tries are only counted, and logins of witnesses, which run nothing, are left out.
package logins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Action is what an accepted login is called in the audit log.
const Action = "ssh.login"

// keysDir holds the keys of the accounts, a file each; the accounts provider writes it.
const keysDir = "/etc/ssh/infractl-keys"

// saveEvery is how often the place in the journal is written while nobody logs in.
const saveEvery = time.Minute

// Config is what a Watcher needs.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Dir is the folder that keeps the place in the journal.
	Dir string
	Log hclog.Logger
	// Send hands an event to the server. It waits until there is a session, and fails only when ctx ends.
	Send func(ctx context.Context, ev *v1.HostEvent) error
	// Registerer gets the counters; nil means none.
	Registerer prometheus.Registerer
	// Pause is the first wait before the journal is followed again; 0 means 1 s. It doubles up to a minute.
	Pause time.Duration
}

// Watcher watches logins.
type Watcher struct {
	cfg      Config
	accepted *prometheus.CounterVec
	failed   prometheus.Counter
	saved    time.Time
}

// The kinds of logins.
const (
	kindCertificate = "certificate"
	kindBreakGlass  = "break_glass"
	kindWitness     = "witness"
)

// New returns a watcher.
func New(cfg Config) *Watcher {
	if cfg.Pause == 0 {
		cfg.Pause = time.Second
	}
	w := &Watcher{cfg: cfg,
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "infractl_agent_ssh_logins_total",
			Help: "Accepted logins by SSH: with a certificate, to break the glass (with a key of a person's own or a password), of witnesses."},
			[]string{"kind"}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "infractl_agent_ssh_failed_logins_total",
			Help: "Failed tries to log in by SSH."}),
	}
	for _, kind := range []string{kindCertificate, kindBreakGlass, kindWitness} {
		w.accepted.WithLabelValues(kind)
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(w.accepted, w.failed)
	}
	return w
}

// Run watches until ctx ends. Without a journal it says so and ends.
func (w *Watcher) Run(ctx context.Context) {
	if !w.cfg.Host.Has("journalctl") {
		w.cfg.Log.Warn("logins are not reported: there is no journal")
		return
	}
	for pause := w.cfg.Pause; ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		began := time.Now()
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		var exit *host.ExitError
		if errors.As(err, &exit) && time.Since(began) < time.Second && w.cursor() != "" {
			// A place that journalctl does not take any more; going on from now is better than not at all.
			w.cfg.Log.Warn("the place in the journal is lost: logins since then are not reported", "error", err)
			err = w.cfg.Host.Remove(w.file())
		}
		if time.Since(began) > time.Minute {
			pause = w.cfg.Pause
		}
		w.cfg.Log.Warn("the journal is not followed; trying again", "error", err, "again_in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (w *Watcher) file() string { return path.Join(w.cfg.Dir, "cursor") }

func (w *Watcher) cursor() string {
	data, err := w.cfg.Host.ReadFile(w.file())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.cfg.Log.Warn("the place in the journal cannot be read", "error", err)
	}
	if text := strings.TrimSpace(string(data)); validCursor(text) {
		return text
	}
	return ""
}

// argv asks for lines that root's sshd wrote, by what the kernel says of the writer: nobody else can forge them.
func argv(cursor string) []string {
	args := []string{"journalctl", "--follow", "--no-pager", "--quiet", "--output=json", "--output-fields=MESSAGE"}
	if cursor != "" {
		args = append(args, "--no-tail", "--after-cursor="+cursor)
	} else {
		args = append(args, "--lines=0")
	}
	return append(args, "_UID=0", "_COMM=sshd", "+", "_UID=0", "_COMM=sshd-session")
}

func (w *Watcher) follow(ctx context.Context) error {
	err := w.cfg.Host.Follow(ctx, host.Cmd{Argv: argv(w.cursor())}, func(line []byte) error {
		r, err := parseRecord(line)
		if err != nil {
			w.cfg.Log.Debug("a line of the journal is passed over", "error", err)
			return nil
		}
		return w.record(ctx, r)
	})
	if err == nil {
		err = errs.New(errs.Internal, "journalctl ended")
	}
	return err
}

// record handles one line. The place is kept after its event was handed over, so that a restart reports it again rather than
// never.
func (w *Watcher) record(ctx context.Context, r record) error {
	if strings.HasPrefix(r.message, "Failed ") {
		w.failed.Inc()
	}
	l, ok := parseLogin(r.message)
	if ok {
		ev, kind := w.event(l)
		w.accepted.WithLabelValues(kind).Inc()
		if ev == nil {
			return nil
		}
		ev.Time = timestamppb.New(r.time)
		if err := w.cfg.Send(ctx, ev); err != nil {
			return err
		}
	}
	if !ok && time.Since(w.saved) < saveEvery {
		return nil
	}
	w.saved = time.Now()
	if _, err := w.cfg.Host.WriteFile(w.file(), []byte(r.cursor+"\n"), 0o600); err != nil {
		w.cfg.Log.Warn("the place in the journal is not kept", "error", err)
	}
	return nil
}

// event says what a login is; nil for a witness.
func (w *Watcher) event(l login) (*v1.HostEvent, string) {
	ev := &v1.HostEvent{Action: Action, Target: l.account, Source: l.source, Result: "ok"}
	if name, entry, ok := l.operator(); ok {
		ev.Message = fmt.Sprintf("certificate of %s, entry %s, serial %s, key %s", name, entry, l.serial, l.key)
		return ev, kindCertificate
	}
	if l.certificate {
		ev.Message = fmt.Sprintf("certificate %.100q of the authority %s, serial %s, key %s", l.id, l.authority, l.serial, l.key)
		return ev, kindCertificate
	}
	if l.key == "" {
		ev.Message = "break-glass: " + l.method
		return ev, kindBreakGlass
	}
	comment, witness := w.owner(l)
	if witness {
		return nil, kindWitness
	}
	ev.Message = "break-glass: key " + l.key
	if comment != "" {
		ev.Message += fmt.Sprintf(" (%.100s)", comment)
	}
	return ev, kindBreakGlass
}

// owner finds a key in the account's file: the remark beside it, and whether it is a witness's, which opens nothing but a login
// that runs "true".
func (w *Watcher) owner(l login) (comment string, witness bool) {
	data, err := w.cfg.Host.ReadFile(path.Join(keysDir, l.account))
	for err == nil && len(data) > 0 {
		var key ssh.PublicKey
		var options []string
		var remark string
		if key, remark, options, data, err = ssh.ParseAuthorizedKey(data); err == nil && ssh.FingerprintSHA256(key) == l.key {
			return remark, slices.Contains(options, "restrict") && slices.Contains(options, `command="true"`)
		}
	}
	return "", false
}
