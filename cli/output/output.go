// Package output is the one writer of the command line: tables for people, JSON and YAML for programs. JSON and YAML have
// the shape of the proto message, so they are as stable as the contract.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/errs"
)

// Format is how data is written.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// Formats lists all formats, for completion and help.
func Formats() []string { return []string{string(Table), string(JSON), string(YAML)} }

// Writer writes data to one stream in one format.
type Writer struct {
	out    io.Writer
	format Format
	width  int
}

// New returns a Writer. width is the terminal's width in columns; 0 means that lines may have any length.
func New(out io.Writer, format Format, width int) (*Writer, error) {
	switch format {
	case Table, JSON, YAML:
		return &Writer{out: out, format: format, width: width}, nil
	}
	return nil, errs.New(errs.Invalid, "unknown output format %q", format).WithHint("use one of %s", strings.Join(Formats(), ", "))
}

// Human reports whether the output is for people.
func (w *Writer) Human() bool { return w.format == Table }

// Message writes a message: for people by calling human, otherwise whole.
func (w *Writer) Message(m proto.Message, human func() error) error {
	if w.format == Table {
		return human()
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return errs.Wrap("write output", err)
	}
	return w.machine(raw)
}

// Object writes a value that is no message of the contract, by its JSON tags.
func (w *Writer) Object(v any, human func() error) error {
	if w.format == Table {
		return human()
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return errs.Wrap("write output", err)
	}
	return w.machine(raw)
}

// machine writes JSON text in the wanted format. protojson varies its white space on purpose; here it becomes the same
// every time.
func (w *Writer) machine(raw []byte) error {
	var text bytes.Buffer
	if w.format == YAML {
		converted, err := yaml.JSONToYAML(raw)
		if err != nil {
			return errs.Wrap("write output", err)
		}
		text.Write(converted)
	} else {
		if err := json.Indent(&text, raw, "", "  "); err != nil {
			return errs.Wrap("write output", err)
		}
		text.WriteByte('\n')
	}
	return w.Raw(text.Bytes())
}

// Raw writes bytes as they are: a file's content, a token.
func (w *Writer) Raw(data []byte) error {
	_, err := w.out.Write(data)
	return errs.Wrap("write output", err)
}

// Printf writes text for people, cleaned; with another format it writes nothing.
func (w *Writer) Printf(format string, args ...any) {
	if w.format == Table {
		fmt.Fprint(w.out, Clean(fmt.Sprintf(format, args...)))
	}
}

// Clean replaces what would steer a terminal: control characters but line feed and tab, and marks that turn the direction of
// text. Names and messages come from other machines, some of which nobody has approved yet.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) && !unicode.Is(unicode.Bidi_Control, r) {
			return r
		}
		return '?'
	}, s)
}

// Line cleans s and folds it into one line.
func Line(s string) string {
	return Clean(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, s))
}

// Pairs writes names and values, one pair a line; no value is cut.
func (w *Writer) Pairs(pairs [][2]string) error {
	width := 0
	for _, p := range pairs {
		width = max(width, utf8.RuneCountInString(p[0]))
	}
	for _, p := range pairs {
		if _, err := fmt.Fprintf(w.out, "%-*s  %s\n", width, Line(p[0]), Line(p[1])); err != nil {
			return errs.Wrap("write output", err)
		}
	}
	return nil
}

// Rows writes a table whose columns fit the terminal: the widest ones are cut with an ellipsis, the first never.
func (w *Writer) Rows(header []string, rows [][]string) error {
	table := make([][]string, 0, len(rows)+1)
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		clean := make([]string, len(header))
		for i := range min(len(row), len(header)) {
			clean[i] = Line(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(clean[i]))
		}
		table = append(table, clean)
	}
	shrink(widths, w.width)
	for _, row := range table {
		var line strings.Builder
		for i, cell := range row {
			cell = cut(cell, widths[i])
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		if _, err := fmt.Fprintln(w.out, strings.TrimRight(line.String(), " ")); err != nil {
			return errs.Wrap("write output", err)
		}
	}
	return nil
}

// minColumn is the width below which a column is not cut.
const minColumn = 8

func shrink(widths []int, limit int) {
	if limit <= 0 || len(widths) == 0 {
		return
	}
	total := 2 * (len(widths) - 1)
	for _, n := range widths {
		total += n
	}
	for total > limit {
		widest := -1
		for i := 1; i < len(widths); i++ {
			if widths[i] > minColumn && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
		total--
	}
}

func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	runes := []rune(s)
	return string(runes[:n-1]) + "…"
}
