package sitefile

import (
	"encoding/json"
	"reflect"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site/yamltree"
)

// JSONSchema returns the schema of a site file, for editors: the shape, not the meaning.
func JSONSchema() ([]byte, error) { return writeSchema(reflect.TypeFor[File](), "infractl site") }

// OverlayJSONSchema returns the schema of a lab overlay.
func OverlayJSONSchema() ([]byte, error) {
	return writeSchema(reflect.TypeFor[Overlay](), "infractl lab overlay")
}

func writeSchema(t reflect.Type, title string) ([]byte, error) {
	c, err := readComments()
	if err != nil {
		return nil, err
	}
	schema := c.schema(t)
	// Draft 7 is what all editors know; nothing newer is used.
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	schema["title"] = title
	schema["description"] = c[t.Name()]
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, errs.Wrap("write schema", err)
	}
	return append(out, '\n'), nil
}

func (c comments) schema(t reflect.Type) map[string]any {
	if t.Kind() == reflect.Pointer {
		return c.schema(t.Elem())
	}
	if f, ok := formOf(t); ok {
		return map[string]any{"type": "string", "pattern": f.pattern}
	}
	if t == reflect.TypeFor[Port]() {
		return map[string]any{"type": "integer", "minimum": 1, "maximum": 65535}
	}
	if elem, ok := yamltree.MapElem(t); ok {
		return map[string]any{"type": "object", "additionalProperties": c.schema(elem)}
	}
	switch t.Kind() {
	case reflect.Slice:
		return map[string]any{"type": "array", "items": c.schema(t.Elem())}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Struct:
		return c.object(t)
	case reflect.String:
		// A version such as 19.0 is a number to YAML and text to us.
		return map[string]any{"type": []string{"string", "number"}}
	}
	return map[string]any{"type": "integer", "minimum": 0}
}

func (c comments) object(t reflect.Type) map[string]any {
	properties := map[string]any{}
	required := []string{}
	for _, f := range yamltree.Fields(t) {
		p := c.schema(f.Type)
		p["description"] = c[t.Name()+"."+f.Go]
		if words := Words(t.Name() + "." + f.Go); words != nil {
			delete(p, "type")
			p["enum"] = words
		}
		properties[f.Name] = p
		if f.Required {
			required = append(required, f.Name)
		}
	}
	out := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}
