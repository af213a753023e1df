package vyos

import (
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// Line is one set command: the words after "set".
type Line []string

// String returns the command with every value quoted that is no plain word.
func (l Line) String() string {
	var b strings.Builder
	b.WriteString("set")
	for _, w := range l {
		b.WriteByte(' ')
		if plain(w) {
			b.WriteString(w)
		} else {
			b.WriteString("'" + w + "'")
		}
	}
	return b.String()
}

// plain reports whether a word needs no quotes: words of paths are plain, values may be.
func plain(w string) bool {
	if w == "" {
		return false
	}
	for _, r := range w {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("-_./:@+=", r):
		default:
			return false
		}
	}
	return true
}

// quotable refuses what no quoting can carry: quotes and control characters.
func quotable(w string) error {
	for _, r := range w {
		if r == '\'' || r == '"' || r < ' ' || r == 0x7f || r == '\\' {
			return errs.New(errs.Invalid, "value %q holds a quote, a backslash or a control character", w)
		}
	}
	return nil
}

// ParseLine reads one command. A comment, an empty line and a command other than set give no line and no error; a quote that
// is not closed is Invalid, since a shell would swallow the lines that follow.
func ParseLine(text string) (Line, error) {
	words, err := split(text)
	if err != nil || len(words) == 0 || words[0] != "set" {
		return nil, err
	}
	return words[1:], nil
}

func split(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	open := false
	for _, r := range text {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == '#' && !open:
			return words, nil
		case r == ' ' || r == '\t' || r == '\r':
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if quote != 0 {
		return nil, errs.New(errs.Invalid, "a quote (%c) is not closed", quote)
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}

// lineNumber is the place of the i-th line, for messages.
func lineNumber(i int) string { return "line " + strconv.Itoa(i+1) }

// Writable says why a line could not be given to VyOS as a command: a value holds a quote, a backslash or a control character.
func (l Line) Writable() error {
	for _, w := range l {
		if err := quotable(w); err != nil {
			return errs.New(errs.Invalid, "a value holds a quote, a backslash or a control character")
		}
	}
	return nil
}
