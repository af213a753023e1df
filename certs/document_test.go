package certs

import (
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

func TestDocumentIsBelievedOnlyWhenGenuine(t *testing.T) {
	a, _, _ := newAuthority(t)
	stranger, _, _ := newAuthority(t)
	genuine, err := a.SignDocument([]byte("destroyed: all\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := VerifyDocument(a.RootPEM(), genuine); err != nil || text != "destroyed: all\n" {
		t.Fatalf("genuine: %q, %v", text, err)
	}
	foreign, err := stranger.SignDocument([]byte("destroyed: all\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, document := range map[string]string{
		"changed":        strings.Replace(genuine, "all", "nothing", 1),
		"of a stranger":  foreign,
		"without":        "destroyed: all\n",
		"empty":          "",
		"something more": genuine + "and more\n",
		"cut":            genuine[:len(genuine)-40],
	} {
		if _, err := VerifyDocument(a.RootPEM(), document); !errs.Is(err, errs.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
