package certs

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

func TestNoticeIsBelievedOnlyWhenGenuine(t *testing.T) {
	a, clk, _ := newAuthority(t)
	stranger, _, _ := newAuthority(t)
	key, csr := newCSR(t)
	node, err := a.IssueNode(csr, "web1")
	if err != nil {
		t.Fatal(err)
	}
	genuine, err := a.SignNotice(node.Serial, KeyHash(node.Leaf))
	if err != nil {
		t.Fatal(err)
	}
	n, err := VerifyNotice(a.RootPEM(), "projetpro", node.Serial, "", genuine)
	if err != nil || n.Serial != node.Serial || n.Site != "projetpro" || !n.Time.Equal(clk.Now()) {
		t.Fatalf("genuine notice: %+v, %v", n, err)
	}
	if _, err = VerifyNotice(a.RootPEM(), "projetpro", "of an older certificate", KeyHash(node.Leaf), genuine); err != nil {
		t.Errorf("another certificate of the revoked key: %v", err)
	}
	change := func(f func(*signedNotice)) []byte {
		var env signedNotice
		if err := json.Unmarshal(genuine, &env); err != nil {
			t.Fatal(err)
		}
		f(&env)
		out, err := json.Marshal(env)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	foreign, err := stranger.SignNotice(node.Serial, KeyHash(node.Leaf))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		serial string
		notice []byte
		key    string
	}{
		"about another certificate": {"00000000000000000000000000000000", genuine, ""},
		"about no certificate":      {"", genuine, ""},
		"about another key":         {"", genuine, strings.Repeat("0", 64)},
		"of another authority":      {node.Serial, foreign, ""},
		"changed content": {node.Serial, change(func(e *signedNotice) {
			e.Payload = bytes.Replace(e.Payload, []byte("2030"), []byte("2031"), 1)
		}), ""},
		// A revoked node must not be able to revoke others with its own certificate.
		"signed by a node": {node.Serial, change(func(e *signedNotice) {
			e.Issuing = node.Leaf.Raw
			e.Signature, _ = key.Sign(rand.Reader, noticeDigest(e.Payload), crypto.SHA256)
		}), ""},
		"cut off":        {node.Serial, genuine[:len(genuine)/2], ""},
		"trailing data":  {node.Serial, append(bytes.Clone(genuine), "{}"...), ""},
		"unknown fields": {node.Serial, append([]byte(`{"x":1,`), genuine[1:]...), ""},
		"too large":      {node.Serial, append(bytes.Clone(genuine), bytes.Repeat([]byte(" "), maxNotice)...), ""},
		"nothing":        {node.Serial, nil, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := VerifyNotice(a.RootPEM(), "projetpro", c.serial, c.key, c.notice)
			wantCode(t, "verify", err, errs.Unauthenticated)
		})
	}
	_, err = VerifyNotice(a.RootPEM(), "another", node.Serial, KeyHash(node.Leaf), genuine)
	wantCode(t, "of another site", err, errs.Unauthenticated)
}

func TestNoticeSurvivesRenewalOfTheIssuer(t *testing.T) {
	a, clk, _ := newAuthority(t)
	clk.Advance(IssuingLife / 4 * 3)
	if _, err := a.RenewIssuing(); err != nil {
		t.Fatal(err)
	}
	notice, err := a.SignNotice("0011", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyNotice(a.RootPEM(), "projetpro", "0011", "", notice); err != nil {
		t.Error(err)
	}
}

func FuzzVerifyNotice(f *testing.F) {
	a, _, _ := newAuthority(f)
	genuine, err := a.SignNotice("0011", "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(genuine)
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := VerifyNotice(a.RootPEM(), "projetpro", "0011", "", data)
		if err == nil && (n.Site != "projetpro" || n.Serial != "0011") {
			t.Errorf("believed %+v", n)
		}
	})
}

func FuzzIssueNode(f *testing.F) {
	a, _, _ := newAuthority(f)
	_, csr := newCSR(f)
	f.Add(csr, "web1")
	f.Fuzz(func(t *testing.T, csr []byte, name string) {
		issued, err := a.IssueNode(csr, name)
		if err != nil {
			return
		}
		id, err := ParseIdentity(issued.Leaf)
		if err != nil || !id.IsNode(name) {
			t.Errorf("issued %v (%v) for %q", id, err, name)
		}
	})
}
