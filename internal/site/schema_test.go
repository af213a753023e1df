package site_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/site/sitetest"
)

func TestSchemasAreCurrent(t *testing.T) {
	for name, made := range map[string]func() ([]byte, error){"site": site.JSONSchema, "overlay": site.OverlayJSONSchema} {
		got, err := made()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("..", "..", "docs", name+".schema.json")
		if flag.Lookup("update").Value.String() == "true" {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is stale; run make docs:\n%s", path, diff)
		}
	}
}

// compiled returns a schema of docs/ as an editor reads it.
func compiled(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join("..", "..", "docs", name+".schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// document reads YAML as an editor does: as JSON's kinds of values.
func document(content []byte) (any, error) {
	out, err := yaml.YAMLToJSON(content)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(out))
}

func TestSchemasTakeTheExamples(t *testing.T) {
	for file, name := range map[string]string{"site.yaml": "site", "lab.yaml": "overlay"} {
		content, err := os.ReadFile(filepath.Join("..", "..", "examples", "projetpro", file))
		if err != nil {
			t.Fatal(err)
		}
		v, err := document(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled(t, name).Validate(v); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestSchemaTakesWhateverTheLoaderTakes: an editor that marks a good line teaches people to ignore it.
func TestSchemaTakesWhateverTheLoaderTakes(t *testing.T) {
	schema := compiled(t, "site")
	src := site.Source{File: "site.yaml", WithoutFiles: true}
	var err error
	if src.Content, err = os.ReadFile("../../examples/projetpro/site.yaml"); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		next := src
		next.Content = sitetest.Mutate(sitetest.FromRapid(t), src, sitetest.Options{Edits: rapid.IntRange(1, 12).Draw(t, "edits")})
		if s, findings := site.Load(next); s == nil {
			t.Fatalf("refused: %v", findings[0])
		}
		v, err := document(next.Content)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%v\n%s", err, next.Content)
		}
	})
}

func TestSchemaMarksFaults(t *testing.T) {
	schema := compiled(t, "site")
	good, err := os.ReadFile("../../examples/projetpro/site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"an unknown key":     {"\nssh:\n", "\nssh:\n  prot: 22\n"},
		"a key that is away": {"\ndomain: projetpro.lab", "\n# domain: projetpro.lab"},
		"a port too high":    {"port: 7443", "port: 74430"},
		"an unknown role":    {"role: prod,", "role: production,"},
		"an unknown driver":  {"driver: npm ", "driver: nmp "},
		"a port without tcp": {"[80/tcp, 443/tcp]", "[80, 443/tcp]"},
		"text for a list":    {"ntp: [0.pool.ntp.org, 1.pool.ntp.org]", "ntp: 0.pool.ntp.org"},
		"no such schedule":   {"schedule: daily at 02:00", "schedule: daily at 2"},
		"no such window":     {"window: Sun 02:00-05:00", "window: Sunday"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(string(good), edit[0], edit[1], 1)
			if text == string(good) {
				t.Fatalf("the example has no %q", edit[0])
			}
			v, err := document([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if schema.Validate(v) == nil {
				t.Error("not marked")
			}
		})
	}
}

// TestSchemaHasTheLoadersRoles compares the words of the schema with the words of the code.
func TestSchemaHasTheLoadersRoles(t *testing.T) {
	content, err := site.JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Properties struct {
			Nodes struct {
				AdditionalProperties struct {
					Properties struct {
						Role struct {
							Enum []string `json:"enum"`
						} `json:"role"`
					} `json:"properties"`
				} `json:"additionalProperties"`
			} `json:"nodes"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	want := []string{site.RoleRouter, site.RoleRelay, site.RoleServices, site.RoleSupervision, site.RoleProd, site.RolePreprod}
	if diff := cmp.Diff(want, got.Properties.Nodes.AdditionalProperties.Properties.Role.Enum); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
}
