package zone

import (
	"context"
	"net"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"
)

// askAtOnce bounds the questions that are under way.
const askAtOnce = 16

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
	kind, ok := kinds()[q.Type]
	if !ok {
		return nil, errs.New(errs.Invalid, "%.20q is no type of record", q.Type)
	}
	m, err := put(ctx, exchange, server, strings.Replace(q.Name, "*", "any", 1), kind, recurse)
	switch {
	case err != nil:
		return nil, err
	case m.RCode != dnsmessage.RCodeSuccess && m.RCode != dnsmessage.RCodeNameError:
		return nil, errs.New(errs.Internal, "%s answers %s", server, rcode(m.RCode))
	}
	var out []string
	for _, rr := range slices.Concat(m.Answers, delegation(m, kind)) {
		if rr.Header.Type == kind {
			out = append(out, data(rr))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// put asks one question.
func put(ctx context.Context, exchange Exchange, server, name string, kind dnsmessage.Type, recurse bool) (*dnsmessage.Message, error) {
	full, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return nil, errs.New(errs.Invalid, "%.80q is no name: %w", name, err)
	}
	question := dnsmessage.Message{Header: dnsmessage.Header{ID: newID(), RecursionDesired: recurse},
		Questions: []dnsmessage.Question{{Name: full, Type: kind, Class: dnsmessage.ClassINET}}}
	packed, err := question.Pack()
	if err != nil {
		return nil, errs.New(errs.Invalid, "%.80q cannot be asked for: %w", name, err)
	}
	text, err := exchange(ctx, packed, server)
	if err != nil {
		return nil, errs.New(errs.Unavailable, "%s does not answer: %w", server, err)
	}
	answer := new(dnsmessage.Message)
	if err := answer.Unpack(text); err != nil || answer.ID != question.ID || len(answer.Questions) != 1 {
		return nil, errs.New(errs.Internal, "%s answers with something that is no answer", server)
	}
	return answer, nil
}

func kinds() map[string]dnsmessage.Type {
	return map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "CNAME": dnsmessage.TypeCNAME,
		"NS": dnsmessage.TypeNS, "PTR": dnsmessage.TypePTR, "TXT": dnsmessage.TypeTXT}
}

// rcode is a code as people know it.
func rcode(c dnsmessage.RCode) string {
	switch c {
	case dnsmessage.RCodeSuccess:
		return "NOERROR"
	case dnsmessage.RCodeFormatError:
		return "FORMERR"
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeNameError:
		return "NXDOMAIN"
	case dnsmessage.RCodeNotImplemented:
		return "NOTIMP"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	}
	return c.String()
}

// delegation are the NS records of a zone cut: a server that is asked for them there gives them as a hint and not as an answer.
func delegation(m *dnsmessage.Message, kind dnsmessage.Type) []dnsmessage.Resource {
	if kind != dnsmessage.TypeNS || len(m.Answers) > 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.Authorities), func(rr dnsmessage.Resource) bool {
		return !strings.EqualFold(rr.Header.Name.String(), m.Questions[0].Name.String())
	})
}

// data is a record's data as Record.Value has it.
func data(rr dnsmessage.Resource) string {
	switch r := rr.Body.(type) {
	case *dnsmessage.AResource:
		return net.IP(r.A[:]).String()
	case *dnsmessage.AAAAResource:
		return net.IP(r.AAAA[:]).String()
	case *dnsmessage.CNAMEResource:
		return bare(r.CNAME.String())
	case *dnsmessage.NSResource:
		return bare(r.NS.String())
	case *dnsmessage.PTRResource:
		return bare(r.PTR.String())
	case *dnsmessage.TXTResource:
		return strings.Join(r.TXT, "")
	}
	return ""
}

func bare(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Serial asks a server for the serial that it serves a zone with. NotFound when it has no such zone or has not loaded it.
func Serial(ctx context.Context, exchange Exchange, server, zone string) (uint32, error) {
	m, err := put(ctx, exchange, server, zone, dnsmessage.TypeSOA, false)
	if err != nil {
		return 0, err
	}
	for _, rr := range m.Answers {
		if soa, ok := rr.Body.(*dnsmessage.SOAResource); ok && bare(rr.Header.Name.String()) == zone {
			return soa.Serial, nil
		}
	}
	return 0, errs.New(errs.NotFound, "%s answers %s for zone %s", server, rcode(m.RCode), zone)
}

// Port53 adds the port of DNS to an address.
func Port53(address string) string { return net.JoinHostPort(address, "53") }
