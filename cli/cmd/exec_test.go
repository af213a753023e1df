package cmd

import (
	"bytes"
	"testing"
)

func TestWhatACommandSaysCannotSteerTheTerminal(t *testing.T) {
	for name, c := range map[string]struct {
		parts []string
		want  string
	}{
		"plain":             {[]string{"a\n", "b\tc\n"}, "a\nb\tc\n"},
		"colour":            {[]string{"\x1b[1;31mred\x1b[0m\n"}, "red\n"},
		"title":             {[]string{"\x1b]0;owned\x07x\n"}, "x\n"},
		"bell":              {[]string{"\x07"}, "?"},
		"cut in a sequence": {[]string{"\x1b", "[2Jx"}, "?[2Jx"},
		"cut in a letter":   {[]string{"caf\xc3", "\xa9\n"}, "café\n"},
		"cut three times":   {[]string{"\xf0", "\x9f", "\x98\x80"}, "😀"},
		"not UTF-8":         {[]string{"\xff\xfe\n"}, "\ufffd\ufffd\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := &cleanWriter{to: &out}
			for _, p := range c.parts {
				if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
					t.Fatalf("wrote %d, %v", n, err)
				}
			}
			if out.String() != c.want {
				t.Errorf("got %q, want %q", out.String(), c.want)
			}
		})
	}
}
