package dns

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/zone"
	"github.com/infractl/infractl/server/store"
)

const (
	// publishEvery is how often public records are looked at.
	publishEvery = 5 * time.Minute
	// updateTimeout bounds one update.
	updateTimeout = 10 * time.Second
)

// Secrets gives the server what it needs itself.
type Secrets interface {
	// Own returns the current value of a secret.
	Own(ctx context.Context, name string) (secret.Value, error)
}

// PublisherConfig is what a Publisher needs.
type PublisherConfig struct {
	Sites   Sites
	Secrets Secrets
	Store   store.Records
	Clock   clock.Clock
	Log     hclog.Logger
	// Port is the server's; "" means 53.
	Port string
}

// Publisher sets public records by RFC 2136 where the site says so. It touches no name but those that the site makes, and removes those
// alone that it has set, as long as they are what it set.
type Publisher struct {
	cfg   PublisherConfig
	table *store.Table[published]
	mu    sync.Mutex // one at a time changes records
}

// published is what was set for one name and type; see publishedName.
type published struct {
	Zone   string   `json:"zone"`
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Values []string `json:"values"`
}

func publishedName(name, kind string) string { return name + "/" + kind }

// NewPublisher returns the publisher.
func NewPublisher(cfg PublisherConfig) *Publisher {
	return &Publisher{cfg: cfg, table: store.NewTable(cfg.Store, KindPublished, store.JSON[published]())}
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	for {
		if n, err := p.Publish(ctx); err != nil && ctx.Err() == nil && !errs.Is(err, errs.NotFound) {
			p.cfg.Log.Warn("public records are not set", "error", err)
		} else if n > 0 {
			p.cfg.Log.Info("public records were set", "names", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(publishEvery):
		}
	}
}

// Publish sets the records that are not as wanted and removes those that are not wanted any more. It returns how many names it changed.
// Nothing happens where the site does not ask for it; NotFound while there is no site.
func (p *Publisher) Publish(ctx context.Context) (int, error) { return p.work(ctx, true) }

// Retract removes the records that are not wanted any more, and sets none.
func (p *Publisher) Retract(ctx context.Context) (int, error) { return p.work(ctx, false) }

func (p *Publisher) work(ctx context.Context, set bool) (int, error) {
	const op = "set public records"
	p.mu.Lock()
	defer p.mu.Unlock()
	s, _, err := p.cfg.Sites.Load(ctx, 0)
	if err != nil || !s.DNS.Updates.Server.IsValid() || s.PublicDomain == "" {
		return 0, errs.Wrap(op, err)
	}
	res, err := p.cfg.Sites.Present(ctx)
	if err != nil {
		return 0, errs.Wrap(op, err)
	}
	var records []zone.Record
	for _, r := range s.PublicRecords(res) {
		if zone.Within(r.Name, s.PublicDomain) {
			records = append(records, r)
		}
	}
	server := zone.Port53(s.DNS.Updates.Server.String())
	if p.cfg.Port != "" {
		server = strings.TrimSuffix(server, "53") + p.cfg.Port
	}
	wanted := zone.Questions(records)
	changed, err := p.removeOld(ctx, s, server, wanted, res.Instances)
	if !set || err != nil {
		return changed, errs.Wrap(op, err)
	}
	for _, a := range zone.AskAll(ctx, zone.OverNetwork, server, wanted, false) {
		if a.Err != nil {
			return changed, errs.Wrap(op, a.Err)
		}
		if a.OK() {
			continue
		}
		if err := p.set(ctx, s, server, a.Question); err != nil {
			return changed, errs.Wrap(op, err)
		}
		changed++
	}
	return changed, nil
}

// removeOld removes what was set and is not wanted any more. The names of instances that are still there stay: a site file that lost its
// proxy must not take all customers' names off the internet, where resolvers remember that for hours.
func (p *Publisher) removeOld(ctx context.Context, s *site.Site, server string, wanted []zone.Question, instances []site.Instance) (removed int, err error) {
	list, err := p.table.List(ctx, store.ListOptions{})
	if err != nil {
		return 0, err
	}
	for _, it := range list {
		old := it.Value
		keep := func(q zone.Question) bool { return publishedName(q.Name, q.Type) == it.Name }
		alive := func(i site.Instance) bool {
			return strings.HasPrefix(old.Name, i.Name+".") || slices.Contains(i.Domains, old.Name)
		}
		if old.Zone != s.PublicDomain || slices.ContainsFunc(wanted, keep) || slices.ContainsFunc(instances, alive) {
			continue
		}
		gone, err := p.remove(ctx, s, server, old)
		if err != nil {
			return removed, err
		}
		if err := p.table.Delete(ctx, it.Name, store.Any); err != nil {
			return removed, err
		}
		if gone {
			removed++
		}
	}
	return removed, nil
}

// remove takes the records of one name and type away, if they still are those that were set.
func (p *Publisher) remove(ctx context.Context, s *site.Site, server string, old published) (bool, error) {
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(s.PublicDomain))
	same, err := rrset(old.Name, old.Type, old.Values, 0)
	if err != nil {
		return false, err
	}
	m.Used(same)
	if same, err = rrset(old.Name, old.Type, old.Values, 0); err != nil {
		return false, err
	}
	m.RemoveRRset(same[:1])
	code, err := p.send(ctx, s, server, m, old.Name)
	if err != nil || code == dns.RcodeNXRrset {
		return false, err // somebody else has changed it: it is theirs
	}
	return true, nil
}

