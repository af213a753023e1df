package dns

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// checkTime bounds a check of all records.
	checkTime = time.Minute
	// goodOnes is how many records that are as wanted an answer lists.
	goodOnes = 100
)

// Sites are the stored revisions; *revision.Revisions is it.
type Sites interface {
	// Load returns a revision's site; 0 is the newest.
	Load(ctx context.Context, number uint64) (*site.Site, uint64, error)
	// Check validates a source; the site is nil when a finding is an error.
	Check(source *v1.SiteSource) (*site.Site, []*v1.Finding, error)
	// Present returns the present resources.
	Present(ctx context.Context) (site.Resources, error)
}

// Config is what a Service needs.
type Config struct {
	// Sites are the revisions.
	Sites Sites
	// Exchange asks name servers; nil means over the network.
	Exchange zone.Exchange
}

// Service implements v1.DnsServiceServer.
type Service struct {
	v1.UnimplementedDnsServiceServer
	cfg Config
}

// NewService returns the service.
func NewService(cfg Config) *Service {
	return &Service{cfg: cfg}
}

// ListRecords implements v1.DnsServiceServer.
func (s *Service) ListRecords(ctx context.Context, req *v1.ListRecordsRequest) (*v1.ListRecordsResponse, error) {
	one, err := s.site(ctx, req.GetSource())
	if err != nil {
		return nil, err
	}
	res, err := s.cfg.Sites.Present(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.ListRecordsResponse{Records: one.DNSRecords(res, req.GetPublic())}, nil
}

func (s *Service) site(ctx context.Context, source *v1.SiteSource) (*site.Site, error) {
	if source == nil {
		one, _, err := s.cfg.Sites.Load(ctx, 0)
		return one, err
	}
	one, findings, err := s.cfg.Sites.Check(source)
	if err != nil {
		return nil, err
	}
	if one == nil {
		for _, f := range findings {
			if f.GetSeverity() == v1.Severity_SEVERITY_ERROR {
				return nil, errs.New(errs.Invalid, "%s", f.GetMessage()).At(f.GetWhere()).WithHint("infractl site check")
			}
		}
		return nil, errs.New(errs.Invalid, "the site file is not valid")
	}
	return one, nil
}

// CheckRecords implements v1.DnsServiceServer: it asks the site's name servers, or for public records the forwarders.
func (s *Service) CheckRecords(ctx context.Context, req *v1.CheckRecordsRequest) (*v1.CheckRecordsResponse, error) {
	one, _, err := s.cfg.Sites.Load(ctx, 0)
	if err != nil {
		return nil, err
	}
	res, err := s.cfg.Sites.Present(ctx)
	if err != nil {
		return nil, err
	}
	records := one.DNSRecords(res, req.GetPublic())
	servers := servers(one, req.GetPublic())
	if len(servers) == 0 {
		return nil, errs.New(errs.Precondition, "there is no name server that could be asked").WithHint("set dns.primary, and dns.forwarders for public records")
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	exchange := s.cfg.Exchange
	if exchange == nil {
		var done func()
		exchange, done = zone.Reusing()
		defer done()
	}
	out := &v1.CheckRecordsResponse{}
	var good []*v1.RecordCheck
	for _, server := range servers {
		for _, c := range check(ctx, exchange, server, records, req.GetPublic()) {
			if c.GetOk() {
				out.Good++
				if len(good) < goodOnes {
					good = append(good, c)
				}
				continue
			}
			out.Bad++
			if len(out.Checks) < 1000 {
				out.Checks = append(out.Checks, c)
			}
		}
	}
	out.Checks = append(out.Checks, good...)
	return out, nil
}

// servers are the addresses to ask.
func servers(s *site.Site, public bool) []netip.Addr {
	if public {
		return s.DNS.Forwarders
	}
	var out []netip.Addr
	for _, name := range []string{s.DNS.Primary, s.DNS.Secondary} {
		if n, ok := s.Node(name); ok {
			out = append(out, n.MainAddress())
		}
	}
	return out
}

// check asks one server. Several values of one name are one question, and each is a record of its own in the answer.
func check(ctx context.Context, exchange zone.Exchange, server netip.Addr, records []*v1.Record, public bool) []*v1.RecordCheck {
	var list []zone.Record
	for _, r := range records {
		if r.GetView() != site.ViewOutside || public { // asked from inside, the other view answers
			list = append(list, zone.Record{Name: r.GetName(), Type: r.GetType(), Value: r.GetValue()})
		}
	}
	type key struct{ name, kind string }
	answers := map[key]zone.Answer{}
	for _, a := range zone.AskAll(ctx, exchange, zone.Port53(server.String()), zone.Questions(list), public) {
		answers[key{a.Question.Name, a.Question.Type}] = a
	}
	var out []*v1.RecordCheck
	for _, r := range records {
		a, ok := answers[key{r.GetName(), r.GetType()}]
		if !ok {
			continue
		}
		c := &v1.RecordCheck{Record: r, Server: server.String(), Answer: a.Values, Ok: a.OK()}
		switch {
		case a.Err != nil:
			c.Problem = a.Err.Error()
		case len(a.Values) == 0:
			c.Problem = "there is no such record"
		case !c.Ok && slices.Contains(a.Values, r.GetValue()):
			c.Problem = "there are others beside it"
		case !c.Ok:
			c.Problem = "it is " + strings.Join(a.Values, ", ")
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b *v1.RecordCheck) int { return cmp.Compare(a.GetRecord().GetZone(), b.GetRecord().GetZone()) })
	return out
}
