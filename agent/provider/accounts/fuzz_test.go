package accounts

import (
	"strings"
	"testing"
)

func FuzzPersonKeyGivesOneLineWithoutOptions(f *testing.F) {
	for _, seed := range []string{operatorKey + " operator@example", `command="x" ` + operatorKey, shortRSA, "", "ssh-ed25519 AAAA"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got, err := personKey("x", line)
		if err != nil {
			return
		}
		if strings.ContainsAny(got, "\n\r") || !strings.HasPrefix(got, "ssh-") && !strings.HasPrefix(got, "ecdsa-") && !strings.HasPrefix(got, "sk-") {
			t.Errorf("%q became %q", line, got)
		}
		if again, err := personKey("x", got); err != nil || again != got {
			t.Errorf("%q became %q, then %q, %v", line, got, again, err)
		}
	})
}
