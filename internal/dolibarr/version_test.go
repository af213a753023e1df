package dolibarr

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/errs"
)

func TestParseVersion(t *testing.T) {
	for _, text := range []string{"16.0.3", "19.0.4", "0.0.0", "22.10.11"} {
		if v, err := ParseVersion(text); err != nil || v.String() != text {
			t.Errorf("ParseVersion(%q) = %v, %v", text, v, err)
		}
	}
	for _, text := range []string{"", "19", "19.0", "19.0.4-beta", "v19.0.4", "19.0.4 ", "19.00.4", "19.0.4.1", "-1.0.0", "99999.0.0", "19.0.x", "19.0.4\n"} {
		if v, err := ParseVersion(text); !errs.Is(err, errs.Invalid) {
			t.Errorf("ParseVersion(%q) = %v, %v, want it refused", text, v, err)
		}
	}
}

func TestVersionsAreOrderedAsNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.IntRange(0, 9999)
		v := Version{number.Draw(t, "major"), number.Draw(t, "minor"), number.Draw(t, "patch")}
		w := Version{number.Draw(t, "other major"), number.Draw(t, "other minor"), number.Draw(t, "other patch")}
		back, err := ParseVersion(v.String())
		if err != nil || back != v {
			t.Fatalf("%v comes back as %v, %v", v, back, err)
		}
		value := func(v Version) int { return v.Major*10000*10000 + v.Minor*10000 + v.Patch }
		if got, want := v.Compare(w) < 0, value(v) < value(w); got != want {
			t.Fatalf("%v before %v: %v", v, w, got)
		}
		if v.Compare(w) != -w.Compare(v) {
			t.Fatalf("comparing %v and %v depends on the order", v, w)
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	for _, text := range []string{"19.0.4", "19", "19.0.4-beta", "1.2.3.4", "٣.0.0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := ParseVersion(text); err == nil && v.String() != text {
			t.Errorf("%q was read as %v", text, v)
		}
	})
}

func TestChooseBase(t *testing.T) {
	for name, c := range map[string]struct{ version, wish, suite, refusal, hint string }{
		"15 on the oldest":             {version: "15.0.3", suite: "bullseye"},
		"16 on the oldest":             {version: "16.0.3", suite: "bullseye"},
		"18 not on 8.2, which warns":   {version: "18.0.9", suite: "bullseye"},
		"19 on 8.2":                    {version: "19.0.4", suite: "bookworm"},
		"19 on 7.4 where one wants":    {version: "19.0.4", wish: "bullseye", suite: "bullseye"},
		"21 not on 8.4":                {version: "21.0.4", suite: "bookworm"},
		"22 on 8.4":                    {version: "22.0.4", suite: "trixie"},
		"24 on 8.4":                    {version: "24.0.0", suite: "trixie"},
		"19 not on 8.4":                {version: "19.0.4", wish: "trixie", refusal: "runs on PHP 7.1 to 8.2, and trixie has another", hint: "bookworm, bullseye"},
		"16 not on 8.2":                {version: "16.0.3", wish: "bookworm", refusal: "runs on PHP 5.6 to 8.1", hint: "bullseye"},
		"unknown base":                 {version: "19.0.4", wish: "jessie", refusal: `unknown base "jessie"`, hint: "trixie (8.4)"},
		"base of control characters":   {version: "19.0.4", wish: "\x00trixie", refusal: "unknown base"},
		"version before our knowledge": {version: "14.0.0", refusal: "not known which PHP Dolibarr 14.0.0", hint: "15 to 24"},
		"version after our knowledge":  {version: "25.0.0", refusal: "not known which PHP", hint: "15 to 24"},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := ParseVersion(c.version)
			if err != nil {
				t.Fatal(err)
			}
			base, err := ChooseBase(v, c.wish)
			if c.refusal == "" {
				if err != nil || base.Suite != c.suite {
					t.Fatalf("%v, %v, want %s", base, err, c.suite)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.refusal) || !strings.Contains(errs.HintOf(err), c.hint) {
				t.Errorf("%v, hint %q", err, errs.HintOf(err))
			}
		})
	}
}

func TestNoBaseIsLeft(t *testing.T) {
	_, err := chooseBase(Version{16, 0, 3}, "", Bases()[:2])
	if err == nil || !strings.Contains(err.Error(), "no base has a PHP for Dolibarr 16.0.3: it runs on 5.6 to 8.1") || !strings.Contains(errs.HintOf(err), "bookworm (8.2)") {
		t.Errorf("%v, hint %q", err, errs.HintOf(err))
	}
}
