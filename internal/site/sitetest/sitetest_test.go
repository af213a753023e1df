package sitetest

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/infractl/infractl/internal/site"
)

func source(t *testing.T, lab bool) site.Source {
	t.Helper()
	content, err := os.ReadFile("../../../examples/projetpro/site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	src := site.Source{File: "site.yaml", Content: content, WithoutFiles: true}
	if lab {
		if src.OverlayContent, err = os.ReadFile("../../../examples/projetpro/lab.yaml"); err != nil {
			t.Fatal(err)
		}
		src.OverlayFile = "lab.yaml"
	}
	return src
}

func TestEncodeKeepsTheMeaning(t *testing.T) {
	src := source(t, true)
	before, _ := site.Load(src)
	f, err := Decode(src.Content)
	if err != nil {
		t.Fatal(err)
	}
	src.Content = Encode(f)
	after, findings := site.Load(src)
	if after == nil {
		t.Fatalf("refused: %v\n%s", findings[0], src.Content)
	}
	want, err := before.HostSpecs(site.Resources{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := after.HostSpecs(site.Resources{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMutateYieldsValidSitesThatDiffer(t *testing.T) {
	for _, opt := range []Options{{}, {KeepMachines: true}, {Edits: 30}} {
		src := source(t, true)
		changed := 0
		for seed := range uint64(15) {
			next := src
			next.Content = Mutate(Seeded(seed), src, opt)
			s, findings := site.Load(next)
			if s == nil {
				t.Fatalf("seed %d: %v", seed, findings[0])
			}
			if !bytes.Equal(next.Content, src.Content) {
				changed++
			}
			if again := Mutate(Seeded(seed), src, opt); !bytes.Equal(again, next.Content) {
				t.Fatalf("seed %d: not the same twice", seed)
			}
		}
		if changed < 12 {
			t.Errorf("%+v: only %d of 15 files changed", opt, changed)
		}
	}
}

// TestEveryEditIsPossible makes sure that no kind of edit is always refused, which would be a test that tests nothing.
func TestEveryEditIsPossible(t *testing.T) {
	list := append(edits(), machineEdits()...)
	src := source(t, false)
	for i, edit := range list {
		accepted := false
		for seed := uint64(0); seed < 200 && !accepted; seed++ {
			f, err := Decode(src.Content)
			if err != nil {
				t.Fatal(err)
			}
			edit(&editor{Chooser: Seeded(seed), file: f})
			next := src
			next.Content = Encode(f)
			s, _ := site.Load(next)
			accepted = s != nil
		}
		if !accepted {
			t.Errorf("edit %d is never accepted", i)
		}
	}
}
