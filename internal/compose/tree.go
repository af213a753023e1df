package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// place is a line and a column, both from 1.
type place struct{ line, column int }

type fault struct {
	at            place
	message, hint string
}

// tree knows where everything stands. Paths join keys and list indexes by "/".
type tree struct {
	root         *yaml.Node
	values, keys map[string]place
	texts        []scalar
	kinds        map[string][]string // keys of mappings, in order
	faults       []fault
	visited      int
}

type scalar struct{ at, text string }

// parseTree reads one YAML document with limits; merge keys and aliases are followed.
func parseTree(content []byte) (*tree, *fault) {
	t := &tree{values: map[string]place{}, keys: map[string]place{}, kinds: map[string][]string{}}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return t, &fault{place{1, 1}, "the file is empty", ""}
	} else if err != nil {
		return t, yamlFault(err)
	}
	var next yaml.Node
	if err := dec.Decode(&next); err == nil {
		return t, &fault{place{max(next.Line, 1), 1}, "there is a second document in the file", "a stack is one document"}
	} else if !errors.Is(err, io.EOF) {
		return t, yamlFault(err)
	}
	t.root = &doc
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		t.root = doc.Content[0]
	}
	if t.root.Kind != yaml.MappingNode {
		return t, &fault{placeOf(t.root), "a Compose file is a mapping with the key services", ""}
	}
	if f := t.walk("", t.root, 0); f != nil {
		return t, f
	}
	return t, nil
}

func placeOf(n *yaml.Node) place { return place{max(n.Line, 1), max(n.Column, 1)} }

func (t *tree) walk(at string, n *yaml.Node, depth int) *fault {
	if t.visited++; t.visited > maxNodes {
		return &fault{placeOf(n), fmt.Sprintf("more than %d values", maxNodes), ""}
	}
	if depth > maxDepth {
		return &fault{placeOf(n), fmt.Sprintf("nested deeper than %d levels", maxDepth), ""}
	}
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		t.faults = append(t.faults, fault{placeOf(n), fmt.Sprintf("the tag %s means something only where several files are merged", n.Tag), "remove it"})
	}
	if _, ok := t.values[at]; !ok {
		t.values[at] = placeOf(n)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return t.mapping(at, n, depth)
	case yaml.SequenceNode:
		for i, item := range n.Content {
			if f := t.walk(child(at, strconv.Itoa(i)), item, depth+1); f != nil {
				return f
			}
		}
	case yaml.ScalarNode:
		t.texts = append(t.texts, scalar{at, n.Value})
	}
	return nil
}

// mapping walks the keys of a mapping first, then what is merged into it and not there yet.
func (t *tree) mapping(at string, n *yaml.Node, depth int) *fault {
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.Value == "<<" {
			merged = append(merged, value)
			continue
		}
		path := child(at, key.Value)
		if _, ok := t.keys[path]; ok {
			continue
		}
		t.keys[path] = placeOf(key)
		t.kinds[at] = append(t.kinds[at], key.Value)
		if f := t.walk(path, value, depth+1); f != nil {
			return f
		}
	}
	for _, m := range merged {
		if m.Kind == yaml.AliasNode && m.Alias != nil {
			m = m.Alias
		}
		list := []*yaml.Node{m}
		if m.Kind == yaml.SequenceNode {
			list = m.Content
		}
		for _, one := range list {
			if f := t.walk(at, one, depth+1); f != nil {
				return f
			}
		}
	}
	return nil
}

// model returns the content as the Compose library wants it.
func (t *tree) model() (map[string]any, error) {
	out := map[string]any{}
	err := t.root.Decode(&out)
	return out, err
}

func child(at, key string) string {
	if at == "" {
		return key
	}
	return at + "/" + key
}

func (t *tree) has(at string) bool { _, ok := t.values[at]; return ok }

// below returns the keys of a mapping.
func (t *tree) below(at string) []string { return t.kinds[at] }

func (t *tree) value(at string) place { return nearest(t.values, at) }

func (t *tree) key(at string) place {
	if p, ok := t.keys[at]; ok {
		return p
	}
	return t.value(at)
}

func (t *tree) scalars(f func(at, text string)) {
	for _, s := range t.texts {
		f(s.at, s.text)
	}
}

func nearest(m map[string]place, at string) place {
	for {
		if p, ok := m[at]; ok {
			return p
		}
		i := strings.LastIndexByte(at, '/')
		if i < 0 {
			return place{1, 1}
		}
		at = at[:i]
	}
}

var lineNumber = regexp.MustCompile(`\b(?:line |L)(\d+)`)

// yamlFault takes the place out of an error of the YAML library.
func yamlFault(err error) *fault {
	at := place{1, 1}
	text := spaces.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), " ")
	if m := lineNumber.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 {
			at.line = n
		}
	}
	if len(text) > 400 {
		text = strings.ToValidUTF8(text[:400], "") + "…"
	}
	return &fault{at, "this is no YAML: " + text, ""}
}
