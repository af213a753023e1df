package laptop

import (
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

func TestParseConf(t *testing.T) {
	c, err := parseConf("[Interface]\nPrivateKey = k=\nAddress = 10.0.20.2/32\nDNS = 10.0.10.10, projetpro.lab\n\n" +
		"[Peer]\nPublicKey = p=\nAllowedIPs = 10.0.10.0/24, 10.0.20.0/24\nEndpoint = 192.168.8.30:51820\n")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(c.wg, "Address") || strings.Contains(c.wg, "DNS") || !strings.Contains(c.wg, "PrivateKey = k=\n") ||
		!strings.Contains(c.wg, "Endpoint") {
		t.Errorf("for wg: %s", c.wg)
	}
	if strings.Join(c.addresses, " ") != "10.0.20.2/32" || strings.Join(c.prefixes, " ") != "10.0.10.0/24 10.0.20.0/24" || c.dns[0] != "10.0.10.10" {
		t.Errorf("got %+v", c)
	}
	if _, err := parseConf("nothing"); !errs.Is(err, errs.Invalid) {
		t.Errorf("error %v", err)
	}
}
