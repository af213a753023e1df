// Package zonetest plays name servers for tests, with another library than the one that asks, so that the two check each other.
package zonetest

import (
	"context"
	"strings"

	"github.com/miekg/dns"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/zone"
)

// Exchange asks f instead of a network.
func Exchange(f func(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error)) zone.Exchange {
	return func(ctx context.Context, question []byte, server string) ([]byte, error) {
		m := new(dns.Msg)
		if err := m.Unpack(question); err != nil {
			return nil, errs.Wrap("read the question", err)
		}
		a, err := f(ctx, m, server)
		if err != nil {
			return nil, err
		}
		return a.Pack()
	}
}

// Data is a record's data as zone.Record has it.
func Data(rr dns.RR) string {
	text := strings.TrimPrefix(rr.String(), rr.Header().String())
	if rr.Header().Rrtype == dns.TypeTXT {
		return strings.Trim(text, `"`)
	}
	return strings.ToLower(strings.TrimSuffix(text, "."))
}
