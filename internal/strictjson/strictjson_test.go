package strictjson

import "testing"

func TestUnmarshal(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"OK":             {`{"a": 1}`, true},
		"OKLineEnd":      {"{\"a\": 1}\n", true},
		"ErrUnknown":     {`{"a": 1, "b": 2}`, false},
		"ErrSecondValue": {`{"a": 1} {"a": 2}`, false},
		"ErrBracket":     {`{"a": 1}]`, false},
		"ErrText":        {`{"a": 1} x`, false},
		"ErrCut":         {`{"a": 1`, false},
		"ErrEmpty":       {``, false},
	} {
		t.Run(name, func(t *testing.T) {
			var v struct {
				A int `json:"a"`
			}
			if err := Unmarshal([]byte(c.text), &v); (err == nil) != c.ok || c.ok && v.A != 1 {
				t.Errorf("%q: %d, %v", c.text, v.A, err)
			}
		})
	}
}
