package proxy

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// driver is one kind of reverse proxy. Both pass the same suite.
type driver interface {
	// look reads what is served. One that does not answer, or is not installed, serves nothing.
	look(ctx context.Context, spec *v1.ProxySpec) (view, error)
	// ready waits until changes can be made.
	ready(ctx context.Context) error
	// apply makes ours exactly those wanted. failed are certificates that the authority refused.
	apply(ctx context.Context, spec *v1.ProxySpec, want []Host, have view) (failed map[string]error, err error)
	// check asks whether the hosts are served.
	check(ctx context.Context, spec *v1.ProxySpec, want []Host) error
	// save returns what restore needs, restore brings it back.
	save(ctx context.Context) (json.RawMessage, error)
	restore(ctx context.Context, data json.RawMessage) error
	// tidy removes what nothing uses any more.
	tidy(ctx context.Context) error
	// certificates are the keys in the queue of a host's certificates.
	certificates(h Host) []string
	// internal is what the driver serves an internal host with.
	internal() Certificate
	// parks reports whether a host that waits for its certificate is shown; else it is left as it is.
	parks() bool
}

// view is what a driver found.
type view struct {
	// hosts are ours by their first name.
	hosts map[string]Host
	// foreign are names that others serve, with what does.
	foreign map[string]string
	// broken are hosts of ours, by first name, that are not served although they are configured, with the reason.
	broken map[string]string
	// other are differences beyond hosts.
	other []*v1.Change
	// have are keys of certificates that are there; wildcard says that the one for the whole domain is.
	have     map[string]bool
	wildcard bool
}

// access is how a driver reaches its proxy.
type access struct {
	Driver string        `json:"driver"`
	API    string        `json:"api,omitempty"`
	User   string        `json:"user,omitempty"`
	Secret *v1.SecretRef `json:"-"`
}

func (p *Provider) driver(a access) (driver, error) {
	switch a.Driver {
	case DriverNPM:
		return p.newNPM(a)
	case DriverCaddy:
		return p.newCaddy(), nil
	}
	return nil, errs.New(errs.Invalid, "%.40q is no driver of a proxy", a.Driver).WithHint("infractl site check")
}

// foreign refuses names of the site that somebody else serves. Those of an instance, which may have been adopted with its names, are left
// out instead and told of: no other name waits for them.
func (w *work) foreign() error {
	var want []Host
	for _, h := range w.want {
		err := w.served(h)
		if err != nil && h.Instance == "" {
			return err
		}
		if err != nil {
			w.held = append(w.held, heldHost{h, err})
			continue
		}
		want = append(want, h)
	}
	w.want = want
	return nil
}

// served says that somebody else serves a name of a host.
func (w *work) served(h Host) error {
	for _, d := range h.Domains {
		if by := w.view.foreign[d]; by != "" {
			return errs.New(errs.Exists, "%s is served by %s, which infractl did not make", d, by).
				WithHint("remove or rename it there, then infractl apply; or take the name out of the site")
		}
	}
	return nil
}

// heldHost is a host of an instance that cannot be made while somebody else serves its name.
type heldHost struct {
	Host
	why error
}

// heldBack says which hosts cannot be made, with the code RolledBack: those that can are not taken back for them.
func (w *work) heldBack() error {
	var all []error
	for _, h := range w.held {
		all = append(all, h.why)
	}
	err := errs.Join(all...)
	if err == nil {
		return nil
	}
	return errs.New(errs.RolledBack, "%w", err).WithHint("%s", errs.HintOf(err))
}

// changes is the difference for people.
func (p *Provider) changes(w *work, spec *v1.ProxySpec) []*v1.Change {
	var list []*v1.Change
	add := func(subject string, action v1.ChangeAction, before, after []string) {
		list = append(list, p.change(subject, action, before, after))
	}
	wanted := map[string]bool{}
	for _, h := range w.want {
		wanted[h.Domains[0]] = true
		have, there := w.view.hosts[h.Domains[0]]
		before, after := have.lines(), h.lines()
		switch {
		case h.Certificate == Waiting && !w.driver.parks():
			if !w.queuedAll(h) {
				add(h.Domains[0], v1.ChangeAction_CHANGE_ACTION_CREATE, nil, append(after, "queued: it is served when its certificate's turn comes"))
			}
		case !there:
			add(h.Domains[0], v1.ChangeAction_CHANGE_ACTION_CREATE, nil, after)
		case strings.Join(before, "\n") != strings.Join(after, "\n") || have.Instance != h.Instance:
			add(h.Domains[0], v1.ChangeAction_CHANGE_ACTION_UPDATE, before, after)
		case w.view.broken[h.Domains[0]] != "":
			add(h.Domains[0], v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{w.view.broken[h.Domains[0]]}, []string{"served"})
		}
	}
	for _, h := range w.held {
		add(h.Domains[0], v1.ChangeAction_CHANGE_ACTION_CREATE, []string{h.why.Error()}, h.lines())
	}
	for _, name := range sortedKeys(w.view.hosts) {
		if !wanted[name] {
			have := w.view.hosts[name]
			add(name, v1.ChangeAction_CHANGE_ACTION_DELETE, have.lines(), nil)
		}
	}
	list = append(list, w.view.other...)
	if len(list) == 0 && !w.record.of(spec) {
		add("the proxy", v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{"applied from another wish"}, []string{"noted"})
	}
	return list
}

func (w *work) queuedAll(h Host) bool {
	for _, k := range w.driver.certificates(h) {
		if !w.ledger.queued(k) {
			return false
		}
	}
	return true
}

func (p *Provider) change(subject string, action v1.ChangeAction, before, after []string) *v1.Change {
	return &v1.Change{Provider: p.Name(), Subject: subject, Action: action, Before: before, After: after, Risk: v1.Risk_RISK_RESTART}
}
