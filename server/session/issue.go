package session

import (
	"context"
	"net"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
)

// IssueCertificate implements SessionService: a certificate for a service of the calling node. What it holds follows from the
// current revision alone. Precondition when the revision has no use for it.
func (s *Service) IssueCertificate(ctx context.Context, req *v1.IssueCertificateRequest) (*v1.IssueCertificateResponse, error) {
	caller := access.CallerFrom(ctx)
	node := caller.Identity.Name
	if !s.mayRenew("service@" + node) {
		s.refuse(ctx, caller, access.ReasonRate, "too many certificates")
		return nil, errs.New(errs.Exhausted, "too many certificates").WithHint("the agent tries again later")
	}
	want, ok, err := fleet.WantedNode(ctx, s.cfg.Site, node)
	if err != nil {
		return nil, err
	}
	if !ok || want.Metrics == nil {
		return nil, errs.New(errs.Precondition, "the current revision has no metrics page on %s", node)
	}
	var issued *certs.Issued
	switch req.GetPurpose() {
	case v1.Purpose_PURPOSE_METRICS:
		issued, err = s.cfg.Authority.IssueMetrics(req.GetCsr(), node, addresses(want.Metrics))
	case v1.Purpose_PURPOSE_SCRAPER:
		if !want.Metrics.GetScraper() {
			s.refuse(ctx, caller, access.ReasonCaller, "the site's metrics are not read from %s", node)
			return nil, errs.New(errs.Denied, "the site's metrics are not read from %s", node).
				WithHint("monitoring.node in the site file names the node that reads them")
		}
		issued, err = s.cfg.Authority.IssueScraper(req.GetCsr(), node)
	default:
		return nil, errs.New(errs.Invalid, "there is no certificate for such a purpose")
	}
	if err != nil {
		return nil, err
	}
	return &v1.IssueCertificateResponse{CertificatePem: issued.ChainPEM, RootPem: s.cfg.Authority.RootPEM(),
		NotAfter: timestamppb.New(issued.NotAfter)}, nil
}

func addresses(m *v1.MetricsSpec) (ips []net.IP) {
	for _, a := range m.GetListenAddresses() {
		if ip := net.ParseIP(a); ip != nil {
			ips = append(ips, ip)
		}
	}
	return ips
}
