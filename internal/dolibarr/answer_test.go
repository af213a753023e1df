package dolibarr

import (
	"slices"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

func TestReadAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		output  string
		steps   []string
		version string
		code    errs.Code
		message string
		hint    string
	}{
		"an answer": {output: `{"step":"step1","seconds":0.2}` + "\n" + `{"step":"step2","seconds":1.5}` + "\n" + `{"ok":true,"version":"19.0.4","modules":["Cron"]}`,
			steps: []string{"step1", "step2"}, version: "19.0.4"},
		"noise of PHP between": {output: "PHP Warning:  something\n<br>\n{broken\n[1]\n" + `{"ok":true,"version":"19.0.4"}` + "\nnoise\n", version: "19.0.4"},
		"the last answer counts": {output: `{"ok":true,"version":"1.0.0"}` + "\n" + `{"ok":false,"error":"no","hint":"do this"}`,
			code: errs.Precondition, message: "no", hint: "do this"},
		"half done keeps its mark":  {output: `{"ok":false,"error":"broken off","half_done":true}`, code: errs.Precondition, message: "broken off"},
		"nothing":                   {code: errs.Internal, message: "it printed nothing"},
		"broken off":                {output: `{"step":"step1","seconds":0.2}` + "\nKilled", steps: []string{"step1"}, code: errs.Internal, message: "Killed"},
		"an answer of another kind": {output: `{"ok":"yes"}`, code: errs.Internal, message: "broke off"},
		"a line without an end":     {output: strings.Repeat("x", lineLimit+1), code: errs.Internal, message: "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			var steps []string
			answer, err := ReadAnswer(strings.NewReader(c.output), func(s Step) { steps = append(steps, s.Name) })
			if !slices.Equal(steps, c.steps) {
				t.Errorf("steps = %q", steps)
			}
			if c.code == "" && (err != nil || answer.Version != c.version) {
				t.Errorf("%+v, %v", answer, err)
			}
			if c.code != "" && (!errs.Is(err, c.code) || !strings.Contains(err.Error(), c.message) || errs.HintOf(err) != c.hint) {
				t.Errorf("%v (%s), hint %q", err, errs.CodeOf(err), errs.HintOf(err))
			}
			if strings.Contains(c.output, "half_done") && !answer.HalfDone {
				t.Error("the answer does not say that it is half done")
			}
		})
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(`{"step":"step1","seconds":0.2}` + "\n" + `{"ok":true,"version":"19.0.4"}`)
	f.Add(`{"ok":false,"error":"no"}`)
	f.Add("noise\n{\"ok\":null}\n")
	f.Fuzz(func(t *testing.T, output string) {
		answer, err := ReadAnswer(strings.NewReader(output), nil)
		if (err == nil) != answer.OK {
			t.Errorf("ok is %v, and the error %v", answer.OK, err)
		}
	})
}
