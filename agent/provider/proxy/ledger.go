package proxy

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

const (
	ledgerFile     = "/var/lib/infractl/proxy/certificates.json"
	week           = 7 * 24 * time.Hour
	defaultPerWeek = 40 // ten below the limit of Let's Encrypt, for what people ask for by hand
	firstRetry     = time.Hour
	lastRetry      = 24 * time.Hour
)

// entry is one certificate of the queue.
type entry struct {
	// Wanted is since when it is wanted: the queue's order.
	Wanted time.Time `json:"wanted"`
	// Requested is when it was first let through; zero while it waits. Renewals change nothing.
	Requested time.Time `json:"requested,omitzero"`
	// Had says that it was there already and cost nothing.
	Had bool `json:"had,omitempty"`
	// Tries is how often the authority refused, Next is when it is asked again.
	Tries int       `json:"tries,omitempty"`
	Next  time.Time `json:"next,omitzero"`
}

// ledger bounds how many new certificates are asked for in any seven days. It stands on disk, so that a restart forgets nothing.
type ledger struct {
	Version      int               `json:"version"`
	Certificates map[string]*entry `json:"certificates"`

	known map[string]bool // those that stood on disk
}

func newLedger() *ledger {
	return &ledger{Version: 1, Certificates: map[string]*entry{}, known: map[string]bool{}}
}

// admit enters the wanted certificates and returns those that may be used or asked for now. have are those that are there.
func (l *ledger) admit(now time.Time, keys []string, have map[string]bool, perWeek int) map[string]bool {
	if perWeek <= 0 {
		perWeek = defaultPerWeek
	}
	wanted := map[string]bool{}
	for _, k := range keys {
		wanted[k] = true
		if l.Certificates[k] == nil {
			l.Certificates[k] = &entry{Wanted: now}
		}
	}
	recent := 0
	for k, e := range l.Certificates {
		fresh := !e.Requested.IsZero() && !e.Had && now.Sub(e.Requested) < week
		if fresh {
			recent++
		} else if !wanted[k] {
			delete(l.Certificates, k)
		}
	}
	order := slices.SortedFunc(keysOf(wanted), func(a, b string) int {
		if c := l.Certificates[a].Wanted.Compare(l.Certificates[b].Wanted); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	out := map[string]bool{}
	for _, k := range order {
		e := l.Certificates[k]
		switch {
		case have[k]:
			if e.Requested.IsZero() {
				e.Requested, e.Had = now, true
			}
			e.Tries, e.Next = 0, time.Time{}
		case e.Requested.IsZero() || e.Had: // one that was there and is gone is a new one
			if recent >= perWeek {
				continue
			}
			recent++
			e.Requested, e.Had = now, false
		case now.Before(e.Next):
			continue
		}
		out[k] = true
	}
	return out
}

// turn is when a certificate that waits is let through, if nothing changes before: each new one may be asked for when the one perWeek places
// before it is a week old.
func (l *ledger) turn(now time.Time, key string, perWeek int) time.Time {
	if perWeek <= 0 {
		perWeek = defaultPerWeek
	}
	e := l.Certificates[key]
	if e == nil {
		return now
	}
	var at []time.Time
	place := 0
	for k, o := range l.Certificates {
		switch {
		case !o.Requested.IsZero() && !o.Had && now.Sub(o.Requested) < week:
			at = append(at, o.Requested)
		case o.Requested.IsZero() && (o.Wanted.Before(e.Wanted) || o.Wanted.Equal(e.Wanted) && k < key):
			place++
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	for range place + 1 {
		next := now
		if n := len(at) - perWeek; n >= 0 && at[n].Add(week).After(now) {
			next = at[n].Add(week)
		}
		at = append(at, next)
	}
	return at[len(at)-1]
}

// fail notes that the authority refused; it counts failures too, so each further one waits longer.
func (l *ledger) fail(now time.Time, key string) {
	e := l.Certificates[key]
	if e == nil {
		return
	}
	wait := lastRetry
	if e.Tries < 5 {
		wait = min(lastRetry, firstRetry<<e.Tries)
	}
	e.Tries++
	e.Next = now.Add(wait)
}

// queued reports whether a certificate has taken its place in the queue: then waiting for it is no change.
func (l *ledger) queued(key string) bool { return l.known[key] }

func (p *Provider) readLedger() (*ledger, error) {
	l := newLedger()
	data, err := p.host.ReadFile(ledgerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, errs.Wrap("read "+ledgerFile, err)
	}
	if err := strictjson.Unmarshal(data, l); err != nil || l.Version != 1 || l.Certificates == nil {
		return nil, errs.New(errs.Precondition, "the queue of certificates is damaged").At(ledgerFile).
			WithHint("remove that file; then wait a week before many new names are added")
	}
	for k, e := range l.Certificates {
		if e == nil {
			return nil, errs.New(errs.Precondition, "the queue of certificates is damaged").At(ledgerFile).WithHint("remove that file")
		}
		l.known[k] = true
	}
	return l, nil
}

func (p *Provider) writeLedger(l *ledger) error {
	data, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return errs.Wrap("write the queue of certificates", err)
	}
	_, err = p.host.WriteFile(ledgerFile, append(data, '\n'), 0o600)
	return err
}
