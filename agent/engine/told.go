package engine

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// What is told of changes and of old ways goes to the server in one message of the session, whose size is limited: a message
// that is too large would end the session each time that it is sent again.
const (
	maxTold    = 128 << 10 // bytes of the changes of one phase, or of the drift
	maxLine    = 500       // bytes of a line, once there is too much to tell
	maxWidened = 500       // lines
)

// told bounds a list of changes: lines are left out first, then changes. The greatest risk of what is left out stays. Text is
// made UTF-8: lines come from files of others, and a message takes nothing else.
func told(changes []*v1.Change) []*v1.Change {
	for _, c := range changes {
		c.Subject = strings.ToValidUTF8(c.GetSubject(), "?")
		for _, lines := range [][]string{c.GetBefore(), c.GetAfter()} {
			for i := range lines {
				lines[i] = strings.ToValidUTF8(lines[i], "?")
			}
		}
	}
	size := func() (n int) {
		for _, c := range changes {
			n += proto.Size(c)
		}
		return n
	}
	for _, most := range []int{1000, 100, 10, 1} {
		if size() <= maxTold {
			return changes
		}
		fewer := make([]*v1.Change, len(changes))
		for i, c := range changes {
			fewer[i] = proto.Clone(c).(*v1.Change)
			fewer[i].Before, fewer[i].After = firstLines(c.GetBefore(), most), firstLines(c.GetAfter(), most)
		}
		changes = fewer
	}
	for n, sum := 0, 0; n < len(changes); n++ {
		if sum += proto.Size(changes[n]); sum <= maxTold {
			continue
		}
		rest := &v1.Change{Provider: changes[n].GetProvider(), Subject: fmt.Sprintf("and %d more", len(changes)-n),
			Action: v1.ChangeAction_CHANGE_ACTION_UPDATE}
		for _, c := range changes[n:] {
			rest.Risk = max(rest.GetRisk(), c.GetRisk())
		}
		return append(changes[:n:n], rest)
	}
	return changes
}

// firstLines returns at most that many lines, none of them long, and how many were left out.
func firstLines(lines []string, most int) []string {
	var out []string
	for i, line := range lines {
		if i == most {
			return append(out, fmt.Sprintf("... and %d more lines", len(lines)-most))
		}
		if len(line) > maxLine {
			line = strings.ToValidUTF8(line[:maxLine], "") + "..."
		}
		out = append(out, line)
	}
	return out
}
