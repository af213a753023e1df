package engine

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestChangesFitIntoAMessage(t *testing.T) {
	many := func(changes, lines, length int) []*v1.Change {
		var list []*v1.Change
		for i := range changes {
			c := &v1.Change{Provider: "firewall", Subject: fmt.Sprintf("chain %d", i), Risk: v1.Risk_RISK_NONE}
			for range lines {
				c.After = append(c.After, strings.Repeat("x", length))
			}
			list = append(list, c)
		}
		list[changes-1].Risk = v1.Risk_RISK_LOCKOUT
		return list
	}
	for name, list := range map[string][]*v1.Change{
		"few":        many(3, 10, 80),
		"many lines": many(2, 100_000, 120),
		"long line":  many(1, 1, 5<<20),
		"many":       many(50_000, 2, 20),
		"not UTF-8":  {{Subject: "/etc/h\xe9", Before: []string{"\xff"}, Risk: v1.Risk_RISK_LOCKOUT}},
	} {
		t.Run(name, func(t *testing.T) {
			was := len(list)
			got := told(list)
			data, err := proto.Marshal(&v1.PlanResult{Changes: got})
			if err != nil || len(data) > maxTold+4096 {
				t.Errorf("%d bytes, %v", len(data), err)
			}
			if len(got) == 0 || got[len(got)-1].GetRisk() != v1.Risk_RISK_LOCKOUT {
				t.Errorf("%d changes, and the risk is lost", len(got))
			}
			if name == "few" && (len(got) != was || len(got[0].GetAfter()) != 10) {
				t.Error("something was left out that fits")
			}
		})
	}
}
