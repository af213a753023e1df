package dolibarr

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// askLimit bounds one question to the front.
	askLimit = 15 * time.Second
	// pageLimit bounds what is read of a page.
	pageLimit = 1 << 20
)

// frontRecord says where the front listens: a probe comes without the host's spec.
func (p *Provider) frontRecord() string { return p.cfg.Dir + "/front.json" }

type frontRecord struct {
	Addresses []string `json:"addresses"`
	Port      uint32   `json:"port"`
}

func (p *Provider) writeFrontRecord(f *v1.FrontSpec) error {
	text, err := json.Marshal(frontRecord{f.GetListenAddresses(), f.GetPort()})
	if err != nil {
		return errs.Wrap("note where the front listens", err)
	}
	_, err = p.host.WriteFile(p.frontRecord(), append(text, '\n'), 0o600)
	return err
}

func (p *Provider) readFrontRecord() (*frontRecord, error) {
	have, err := p.host.Stat(p.frontRecord())
	if err != nil {
		return nil, err
	}
	var r frontRecord
	if have.Absent || json.Unmarshal(have.Data, &r) != nil || len(r.Addresses) == 0 {
		return nil, errs.New(errs.Precondition, "this host has no front").WithHint("infractl apply")
	}
	return &r, nil
}

// frontDigest is the digest of the configuration that the front runs; empty when it does not answer.
func (p *Provider) frontDigest(ctx context.Context, f *v1.FrontSpec) string {
	if len(f.GetListenAddresses()) == 0 {
		return ""
	}
	return p.digestAt(ctx, f.GetListenAddresses()[0], f.GetPort())
}

func (p *Provider) digestAt(ctx context.Context, address string, port uint32) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	status, body, err := p.ask(ctx, address, port, "front.infractl", healthPath)
	digest, ok := strings.CutPrefix(strings.TrimSpace(string(body)), "ok ")
	if err != nil || status != http.StatusOK || !ok {
		return ""
	}
	return digest
}

// ask asks the front for a path of a name. Redirects are not followed.
func (p *Provider) ask(ctx context.Context, address string, port uint32, name, at string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	target := "http://" + net.JoinHostPort(address, strconv.Itoa(int(port))) + at
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, nil, errs.Wrap("ask the front", err)
	}
	req.Host = name
	req.Header.Set("User-Agent", "infractl")
	client := http.Client{Transport: p.cfg.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if client.Transport == nil {
		client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, errs.New(errs.Unavailable, "the front does not answer: %w", err).WithHint("docker logs %s says why", frontName)
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, pageLimit))
	return res.StatusCode, body, errs.Wrap("ask the front", err)
}
