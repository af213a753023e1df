package cmd

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// progress shows a rollout on stderr: on a terminal as a table that is drawn over itself, elsewhere one line per change of a
// node.
type progress struct {
	a     *app
	mu    sync.Mutex
	size  func() (columns, lines int) // of the terminal; 0, 0 where there is none
	drawn int                         // lines of the table on the screen
	last  *v1.Rollout
	seen  map[string]string
}

func newProgress(a *app) *progress {
	p := &progress{a: a, seen: map[string]string{}, size: func() (int, int) { return 0, 0 }}
	if f, ok := a.proc.Err.(*os.File); ok && isTerminal(f) && os.Getenv("TERM") != "dumb" {
		p.size = func() (int, int) {
			columns, lines, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 0, 0
			}
			return columns, lines
		}
	}
	return p
}

// update shows the rollout as it is now.
func (p *progress) update(r *v1.Rollout) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = r
	columns, lines := p.size()
	// A table that is higher than the screen cannot be drawn over itself.
	if columns == 0 || len(r.GetNodes()) >= lines {
		p.lines(r)
		return
	}
	p.draw(r, columns)
}

// note writes a line above the table.
func (p *progress) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn > 0 {
		fmt.Fprintf(p.a.proc.Err, "\x1b[%dA\x1b[J", p.drawn)
	}
	p.a.note(format, args...)
	if p.drawn > 0 {
		p.drawn = 0
		columns, _ := p.size()
		p.draw(p.last, columns)
	}
}

func (p *progress) lines(r *v1.Rollout) {
	for _, n := range r.GetNodes() {
		line := progressLine(n)
		if p.seen[n.GetNode()] != line && n.GetState() > v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED {
			p.seen[n.GetNode()] = line
			p.a.note("%s", line)
		}
	}
}

func (p *progress) draw(r *v1.Rollout, columns int) {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	for _, n := range r.GetNodes() {
		line := []rune(output.Line(progressLine(n)))
		fmt.Fprintf(&b, "\x1b[2K%s\n", string(line[:min(len(line), max(columns-1, 20))]))
	}
	p.drawn = len(r.GetNodes())
	fmt.Fprint(p.a.proc.Err, b.String())
}

// nodeText is what is to be said of a node in a rollout: its error, else what happens.
func nodeText(n *v1.NodeRollout) string {
	if n.GetError() != nil {
		return n.GetError().GetMessage()
	}
	return n.GetMessage()
}

func progressLine(n *v1.NodeRollout) string {
	what := nodeRollout(n.GetState())
	atWork := n.GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENING || n.GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_NARROWING
	if atWork && n.GetPhase() != v1.Phase_PHASE_UNSPECIFIED {
		what += " (" + phase(n.GetPhase()) + ")"
	}
	return strings.TrimRight(fmt.Sprintf("wave %d  %-18s %-28s %s", n.GetWave(), n.GetNode(), what, nodeText(n)), " ")
}
