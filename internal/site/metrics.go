package site

import (
	"github.com/infractl/infractl/certs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// MetricsPort is the TCP port of metrics pages: node_exporter's.
const MetricsPort = 9100

// metrics: with a monitoring section every node shows its page on its inside addresses, to the one node that watches.
func (s *Site) metrics(n *Node) *v1.MetricsSpec {
	if s.monitoringNode == "" {
		return nil
	}
	spec := &v1.MetricsSpec{
		Port:    MetricsPort,
		Clients: []string{certs.ServiceURI(s.Name, certs.ServicePrometheus, s.monitoringNode)},
		Scraper: n.Name == s.monitoringNode,
	}
	for _, a := range s.listens(n) {
		spec.ListenAddresses = append(spec.ListenAddresses, a.String())
	}
	return spec
}

// monitoringManaged says which keys of the monitoring section have no effect yet: pages, certificates and discovery are there,
// the watching itself is Prometheus' own configuration.
func (l *loader) monitoringManaged() {
	for _, key := range []string{"scrape_interval", "retention", "alerts"} {
		if path := "monitoring/" + key; l.pos.Has(path) {
			l.info(path, "monitoring.%s is not yet managed: it is checked, and nothing more", key)
			l.site.NotManaged = append(l.site.NotManaged, "monitoring."+key)
		}
	}
}
