package engine

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// followed are the changes of what no provider applies: the agent's metrics page follows the stored spec by itself, as soon
// as the pass of an apply has stored it. Whether the page is up is a warning of the node, not drift: it may wait for an
// address or for the server.
func (e *Engine) followed(spec *v1.HostSpec) []*v1.Change {
	have, want := e.Spec().GetMetrics(), spec.GetMetrics()
	if proto.Equal(have, want) {
		return nil
	}
	c := &v1.Change{Provider: "metrics", Subject: "metrics page", Action: v1.ChangeAction_CHANGE_ACTION_UPDATE, Risk: v1.Risk_RISK_NONE}
	before, after := metricsLines(have), metricsLines(want)
	switch {
	case have == nil:
		c.Action = v1.ChangeAction_CHANGE_ACTION_CREATE
	case want == nil:
		c.Action = v1.ChangeAction_CHANGE_ACTION_DELETE
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			c.Before = append(c.Before, line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			c.After = append(c.After, line)
		}
	}
	return []*v1.Change{c}
}

func metricsLines(m *v1.MetricsSpec) []string {
	var lines []string
	for _, a := range m.GetListenAddresses() {
		lines = append(lines, fmt.Sprintf("listen on %s port %d", a, m.GetPort()))
	}
	for _, c := range m.GetClients() {
		lines = append(lines, "read by "+c)
	}
	if m.GetScraper() {
		lines = append(lines, "a client certificate for Prometheus")
	}
	return lines
}
