package site

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReferenceIsCurrent(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "site.md")
	got := Reference()
	if len(got) == 0 {
		t.Fatal("the reference is empty")
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/site.md is stale; run go test ./internal/site -run Reference -update:\n%s", diff)
	}
}

func TestSchemaKnowsEveryKey(t *testing.T) {
	content, err := JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Properties map[string]struct {
			Description string `json:"description"`
		} `json:"properties"`
		Required []string `json:"required"`
	}
	var got object
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range append(notManaged(), "site", "domain", "nodes", "flows", "ssh", "rollout") {
		if got.Properties[key].Description == "" {
			t.Errorf("the schema lacks %s, or its description", key)
		}
	}
	want := []string{"site", "domain", "networks", "nodes", "server", "flows", "ssh", "accounts"}
	if diff := cmp.Diff(want, got.Required); diff != "" {
		t.Errorf("required keys (-want +got):\n%s", diff)
	}
}
