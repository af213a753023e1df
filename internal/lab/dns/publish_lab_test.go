//go:build lab

package dns

import (
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/inside"
)

// TestPublicRecordsAreTakenByABind sends the server's updates of public records to a bind that checks their signatures, in a lab of one
// machine.
func TestPublicRecordsAreTakenByABind(t *testing.T) {
	o, done, err := demo.ForTests("registrar")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	_, output, err := inside.Run(t.Context(), o, inside.Tests{Package: "server/dns", Run: "TestRealBind", Machine: services,
		Env: []string{"INFRACTL_REAL_BIND=1"}, Limit: time.Minute})
	t.Log(output)
	if err != nil {
		t.Fatal(err)
	}
}
