package demo

import (
	"os"
	"testing"

	model "github.com/infractl/infractl/internal/site"
)

func TestWithoutStacksTheExampleNeedsNoFiles(t *testing.T) {
	content, err := os.ReadFile("../../../examples/projetpro/site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := withoutStacks(string(content))
	if got == string(content) {
		t.Fatal("nothing was taken out")
	}
	s, findings := model.Load(model.Source{File: "site.yaml", Content: []byte(got)})
	if s == nil {
		t.Fatalf("refused: %v", findings)
	}
	if len(s.Files()) > 0 || len(s.Flows()) == 0 {
		t.Errorf("files %v, %d flows", s.Files(), len(s.Flows()))
	}
}
