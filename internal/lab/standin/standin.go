// Package standin is a program that plays a console in the lab for which Debian has no package: it answers on the ports of the real
// one and says that it is a stand-in. The same program is the wget and the health check of its image, which holds nothing else.
package standin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"html"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"
)

// checkTimeout bounds a health check.
const checkTimeout = 4 * time.Second

// Run does what the name of the program says: wget URL and check-health look at a page, anything else serves: NAME and ports
// written as 3000/http or 9443/https, and then arguments that only the real program knows. It returns when ctx ends.
func Run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) < 2 && filepath.Base(args[0]) != "check-health" {
		return errs.New(errs.Invalid, "usage: infractl-standin NAME PORT/http|https...")
	}
	switch filepath.Base(args[0]) {
	case "wget":
		return get(ctx, args[len(args)-1])
	case "check-health":
		return get(ctx, "http://127.0.0.1:81/")
	}
	return serve(ctx, args[1], args[2:], out)
}

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return errs.New(errs.Invalid, "%w", err)
	}
	// It asks itself, over loopback.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // see above
	resp, err := client.Do(req)
	if err != nil {
		return errs.New(errs.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return errs.New(errs.Unavailable, "%s", resp.Status)
	}
	return nil
}

func serve(ctx context.Context, name string, ports []string, out io.Writer) error {
	page := fmt.Sprintf("<!doctype html><title>%[1]s</title><h1>Stand-in for %[1]s</h1><p>The lab has no registry: this page stands where %[1]s would be.\n",
		html.EscapeString(name))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			_, _ = io.WriteString(w, "standin_up 1\n")
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, page)
	})
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range ports {
		port, scheme, _ := strings.Cut(p, "/")
		if scheme != "http" && scheme != "https" {
			break // the rest is for the real program
		}
		server := &http.Server{Addr: ":" + port, Handler: handler, ReadHeaderTimeout: checkTimeout}
		if scheme == "https" {
			certificate, err := selfSigned(name)
			if err != nil {
				return err
			}
			server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
		}
		g.Go(func() error {
			if server.TLSConfig != nil {
				return errs.Wrap("serve "+p, server.ListenAndServeTLS("", ""))
			}
			return errs.Wrap("serve "+p, server.ListenAndServe())
		})
		context.AfterFunc(ctx, func() { _ = server.Close() })
	}
	fmt.Fprintf(out, "stand-in for %s on %s\n", name, strings.Join(ports, " "))
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func selfSigned(name string) (tls.Certificate, error) {
	const op = "make a certificate"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, errs.Wrap(op, err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().AddDate(10, 0, 0)}
	template.Subject.CommonName = "stand-in for " + name
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, errs.Wrap(op, err)
}
