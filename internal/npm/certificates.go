package npm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

const certbotTries = 4

// Certificate is one certificate.
type Certificate struct {
	// ID is its number.
	ID int
	// Provider is letsencrypt or other.
	Provider string
	// Domains are its names, lower-case and sorted.
	Domains []string
	// Expires is when it ends; zero where that is not said.
	Expires time.Time
}

// Covers reports whether the certificate is good for a name, its wildcard included.
func (c *Certificate) Covers(name string) bool {
	_, parent, _ := strings.Cut(name, ".")
	return slices.Contains(c.Domains, name) || slices.Contains(c.Domains, "*."+parent)
}

// certificateReply is deliberately small: replies hold private keys, and what is not decoded cannot be printed.
type certificateReply struct {
	ID       int      `json:"id"`
	Provider string   `json:"provider"`
	Domains  []string `json:"domain_names"`
	Expires  stamp    `json:"expires_on"`
}

func (r *certificateReply) certificate() Certificate {
	out := Certificate{ID: r.ID, Provider: r.Provider, Expires: time.Time(r.Expires)}
	for _, d := range r.Domains {
		out.Domains = append(out.Domains, strings.ToLower(d))
	}
	slices.Sort(out.Domains)
	return out
}

// Certificates returns all certificates.
func (c *Client) Certificates(ctx context.Context) ([]Certificate, error) {
	if _, err := c.Probe(ctx); err != nil {
		return nil, err
	}
	var got []certificateReply
	if err := c.call(ctx, request{method: http.MethodGet, path: "/nginx/certificates", into: &got}); err != nil {
		return nil, errs.Wrap("list certificates", err)
	}
	out := make([]Certificate, 0, len(got))
	for i := range got {
		out = append(out, got[i].certificate())
	}
	return out, nil
}

// RequestCertificate gets a certificate for exactly these names by HTTP-01; one that is there already is used. It blocks until certbot
// has ended, minutes at worst. email counts before 2.13 only; later the API user's own address does.
func (c *Client) RequestCertificate(ctx context.Context, names []string, email string) (Certificate, error) {
	c.write.Lock()
	defer c.write.Unlock()
	v, err := c.Probe(ctx)
	if err != nil {
		return Certificate{}, err
	}
	if have, err := c.certificateOf(ctx, names); err != nil || have != nil {
		return value(have), err
	}
	meta := map[string]any{"dns_challenge": false}
	if !v.AtLeast(13) {
		meta["letsencrypt_email"], meta["letsencrypt_agree"] = email, true
	}
	r := request{method: http.MethodPost, path: "/nginx/certificates", timeout: c.cfg.CertificateTimeout,
		body: map[string]any{"provider": "letsencrypt", "domain_names": sorted(names), "meta": meta}}
	for try := 1; ; try++ {
		var got certificateReply
		r.into = &got
		err := c.call(ctx, r)
		if err == nil {
			return got.certificate(), nil
		}
		if ctx.Err() != nil {
			return Certificate{}, err
		}
		if have, serr := c.certificateOf(ctx, names); serr == nil && have != nil {
			return *have, nil
		}
		if !strings.Contains(err.Error(), "Another instance of Certbot") || try == certbotTries {
			return Certificate{}, errs.Wrap("get a certificate for "+names[0], err)
		}
		if err := c.pause(ctx, time.Duration(try)*c.cfg.Pause+rand.N(c.cfg.Pause)); err != nil {
			return Certificate{}, err
		}
	}
}

func value(c *Certificate) Certificate {
	if c == nil {
		return Certificate{}
	}
	return *c
}

func (c *Client) certificateOf(ctx context.Context, names []string) (*Certificate, error) {
	list, err := c.Certificates(ctx)
	if err != nil {
		return nil, err
	}
	want := sorted(names)
	for i := range list {
		if list[i].Provider == "letsencrypt" && slices.Equal(list[i].Domains, want) {
			return &list[i], nil
		}
	}
	return nil, nil
}

// DeleteCertificate deletes a certificate that nothing uses; one that is gone is no error. Errors: Precondition while a host uses it:
// nginx would then fail for all tenants.
func (c *Client) DeleteCertificate(ctx context.Context, id int) error {
	c.write.Lock()
	defer c.write.Unlock()
	for _, k := range []kind{proxyHosts, redirects, dead} {
		list, err := c.list(ctx, k)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(list, func(h Host) bool { return h.CertificateID == id }); i >= 0 {
			return errs.New(errs.Precondition, "certificate %d is used by %s", id, strings.Join(list[i].Domains, ", ")).
				WithHint("take it off that host first")
		}
	}
	path := fmt.Sprintf("/nginx/certificates/%d", id)
	var used struct {
		ID        int   `json:"id"`
		Proxy     []any `json:"proxy_hosts"`
		Redirects []any `json:"redirection_hosts"`
		Dead      []any `json:"dead_hosts"`
		Streams   []any `json:"streams"`
	}
	expand := "?expand=proxy_hosts,redirection_hosts,dead_hosts"
	if v, err := c.Probe(ctx); err != nil {
		return err
	} else if v.AtLeast(12) {
		expand += ",streams"
	}
	err := c.call(ctx, request{method: http.MethodGet, path: path + expand, into: &used})
	if errs.Is(err, errs.NotFound) || err == nil && used.ID == 0 {
		return nil
	}
	if err != nil {
		return errs.Wrap("read a certificate", err)
	}
	if n := len(used.Proxy) + len(used.Redirects) + len(used.Dead) + len(used.Streams); n > 0 {
		return errs.New(errs.Precondition, "certificate %d is used by %d hosts", id, n).WithHint("take it off them first")
	}
	err = c.call(ctx, request{method: http.MethodDelete, path: path})
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return errs.Wrap("delete a certificate", err)
}
