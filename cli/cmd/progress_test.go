package cmd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func rolloutOf(states ...v1.NodeRolloutState) *v1.Rollout {
	r := &v1.Rollout{Id: "r-1"}
	for i, s := range states {
		r.Nodes = append(r.Nodes, &v1.NodeRollout{Node: "node" + num(uint64(i)), State: s, Wave: 1, Message: "a message that is longer than the screen is wide"})
	}
	return r
}

const (
	queued   = v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED
	widening = v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENING
	done     = v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE
)

func rowsOf(states ...v1.NodeRolloutState) []row { return rowsOfRollout(rolloutOf(states...)) }

func newTestProgress(columns, lines int) (*progress, *bytes.Buffer) {
	var b bytes.Buffer
	p := newProgress(&app{proc: Process{Err: &b}})
	p.size = func() (int, int) { return columns, lines }
	return p, &b
}

func TestProgressOnATerminalIsDrawnOverItself(t *testing.T) {
	p, b := newTestProgress(40, 25)
	p.update(rowsOf(widening, queued))
	p.update(rowsOf(done, widening))
	p.note("a note")
	up := strings.Count(b.String(), "\x1b[2A")
	if up != 2 {
		t.Errorf("went up %d times, want 2: %q", up, b.String())
	}
	for line := range strings.Lines(b.String()) {
		line = strings.TrimRight(line, "\n")
		for _, code := range []string{"\x1b[2A", "\x1b[2K", "\x1b[J"} {
			line = strings.ReplaceAll(line, code, "")
		}
		if len(line) >= 40 {
			t.Errorf("line has %d columns: %q", len(line), line)
		}
	}
	if !strings.HasSuffix(b.String(), "\x1b[2A\x1b[Ja note\n\x1b[2Kwave 1  node0              done        \n\x1b[2Kwave 1  node1              widening    \n") {
		t.Errorf("the table does not stand below the note: %q", b.String())
	}
}

func TestProgressThatDoesNotFitIsLines(t *testing.T) {
	p, b := newTestProgress(80, 2)
	p.update(rowsOf(widening, queued))
	p.update(rowsOf(widening, queued))
	p.update(rowsOf(done, widening))
	if strings.Contains(b.String(), "\x1b") || strings.Count(b.String(), "\n") != 3 {
		t.Errorf("got %q", b.String())
	}
}

func TestAnInterruptEndsAQuestion(t *testing.T) {
	in, out := io.Pipe() // nobody ever writes
	defer out.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := await(ctx, func() (string, error) { return readLine(in) }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestReadLine(t *testing.T) {
	for in, want := range map[string]string{"yes\n": "yes", " y \r\nmore": "y", "no line end": "no line end", "": ""} {
		if got, err := readLine(strings.NewReader(in)); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	if got, err := readLine(strings.NewReader(strings.Repeat("x", 1<<20))); err != nil || len(got) != maxLine {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 90 * time.Second: "1m", 47 * time.Hour: "47h",
		72 * time.Hour: "3d"} {
		if got := span(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
}

func TestARolloutThatConcernsNobodySaysSo(t *testing.T) {
	var b strings.Builder
	a := &app{proc: Process{Err: &b}}
	if err := a.conclude(&v1.Rollout{Revision: 4, State: v1.RolloutState_ROLLOUT_STATE_SUCCEEDED}); err != nil {
		t.Fatal(err)
	}
	if b.String() != "no node needed anything\n" {
		t.Errorf("said %q", b.String())
	}
}
