package zone

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"
)

const (
	askTimeout = 2 * time.Second
	askTries   = 3
	// askAtOnce bounds the questions that are under way.
	askAtOnce = 16
)

// Exchange sends a question to a server (address and port) and returns its answer.
type Exchange func(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error)

// OverNetwork is the Exchange of a real network: UDP, and TCP where the answer is cut.
func OverNetwork(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	var answer *dns.Msg
	var err error
	for range askTries {
		c := dns.Client{Net: "udp", Timeout: askTimeout}
		answer, _, err = c.ExchangeContext(ctx, m, server)
		if err == nil && answer.Truncated {
			c.Net = "tcp"
			answer, _, err = c.ExchangeContext(ctx, m, server)
		}
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return answer, err
}

// Reusing is OverNetwork for many questions: its UDP sockets are used again. done closes them.
func Reusing() (exchange Exchange, done func()) {
	idle := make(chan *dns.Conn, askAtOnce)
	exchange = func(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
		var conn *dns.Conn
		select {
		case conn = <-idle:
		default:
		}
		if conn == nil || conn.RemoteAddr().String() != server {
			if conn != nil {
				_ = conn.Close()
			}
			c := dns.Client{Net: "udp", Timeout: askTimeout}
			var err error
			if conn, err = c.DialContext(ctx, server); err != nil {
				return nil, err
			}
		}
		c := dns.Client{Net: "udp", Timeout: askTimeout}
		answer, _, err := c.ExchangeWithConnContext(ctx, m, conn)
		if err != nil || answer.Truncated {
			_ = conn.Close()
			return OverNetwork(ctx, m, server)
		}
		select {
		case idle <- conn:
		default:
			_ = conn.Close()
		}
		return answer, nil
	}
	done = func() {
		for {
			select {
			case conn := <-idle:
				_ = conn.Close()
			default:
				return
			}
		}
	}
	return exchange, done
}

// Question is what to ask, and what the answer must be.
type Question struct {
	// Name is the full name without final dot, Type the record's type.
	Name, Type string
	// Values are the wanted data, sorted; none means that there must be none.
	Values []string
}

// Questions are the questions that the records of a zone answer, sorted by name; SOA is not among them.
func Questions(records []Record) []Question {
	type key struct{ name, kind string }
	var order []key
	values := map[key][]string{}
	for _, r := range records {
		k := key{r.Name, r.Type}
		if values[k] == nil {
			order = append(order, k)
		}
		values[k] = append(values[k], r.Value)
	}
	out := make([]Question, 0, len(order))
	for _, k := range order {
		slices.Sort(values[k])
		out = append(out, Question{k.name, k.kind, slices.Compact(values[k])})
	}
	return out
}

// Answer is what a server said.
type Answer struct {
	Question Question
	// Values are the data, sorted; Err says why there is no answer.
	Values []string
	Err    error
}

// OK reports whether the answer is the wanted one.
func (a Answer) OK() bool { return a.Err == nil && slices.Equal(a.Values, a.Question.Values) }

// AskAll asks a server all questions, some at once, and returns the answers in the order of the questions. recurse asks it to ask
// others.
func AskAll(ctx context.Context, exchange Exchange, server string, questions []Question, recurse bool) []Answer {
	out := make([]Answer, len(questions))
	var g errgroup.Group
	g.SetLimit(askAtOnce)
	for i, q := range questions {
		g.Go(func() error {
			out[i] = Answer{Question: q}
			out[i].Values, out[i].Err = ask(ctx, exchange, server, q, recurse)
			return nil
		})
	}
	_ = g.Wait()
	return out
}

func ask(ctx context.Context, exchange Exchange, server string, q Question, recurse bool) ([]string, error) {
	if ctx.Err() != nil {
		return nil, errs.Wrap("ask "+server, ctx.Err())
	}
	kind, ok := dns.StringToType[q.Type]
	if !ok {
		return nil, errs.New(errs.Invalid, "%.20q is no type of record", q.Type)
	}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(strings.Replace(q.Name, "*", "any", 1)), kind)
	m.RecursionDesired = recurse
	answer, err := exchange(ctx, m, server)
	switch {
	case err != nil:
		return nil, errs.New(errs.Unavailable, "%s does not answer: %w", server, err)
	case answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError:
		return nil, errs.New(errs.Internal, "%s answers %s", server, dns.RcodeToString[answer.Rcode])
	}
	var out []string
	for _, rr := range slices.Concat(answer.Answer, delegation(answer, kind)) {
		if rr.Header().Rrtype == kind {
			out = append(out, Data(rr))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// delegation are the NS records of a zone cut: a server that is asked for them there gives them as a hint and not as an answer.
func delegation(m *dns.Msg, kind uint16) []dns.RR {
	if kind != dns.TypeNS || len(m.Answer) > 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.Ns), func(rr dns.RR) bool { return !strings.EqualFold(rr.Header().Name, m.Question[0].Name) })
}

// Data is a record's data as Record.Value has it.
func Data(rr dns.RR) string {
	switch r := rr.(type) {
	case *dns.A:
		return r.A.String()
	case *dns.AAAA:
		return r.AAAA.String()
	case *dns.CNAME:
		return bare(r.Target)
	case *dns.NS:
		return bare(r.Ns)
	case *dns.PTR:
		return bare(r.Ptr)
	case *dns.TXT:
		return strings.Join(r.Txt, "")
	}
	return strings.TrimPrefix(rr.String(), rr.Header().String())
}

func bare(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Serial asks a server for the serial that it serves a zone with. NotFound when it has no such zone or has not loaded it.
func Serial(ctx context.Context, exchange Exchange, server, zone string) (uint32, error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(zone), dns.TypeSOA)
	m.RecursionDesired = false
	answer, err := exchange(ctx, m, server)
	if err != nil {
		return 0, errs.New(errs.Unavailable, "%s does not answer: %w", server, err)
	}
	for _, rr := range answer.Answer {
		if soa, ok := rr.(*dns.SOA); ok && bare(soa.Hdr.Name) == zone {
			return soa.Serial, nil
		}
	}
	return 0, errs.New(errs.NotFound, "%s answers %s for zone %s", server, dns.RcodeToString[answer.Rcode], zone)
}

// Parse reads a master file: its records without the SOA, and the serial. Invalid for one that cannot be read, or that wants another
// file to be read in.
func Parse(text []byte) (records []Record, serial uint32, err error) {
	p := dns.NewZoneParser(strings.NewReader(string(text)), "", "")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		if soa, is := rr.(*dns.SOA); is {
			serial = soa.Serial
			continue
		}
		records = append(records, Record{Name: bare(rr.Header().Name), Type: dns.TypeToString[rr.Header().Rrtype], Value: Data(rr)})
	}
	if err := p.Err(); err != nil {
		return nil, 0, errs.New(errs.Invalid, "no master file: %w", err)
	}
	return records, serial, nil
}

// Port53 adds the port of DNS to an address.
func Port53(address string) string { return net.JoinHostPort(address, "53") }
