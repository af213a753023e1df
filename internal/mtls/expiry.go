package mtls

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ExpirySource tells of one certificate.
type ExpirySource struct {
	// Which is the label: "root", "issuing", "server", "node".
	Which string
	// NotAfter returns when it expires; the zero time means that there is none now.
	NotAfter func() time.Time
}

type expiryCollector struct {
	desc    *prometheus.Desc
	sources []ExpirySource
}

// NewExpiryCollector returns a collector of infractl_certificate_not_after_seconds{which}, in seconds since 1970. It asks
// the sources at each scrape, so that renewals show by themselves.
func NewExpiryCollector(sources ...ExpirySource) prometheus.Collector {
	return &expiryCollector{
		desc: prometheus.NewDesc("infractl_certificate_not_after_seconds",
			"When the certificate expires, in seconds since 1970.", []string{"which"}, nil),
		sources: sources,
	}
}

// Describe implements prometheus.Collector.
func (c *expiryCollector) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

// Collect implements prometheus.Collector.
func (c *expiryCollector) Collect(out chan<- prometheus.Metric) {
	for _, s := range c.sources {
		if t := s.NotAfter(); !t.IsZero() {
			out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(t.UnixMilli())/1000, s.Which)
		}
	}
}
