package identity

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

// What a clock may do before a person should hear of it: take some time to find its source, and be off by what certificates, logs
// and backups do not mind.
const (
	clockPatience = 10 * time.Minute
	clockOffset   = 0.1 // seconds
)

// clockFindings warn of nodes whose clock follows nobody, or is off by its own time service's account.
func (s *Nodes) clockFindings(ctx context.Context, now time.Time) ([]*v1.Finding, error) {
	nodes, err := s.cfg.Fleet.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var out []*v1.Finding
	for _, n := range nodes {
		if text := clockProblem(n, now); text != "" {
			out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_WARNING, Where: "node " + n.Name, Message: text,
				Hint: "on the machine: chronyc sources; the router must answer on 123/udp"})
		}
	}
	return out, nil
}

func clockProblem(n fleet.Node, now time.Time) string {
	c := n.Clock.M
	switch {
	case c == nil || n.IsRevoked():
		return ""
	case !c.GetSynchronised():
		if now.Sub(n.ClockSince) < clockPatience {
			return ""
		}
		return fmt.Sprintf("its clock follows no source since %s", n.ClockSince.UTC().Format(time.RFC3339))
	}
	switch off := c.GetOffsetSeconds(); {
	case off > clockOffset:
		return fmt.Sprintf("its clock is %.2f s ahead of %s", off, c.GetSource())
	case off < -clockOffset:
		return fmt.Sprintf("its clock is %.2f s behind %s", -off, c.GetSource())
	}
	return ""
}
