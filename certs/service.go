package certs

import (
	"net"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// The services of a node that have certificates of their own. Their names are SERVICE@NODE.
const (
	// ServicePrometheus reads metrics pages and service discovery: a client.
	ServicePrometheus = "prometheus"
	// ServiceMetrics is an agent's metrics page: a server with the node's addresses.
	ServiceMetrics = "metrics"
)

// ServiceName returns the name of a service of a node, such as "prometheus@web1".
func ServiceName(service, node string) string { return service + "@" + node }

// ServiceURI returns the URI that names a service of a node.
func ServiceURI(site, service, node string) string {
	return Identity{Kind: KindService, Site: site, Name: ServiceName(service, node)}.URI()
}

// Service returns service and node of a service's identity; false for every other kind.
func (id Identity) Service() (service, node string, ok bool) {
	if id.Kind != KindService {
		return "", "", false
	}
	return splitService(id.Name)
}

// splitService takes the services that there are, and nothing else.
func splitService(name string) (service, node string, ok bool) {
	service, node, ok = strings.Cut(name, "@")
	known := service == ServicePrometheus || service == ServiceMetrics
	return service, node, ok && known && isLabel(node)
}

// isServer reports whether an identity is proven by a server's certificate.
func (id Identity) isServer() bool {
	service, _, _ := id.Service()
	return id.Kind == KindServer || service == ServiceMetrics
}

// IssueMetrics makes the certificate of a node's metrics page for the public key of a request: server use only, NodeLife,
// with the node's name and addresses. Without an address it is Invalid.
func (a *Authority) IssueMetrics(csrDER []byte, node string, ips []net.IP) (*Issued, error) {
	const op = "issue metrics certificate"
	if len(ips) == 0 {
		return nil, errs.Wrap(op, errs.New(errs.Invalid, "a metrics page needs an address"))
	}
	issued, err := a.issueService(csrDER, ServiceMetrics, node, []string{node}, ips)
	return issued, errs.Wrap(op, err)
}

// IssueScraper makes the certificate with which Prometheus on a node reads metrics, for the public key of a request: client
// use only, NodeLife.
func (a *Authority) IssueScraper(csrDER []byte, node string) (*Issued, error) {
	issued, err := a.issueService(csrDER, ServicePrometheus, node, nil, nil)
	return issued, errs.Wrap("issue scraper certificate", err)
}

func (a *Authority) issueService(csrDER []byte, service, node string, dns []string, ips []net.IP) (*Issued, error) {
	if err := ValidateName("node", node); err != nil {
		return nil, err
	}
	pub, err := publicKey(csrDER)
	if err != nil {
		return nil, err
	}
	return a.issue(pub, Identity{Kind: KindService, Name: ServiceName(service, node)}, NodeLife, dns, ips)
}
