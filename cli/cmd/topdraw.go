package cmd

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/infractl/infractl/cli/output"
)

// draw writes one whole frame at once, over the one before: each line is cleared to its end, and nothing flickers.
func (v *topView) draw(screen io.Writer, now time.Time, problem error, columns, lines int) error {
	var table bytes.Buffer
	w, err := output.New(&table, output.Table, columns)
	if err != nil {
		return err
	}
	if err := w.Rows(topHeader(), v.rows(true)); err != nil {
		return err
	}
	head := "infractl top   " + now.Format("15:04:05") + "   Ctrl-C ends"
	if problem != nil {
		head = "no answer, asking again: " + output.Line(problem.Error())
	}
	body := strings.Split(strings.TrimRight(table.String(), "\n"), "\n")
	if most := lines - 2; len(body) > most && most > 1 {
		left := len(body) - most + 1
		body = append(body[:most-1], fmt.Sprintf("... %d more lines; name a node, or: infractl top --once", left))
	}
	var frame strings.Builder
	frame.WriteString("\x1b[H")
	for _, line := range append([]string{cutTo(head, columns)}, body...) {
		frame.WriteString(line + "\x1b[K\r\n")
	}
	frame.WriteString("\x1b[J")
	_, err = io.WriteString(screen, frame.String())
	return err
}

func cutTo(s string, columns int) string {
	if r := []rune(s); len(r) > columns {
		return string(r[:columns])
	}
	return s
}

// share is a part of a whole, 0 to 1.
func share(part, whole float64) float64 {
	if whole <= 0 || part <= 0 {
		return 0
	}
	return min(1, part/whole)
}

// barWidth is the width of a bar in columns.
const barWidth = 8

// bar draws a share in eighths of a column.
func bar(share float64) string {
	const parts = " ▏▎▍▌▋▊▉"
	eighths := int(share*barWidth*8 + 0.5)
	out := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		out += string([]rune(parts)[rest])
	}
	return "[" + out + strings.Repeat(" ", barWidth-len([]rune(out))) + "]"
}

// spark draws shares over time, the newest at the right.
func spark(history []float64) string {
	const levels = "▁▂▃▄▅▆▇█"
	var out strings.Builder
	for _, h := range history {
		out.WriteRune([]rune(levels)[min(7, int(h*8))])
	}
	return out.String() + strings.Repeat(" ", maxHistory-len(history))
}

// bytesText writes a size with three digits and a binary unit.
func bytesText(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for n >= 1000 && i < len(units)-1 {
		n /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%.0f B", n)
	}
	return fmt.Sprintf("%.3g %s", n, units[i])
}
