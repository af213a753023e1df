package zone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/infractl/infractl/internal/errs"
)

// server plays a name server on loopback, over UDP and TCP, with another library than the one that asks.
func server(t *testing.T, answer func(m *dns.Msg, overTCP bool) *dns.Msg) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l}, {PacketConn: udp}} {
		s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
			_, tcp := w.RemoteAddr().(*net.TCPAddr)
			if a := answer(m, tcp); a != nil {
				_ = w.WriteMsg(a)
			}
		})
		go s.ActivateAndServe()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return l.Addr().String()
}

func TestAnswersAreReadOverEachWay(t *testing.T) {
	long := make([]string, 60) // more than fits in 512 bytes
	for i := range long {
		long[i] = fmt.Sprintf("10.1.2.%d", i)
	}
	slices.Sort(long)
	records := map[string][]string{
		"a.corp.lab. A": {"10.0.0.1"}, "a.corp.lab. AAAA": {"fd00::1"}, "www.corp.lab. CNAME": {"a.corp.lab."}, "corp.lab. NS": {"a.corp.lab."},
		"1.0.0.10.in-addr.arpa. PTR": {"A.corp.lab."}, "t.corp.lab. TXT": {`"proof"`},
		"corp.lab. SOA": {"a.corp.lab. h.corp.lab. 2026112401 1 1 1 1"}, "many.corp.lab. A": long,
	}
	at := server(t, func(m *dns.Msg, overTCP bool) *dns.Msg {
		a := new(dns.Msg)
		a.SetReply(m)
		key := m.Question[0].Name + " " + dns.TypeToString[m.Question[0].Qtype]
		if len(records[key]) == 0 {
			a.Rcode = dns.RcodeNameError
			return a
		}
		if len(records[key]) > 50 && !overTCP {
			a.Truncated = true
			return a
		}
		for _, v := range records[key] {
			rr, err := dns.NewRR(m.Question[0].Name + " 60 IN " + dns.TypeToString[m.Question[0].Qtype] + " " + v)
			if err != nil {
				panic(err)
			}
			a.Answer = append(a.Answer, rr)
		}
		return a
	})
	questions := []Question{{"a.corp.lab", "A", []string{"10.0.0.1"}}, {"a.corp.lab", "AAAA", []string{"fd00::1"}},
		{"www.corp.lab", "CNAME", []string{"a.corp.lab"}}, {"corp.lab", "NS", []string{"a.corp.lab"}},
		{"1.0.0.10.in-addr.arpa", "PTR", []string{"a.corp.lab"}}, {"t.corp.lab", "TXT", []string{"proof"}},
		{"many.corp.lab", "A", long}, {"gone.corp.lab", "A", nil}}
	reusing, done := Reusing()
	defer done()
	for name, exchange := range map[string]Exchange{"one by one": OverNetwork, "with sockets used again": reusing} {
		for _, a := range AskAll(t.Context(), exchange, at, questions, false) {
			if !a.OK() {
				t.Errorf("%s: %s %s is %v, %v", name, a.Question.Name, a.Question.Type, a.Values, a.Err)
			}
		}
		if n, err := Serial(t.Context(), exchange, at, "corp.lab"); n != 2026112401 || err != nil {
			t.Errorf("%s: serial %d, %v", name, n, err)
		}
	}
	if _, err := Serial(t.Context(), OverNetwork, at, "other.lab"); !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "NXDOMAIN") {
		t.Errorf("serial of a zone that is not there: %v", err)
	}
}

func TestWhatIsNoAnswerIsAnError(t *testing.T) {
	ask := func(exchange Exchange, q Question) error {
		return AskAll(t.Context(), exchange, "192.0.2.1:53", []Question{q}, false)[0].Err
	}
	good := Question{Name: "a.corp.lab", Type: "A"}
	for name, tt := range map[string]struct {
		exchange Exchange
		question Question
		want     errs.Code
	}{
		"ErrAway": {func(context.Context, []byte, string) ([]byte, error) { return nil, errors.New("refused") }, good, errs.Unavailable},
		"ErrRubbish": {func(_ context.Context, q []byte, _ string) ([]byte, error) { return append(q[:2:2], 0xff, 0xff), nil }, good,
			errs.Internal},
		"ErrAnotherAnswer": {func(_ context.Context, q []byte, _ string) ([]byte, error) {
			a := slices.Clone(q)
			a[0]++
			return a, nil
		}, good,
			errs.Internal},
		"ErrRefused": {func(_ context.Context, q []byte, _ string) ([]byte, error) {
			a := slices.Clone(q)
			a[2], a[3] = a[2]|0x80, 5
			return a, nil
		}, good, errs.Internal},
		"ErrType": {OverNetwork, Question{Name: "a.corp.lab", Type: "WKS"}, errs.Invalid},
		"ErrName": {OverNetwork, Question{Name: strings.Repeat("x", 70) + ".lab", Type: "A"}, errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			if err := ask(tt.exchange, tt.question); !errs.Is(err, tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestParseReadsOnlyWhatTextWrites(t *testing.T) {
	const soa = "corp.lab. 3600 IN SOA a.corp.lab. h.corp.lab. 7 1 1 1 1\n"
	for name, text := range map[string]string{
		"empty":          "",
		"no SOA":         "a.corp.lab. 3600 IN A 10.0.0.1\n",
		"another file":   soa + "$INCLUDE /etc/passwd\n",
		"no address":     soa + "a.corp.lab. 3600 IN A 10.0.0\n",
		"other family":   soa + "a.corp.lab. 3600 IN A fd00::1\n",
		"relative name":  soa + "a 3600 IN A 10.0.0.1\n",
		"relative value": soa + "a.corp.lab. 3600 IN CNAME b\n",
		"open quote":     soa + "a.corp.lab. 3600 IN TXT \"x\n",
		"other type":     soa + "a.corp.lab. 3600 IN MX 10 b.corp.lab.\n",
		"serial":         strings.Replace(soa, " 7 ", " seven ", 1),
	} {
		if records, _, err := Parse([]byte(text)); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, %v", name, records, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("corp.lab. 3600 IN SOA a.corp.lab. h.corp.lab. 7 1 1 1 1\na.corp.lab. 3600 IN A 10.0.0.1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		records, _, err := Parse(text)
		if err == nil {
			Questions(records)
		}
	})
}
