package yamltree

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestParseRefuses(t *testing.T) {
	deepFlow := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	deepBlock := "a:\n"
	for i := 1; i < 80; i++ {
		deepBlock += strings.Repeat(" ", i) + "a:\n"
	}
	laughs := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 9; i++ {
		laughs += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	tests := map[string]struct {
		content string
		want    string // "line:column message"
	}{
		"too large":              {strings.Repeat("#", MaxBytes+1), "1:1 the file has 1048577 bytes, more than 1048576"},
		"latin1":                 {"a: caf\xe9\n", "1:7 this is no UTF-8 text"},
		"control character":      {"a: b\x00c\n", "1:5 the invisible character U+0000 is not allowed"},
		"text that turns around": {"a: b\u202ec\n", "1:5 the invisible character U+202E is not allowed"},
		"unclosed bracket":       {"a: [1, 2\nb: 3\n", "2:1 YAML: ',' or ']' must be specified"},
		"bad indentation":        {"a:\n  b: 1\n c: 2\n", "3:2 YAML: value is not allowed in this context"},
		"tab":                    {"a:\n\tb: 1\n", "2:1 YAML: found character '\t' that cannot start any token"},
		"tag":                    {"a: !!binary aGk=\n", "1:4 the tag !!binary is not allowed"},
		"directive":              {"%YAML 1.2\n---\na: 1\n", "1:1 directives are not allowed"},
		"merge key":              {"a: &x {b: 1}\nc:\n  <<: *x\n", "3:3 merge keys (<<) are not allowed"},
		"second document":        {"a: 1\n---\nb: 2\n", "3:1 a second document starts here"},
		"duplicate key":          {"a: 1\nb: 2\na: 3\n", "3:1 a is given twice, first in line 1"},
		"duplicate in flow":      {"x: {a: 1, a: 2}\n", "1:11 a is given twice, first in line 1"},
		"cyclic anchor":          {"a: &x [*x]\n", "1:8 the alias *x stands inside of its own anchor"},
		"alias without anchor":   {"a: *nobody\n", "1:4 there is no anchor &nobody before this alias"},
		"two anchors":            {"a: &x &y 1\n", "1:7 one value cannot have two anchors"},
		"deep flow":              {deepFlow, "1:51 nested deeper than 50 levels"},
		"deep block":             {deepBlock, "51:51 nested deeper than 50 levels"},
		"deep dashes":            {strings.Repeat("- ", 200), "1:101 nested deeper than 50 levels"},
		"many aliases":           {"a: &x 1\nb: [" + strings.Repeat("*x,", 300) + "]\n", "2:605 more than 200 aliases"},
		"exploding aliases":      {laughs, "5:9 more than 100000 values, those that aliases repeat included"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, faults := Parse([]byte(tt.content))
			if len(faults) == 0 {
				t.Fatal("got no fault")
			}
			f := faults[0]
			if got := fmt.Sprintf("%d:%d %s", f.Pos.Line, f.Pos.Column, f.Message); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestHostileSizeIsQuick(t *testing.T) {
	for name, line := range map[string]string{
		"brackets": "[", "dashes": "- ", "braces": "{a: ", "aliases": "*a ", "anchors": "&a ", "quotes": "'", "keys": "? ",
		"spaces": " ", "newlines": "\n", "text": "a: b\n", "colons": ":", "hashes": "# \n", "bars": "|\n", "tags": "!a ",
		"commas": ",", "bangs": "!", "percents": "%a\n", "documents": "---\n", "words": "word ", "escapes": `"\`,
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			Parse([]byte(strings.Repeat(line, MaxBytes/4/len(line))))
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestScalarsKeepTheirText(t *testing.T) {
	root, faults := Parse([]byte("a: 022\nb: 19.0\nc: no\nd: \"x\\ty\"\ne: 'it''s'\nf: |\n  two\n  lines\ng: 0x10\nh: &k v\ni: *k\nj:\n"))
	if len(faults) > 0 {
		t.Fatalf("got %v", faults)
	}
	want := []string{"022", "19.0", "no", "x\ty", "it's", "two\nlines\n", "0x10", "v", "v", ""}
	for i, e := range root.Entries {
		if e.Value.Text != want[i] {
			t.Errorf("%s: got %q, want %q", e.Key, e.Value.Text, want[i])
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a: 1", "- a\n- {b: [c]}", "a: &x [*x]", "a: |\n  b", "? a\n: b", "!!x y", "\"\\u12\"", "a: 'b", "%x", "<<: 1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) { Parse(content) })
}