// rrset are the records of one name and type.
func rrset(name, kind string, values []string, ttl uint32) ([]dns.RR, error) {
	var rrs []dns.RR
	for _, v := range values {
		if kind == "NS" || kind == "CNAME" {
			v = dns.Fqdn(v)
		}
		rr, err := dns.NewRR(fmt.Sprintf("%s %d IN %s %s", dns.Fqdn(name), ttl, kind, v))
		if err != nil {
			return nil, errs.New(errs.Internal, "%s: %w", name, err)
		}
		rrs = append(rrs, rr)
	}
	return rrs, nil
}

// set replaces the records of one name and type. What is set is noted before, so that it is removed some day whatever happens.
func (p *Publisher) set(ctx context.Context, s *site.Site, server string, q zone.Question) error {
	rrs, err := rrset(q.Name, q.Type, q.Values, 3600)
	if err != nil {
		return err
	}
	_, err = p.table.Put(ctx, publishedName(q.Name, q.Type), published{s.PublicDomain, q.Name, q.Type, q.Values}, store.Any)
	if err != nil {
		return err
	}
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(s.PublicDomain))
	m.RemoveRRset(rrs[:1])
	m.Insert(rrs)
	_, err = p.send(ctx, s, server, m, q.Name)
	return err
}

// send signs an update and sends it. NXRRSET, a condition that does not hold, is a result; every other refusal is an error.
func (p *Publisher) send(ctx context.Context, s *site.Site, server string, m *dns.Msg, what string) (code int, err error) {
	value, err := p.cfg.Secrets.Own(ctx, s.DNS.Updates.Secret)
	if err != nil {
		return 0, err
	}
	name, key, ok := strings.Cut(strings.TrimSpace(string(value.Reveal())), ":")
	if _, err := base64.StdEncoding.DecodeString(key); !ok || err != nil || name == "" || key == "" {
		return 0, errs.New(errs.Precondition, "secret %s has not the form NAME:KEY, with the key in base64", s.DNS.Updates.Secret).
			WithHint("infractl secret set %s", s.DNS.Updates.Secret)
	}
	m.SetTsig(dns.Fqdn(strings.ToLower(name)), dns.HmacSHA256, 300, p.cfg.Clock.Now().Unix())
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	answer, err := sendUpdate(ctx, m, server, map[string]string{dns.Fqdn(strings.ToLower(name)): key})
	if err != nil {
		return 0, errs.New(errs.Unavailable, "%s does not take the update of %s: %w", server, what, err)
	}
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNXRrset {
		return 0, errs.New(errs.Precondition, "%s refuses the update of %s: %s", server, what, dns.RcodeToString[answer.Rcode]).
			WithHint("may the key %s change zone %s there?", name, s.PublicDomain)
	}
	return answer.Rcode, nil
}

func sendUpdate(ctx context.Context, m *dns.Msg, server string, key map[string]string) (*dns.Msg, error) {
	c := dns.Client{Net: "tcp", TsigSecret: key, Timeout: updateTimeout}
	answer, _, err := c.ExchangeContext(ctx, m, server)
	return answer, err
}
