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

// row is one line of what is followed: a node of a rollout, a step of an operation.
type row struct {
	key, text string
	// quiet says that nothing happened there yet.
	quiet bool
}

// progress shows rows on stderr: on a terminal as a table that is drawn over itself, elsewhere one line per change of a row.
type progress struct {
	a     *app
	mu    sync.Mutex
	size  func() (columns, lines int) // of the terminal; 0, 0 where there is none
	drawn int                         // lines of the table on the screen
	last  []row
	seen  map[string]string
	said  string
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

// update shows the rows as they are now.
func (p *progress) update(rows []row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = rows
	columns, lines := p.size()
	// A table that is higher than the screen cannot be drawn over itself.
	if columns == 0 || len(rows) >= lines {
		p.lines(rows)
		return
	}
	p.draw(rows, columns)
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

// say notes what is to be said of the whole, once.
func (p *progress) say(message string) {
	if message != "" && message != p.said {
		p.note("%s", message)
	}
	p.said = message
}

func (p *progress) lines(rows []row) {
	for _, r := range rows {
		if p.seen[r.key] != r.text && !r.quiet {
			p.seen[r.key] = r.text
			p.a.note("%s", r.text)
		}
	}
}

func (p *progress) draw(rows []row, columns int) {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	for _, r := range rows {
		line := []rune(output.Line(r.text))
		fmt.Fprintf(&b, "\x1b[2K%s\n", string(line[:min(len(line), max(columns-1, 20))]))
	}
	p.drawn = len(rows)
	fmt.Fprint(p.a.proc.Err, b.String())
}

func rowsOfRollout(r *v1.Rollout) []row {
	var rows []row
	for _, n := range r.GetNodes() {
		rows = append(rows, row{key: n.GetNode(), text: progressLine(n), quiet: n.GetState() <= v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED})
	}
	return rows
}

func rowsOfOperation(op *v1.Operation) []row {
	var rows []row
	for i, s := range op.GetSteps() {
		text := fmt.Sprintf("%-24s %-18s %-10s %s", s.GetName(), dash(s.GetNode()), stepState(s.GetState()), s.GetMessage())
		quiet := s.GetState() <= v1.StepState_STEP_STATE_QUEUED && s.GetMessage() == ""
		rows = append(rows, row{key: num(uint64(i)), text: strings.TrimRight(text, " "), quiet: quiet})
	}
	return rows
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
