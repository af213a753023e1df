package proxy

import (
	"encoding/json"
	"net"
	"strconv"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/pages"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// What caddy needs of the host.
const (
	caddyConf    = "/etc/caddy/infractl.json"
	caddyNew     = "/etc/caddy/infractl.json.new"
	caddyDropIn  = "/etc/systemd/system/caddy.service.d/infractl.conf"
	caddyLink    = "/etc/systemd/system/multi-user.target.wants/caddy.service"
	caddyUnit    = "/lib/systemd/system/caddy.service"
	caddyFile    = "/etc/caddy/Caddyfile"
	caddySocket  = "/run/caddy/infractl.sock"
	caddyStorage = "/var/lib/caddy/.local/share/caddy"
	// wildcardCert and wildcardKey are a certificate for all names of the wildcard's domain. Debian's caddy cannot get one by itself: it
	// has no DNS-01.
	wildcardCert = "/etc/caddy/infractl-wildcard.crt"
	wildcardKey  = "/etc/caddy/infractl-wildcard.key"
)

// dropIn makes Debian's service run our configuration. The Caddyfile is not touched, and not read.
const dropIn = `# Written by infractl; changes here are undone.
[Service]
ExecStart=
ExecStart=/usr/bin/caddy run --config ` + caddyConf + `
ExecReload=
ExecReload=/usr/bin/caddy reload --config ` + caddyConf + ` --address unix/` + "/" + caddySocket + `
RuntimeDirectory=caddy
Restart=on-failure
`

type object = map[string]any

// settings are what a configuration follows from beside the hosts.
type settings struct {
	spec                *v1.ProxySpec
	httpPort, httpsPort int
	storage, socket     string
	wildcard            bool
}

// render makes caddy's configuration. Automatic HTTPS is off: what is redirected, and what gets a certificate from whom, stands here.
func render(s settings, hosts []Host) ([]byte, error) {
	plain, secure := []any{}, []any{}
	var own, internal []string
	for _, h := range hosts {
		match := []any{object{"host": h.Domains}}
		if h.Certificate == Waiting {
			page, err := pages.Page{Kind: pages.Preparing}.Handler()
			if err != nil {
				return nil, err
			}
			plain = append(plain, object{"match": match, "handle": []any{page}, "terminal": true})
			continue
		}
		plain = append(plain, object{"match": match, "terminal": true, "handle": []any{object{"handler": "static_response",
			"status_code": 308, "headers": object{"Location": []string{"https://{http.request.host}{http.request.uri}"}}}}})
		secure = append(secure, object{"match": match, "terminal": true, "handle": []any{object{"handler": "subroute", "routes": served(h)}}})
		switch h.Certificate {
		case Own:
			own = append(own, h.Domains...)
		case Internal:
			internal = append(internal, h.Domains...)
		}
	}
	nobody := object{"handle": []any{object{"handler": "static_response", "status_code": 421,
		"headers": object{"Content-Type": []string{"text/plain; charset=utf-8"}}, "body": "This name is not served here.\n"}}}
	down, err := pages.Page{Kind: pages.Unreachable}.Handler()
	if err != nil {
		return nil, err
	}
	failures := object{"routes": []any{object{"handle": []any{down},
		"match": []any{object{"expression": "{http.error.status_code} in [502, 503, 504]"}}}}}
	server := func(port int, routes []any) object {
		return object{"listen": listen(s.spec.GetListenAddresses(), port), "routes": append(routes, nobody), "protocols": []string{"h1", "h2"},
			"automatic_https": object{"disable": true}, "read_header_timeout": int64(30e9), "idle_timeout": int64(120e9)}
	}
	onHTTPS := server(s.httpsPort, secure)
	onHTTPS["errors"], onHTTPS["tls_connection_policies"] = failures, []any{object{}}
	config := object{
		"admin":   object{"listen": "unix/" + s.socket, "origins": []string{adminName}, "config": object{"persist": false}},
		"storage": object{"module": "file_system", "root": s.storage},
		"apps": object{
			"http": object{"http_port": s.httpPort, "https_port": s.httpsPort, "servers": object{"http": server(s.httpPort, plain), "https": onHTTPS}},
			"pki":  object{"certificate_authorities": object{"local": object{"install_trust": false, "name": "infractl proxy"}}},
			"tls":  certificatesOf(s, own, internal),
		},
	}
	text, err := json.MarshalIndent(config, "", " ")
	return append(text, '\n'), errs.Wrap("write caddy's configuration", err)
}

// served are the routes of one host.
func served(h Host) []any {
	var routes []any
	if len(h.Allow) > 0 {
		routes = append(routes, object{"terminal": true, "match": []any{object{"not": []any{object{"remote_ip": object{"ranges": h.Allow}}}}},
			"handle": []any{object{"handler": "static_response", "status_code": 403, "body": "This name is not served to your address.\n"}}})
	}
	transport := object{"protocol": "http", "dial_timeout": int64(5e9)}
	if h.Scheme == "https" {
		// As Nginx Proxy Manager does: targets are inside and have certificates of their own making.
		transport["tls"] = object{"insecure_skip_verify": true}
	}
	return append(routes, object{"handle": []any{object{"handler": "reverse_proxy", "transport": transport,
		"upstreams": []any{object{"dial": net.JoinHostPort(h.Address, strconv.Itoa(h.Port))}}}}})
}

func certificatesOf(s settings, own, internal []string) object {
	var automate []string
	var policies []any
	certificates := object{}
	if len(internal) > 0 {
		policies = append(policies, object{"subjects": internal, "issuers": []any{object{"module": "internal"}}})
	}
	if len(own) > 0 {
		issuer := object{"module": "acme"}
		if s.spec.GetAcmeDirectory() != "" {
			issuer["ca"] = s.spec.GetAcmeDirectory()
		}
		if s.spec.GetAcmeEmail() != "" {
			issuer["email"] = s.spec.GetAcmeEmail()
		}
		policies = append(policies, object{"subjects": own, "issuers": []any{issuer}})
	}
	automate = append(append(automate, internal...), own...)
	if len(automate) > 0 {
		certificates["automate"] = automate
	}
	if s.wildcard {
		certificates["load_files"] = []any{object{"certificate": wildcardCert, "key": wildcardKey}}
	}
	return object{"certificates": certificates, "automation": object{"policies": policies}}
}

func listen(addresses []string, port int) []string {
	if len(addresses) == 0 {
		return []string{":" + strconv.Itoa(port)}
	}
	var out []string
	for _, a := range addresses {
		out = append(out, net.JoinHostPort(a, strconv.Itoa(port)))
	}
	return out
}
