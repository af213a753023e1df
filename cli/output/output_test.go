package output

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestRowsFitTheTerminal(t *testing.T) {
	var b bytes.Buffer
	w, err := New(&b, Table, 40)
	if err != nil {
		t.Fatal(err)
	}
	rows := [][]string{{"srv-supervision", strings.Repeat("é", 60), "x"}, {"a", "b", "c"}}
	if err := w.Rows([]string{"NODE", "MESSAGE", "LAST"}, rows); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 40 {
			t.Errorf("line has %d columns: %q", n, line)
		}
	}
	if !strings.Contains(b.String(), "srv-supervision") {
		t.Errorf("the first column was cut:\n%s", b.String())
	}
}

func TestJSONAndYAMLHaveTheMessagesShape(t *testing.T) {
	m := &v1.Token{Id: "t1", Node: "srv-prod"}
	for format, want := range map[Format]string{JSON: "\"used_by\": \"\"", YAML: "used_by: \"\""} {
		var first string
		for range 5 {
			var b bytes.Buffer
			w, err := New(&b, format, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Message(m, func() error { t.Error("asked for a table"); return nil }); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s lacks %q:\n%s", format, want, b.String())
			}
			if first == "" {
				first = b.String()
			}
			if b.String() != first {
				t.Errorf("%s differs from run to run", format)
			}
		}
	}
	if _, err := New(&bytes.Buffer{}, "xml", 0); err == nil {
		t.Error("xml accepted")
	}
}

func TestTextFromOtherMachinesCannotSteerTheTerminal(t *testing.T) {
	var b bytes.Buffer
	w, err := New(&b, Table, 0)
	if err != nil {
		t.Fatal(err)
	}
	evil := "srv\x1b[2J\u202ee\u009b1m\nnext\tone"
	w.Printf("%s\n", evil)
	if err := w.Rows([]string{"NODE"}, [][]string{{evil}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Pairs([][2]string{{"name", evil}}); err != nil {
		t.Fatal(err)
	}
	want := "srv?[2J?e?1m\nnext\tone\n" + "NODE\nsrv?[2J?e?1m next one\n" + "name  srv?[2J?e?1m next one\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestObjectsAndRawBytes(t *testing.T) {
	v := struct {
		Version string `json:"version"`
	}{"1.2.3"}
	for format, want := range map[Format]string{JSON: "{\n  \"version\": \"1.2.3\"\n}\n", YAML: "version: 1.2.3\n"} {
		var b bytes.Buffer
		w, err := New(&b, format, 0)
		if err != nil {
			t.Fatal(err)
		}
		w.Printf("not for programs")
		if err := w.Object(v, nil); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Errorf("%s: got %q, want %q", format, b.String(), want)
		}
	}
	var b bytes.Buffer
	w, _ := New(&b, Table, 3)
	if err := w.Raw([]byte("a\x00b\x1b")); err != nil || b.String() != "a\x00b\x1b" {
		t.Errorf("raw bytes were changed: %q, %v", b.String(), err)
	}
}
