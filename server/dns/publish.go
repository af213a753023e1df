package dns

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/zone"
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
	Clock   clock.Clock
	Log     hclog.Logger
	// Port is the server's; "" means 53.
	Port string
}

// Publisher sets public records by RFC 2136 where the site says so. It touches no name but those that the site makes, and removes none.
type Publisher struct{ cfg PublisherConfig }

// NewPublisher returns the publisher.
func NewPublisher(cfg PublisherConfig) *Publisher {
	return &Publisher{cfg: cfg}
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

// Publish sets the records that are not as wanted, and returns how many names it changed. Nothing happens where the site does not ask
// for it; NotFound while there is no site.
func (p *Publisher) Publish(ctx context.Context) (int, error) {
	const op = "set public records"
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
	set := 0
	for _, a := range zone.AskAll(ctx, zone.OverNetwork, server, zone.Questions(records), false) {
		if a.Err != nil {
			return set, errs.Wrap(op, a.Err)
		}
		if a.OK() {
			continue
		}
		if err := p.set(ctx, s, server, a.Question); err != nil {
			return set, errs.Wrap(op, err)
		}
		set++
	}
	return set, nil
}

// set replaces the records of one name and type.
func (p *Publisher) set(ctx context.Context, s *site.Site, server string, q zone.Question) error {
	value, err := p.cfg.Secrets.Own(ctx, s.DNS.Updates.Secret)
	if err != nil {
		return err
	}
	name, key, ok := strings.Cut(strings.TrimSpace(string(value.Reveal())), ":")
	if _, err := base64.StdEncoding.DecodeString(key); !ok || err != nil || name == "" || key == "" {
		return errs.New(errs.Precondition, "secret %s has not the form NAME:KEY, with the key in base64", s.DNS.Updates.Secret).
			WithHint("infractl secret set %s", s.DNS.Updates.Secret)
	}
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(s.PublicDomain))
	var rrs []dns.RR
	for _, v := range q.Values {
		if q.Type == "NS" || q.Type == "CNAME" {
			v = dns.Fqdn(v)
		}
		rr, err := dns.NewRR(dns.Fqdn(q.Name) + " 3600 IN " + q.Type + " " + v)
		if err != nil {
			return errs.New(errs.Internal, "%s: %w", q.Name, err)
		}
		rrs = append(rrs, rr)
	}
	m.RemoveRRset(rrs[:1])
	m.Insert(rrs)
	m.SetTsig(dns.Fqdn(strings.ToLower(name)), dns.HmacSHA256, 300, p.cfg.Clock.Now().Unix())
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	answer, err := sendUpdate(ctx, m, server, map[string]string{dns.Fqdn(strings.ToLower(name)): key})
	if err != nil {
		return errs.New(errs.Unavailable, "%s does not take the update of %s: %w", server, q.Name, err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		return errs.New(errs.Precondition, "%s refuses the update of %s: %s", server, q.Name, dns.RcodeToString[answer.Rcode]).
			WithHint("may the key %s change zone %s there?", name, s.PublicDomain)
	}
	return nil
}

func sendUpdate(ctx context.Context, m *dns.Msg, server string, key map[string]string) (*dns.Msg, error) {
	c := dns.Client{Net: "tcp", TsigSecret: key, Timeout: updateTimeout}
	answer, _, err := c.ExchangeContext(ctx, m, server)
	return answer, err
}
