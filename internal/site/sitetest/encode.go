// Package sitetest makes valid sites of all kinds for tests: it edits a site file as a careless person could, and keeps only
// what site.Load accepts.
package sitetest

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
)

// Decode reads a site file that is known to parse.
func Decode(content []byte) (*sitefile.File, error) {
	root, faults := yamltree.Parse(content)
	if len(faults) > 0 {
		return nil, fmt.Errorf("line %d: %s", faults[0].Pos.Line, faults[0].Message)
	}
	f := &sitefile.File{}
	if _, faults = yamltree.Decode(root, f, yamltree.Options{}); len(faults) > 0 {
		return nil, fmt.Errorf("line %d: %s", faults[0].Pos.Line, faults[0].Message)
	}
	return f, nil
}

// Encode writes a site file. Optional keys that have their zero value are left out.
func Encode(f *sitefile.File) []byte {
	var e encoder
	e.structure(reflect.ValueOf(f).Elem(), 0)
	return []byte(e.String())
}

type encoder struct{ strings.Builder }

func (e *encoder) line(depth int, format string, args ...any) {
	e.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(e, format, args...)
	e.WriteString("\n")
}

func (e *encoder) structure(v reflect.Value, depth int) {
	for _, f := range yamltree.Fields(v.Type()) {
		field := v.Field(f.Index)
		if field.IsZero() && !f.Required {
			continue
		}
		e.key(strconvKey(f.Name), field, depth)
	}
}

func (e *encoder) key(key string, v reflect.Value, depth int) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if text, ok := scalar(v); ok {
		e.line(depth, "%s: %s", key, text)
		return
	}
	switch {
	case v.Kind() == reflect.Struct:
		if empty(v) {
			e.line(depth, "%s: {}", key)
			return
		}
		e.line(depth, "%s:", key)
		e.structure(v, depth+1)
	case isMap(v.Type()):
		if v.Len() == 0 {
			e.line(depth, "%s: {}", key)
			return
		}
		e.line(depth, "%s:", key)
		for i := range v.Len() {
			e.key(strconvKey(v.Index(i).Field(0).String()), v.Index(i).Field(1), depth+1)
		}
	default:
		e.list(key, v, depth)
	}
}

func (e *encoder) list(key string, v reflect.Value, depth int) {
	if v.Len() == 0 {
		e.line(depth, "%s: []", key)
		return
	}
	if _, ok := scalar(v.Index(0)); ok {
		var items []string
		for i := range v.Len() {
			text, _ := scalar(v.Index(i))
			items = append(items, text)
		}
		e.line(depth, "%s: [%s]", key, strings.Join(items, ", "))
		return
	}
	e.line(depth, "%s:", key)
	for i := range v.Len() {
		e.line(depth+1, "-")
		e.structure(v.Index(i), depth+2)
	}
}

// empty reports whether a structure would be written without any key.
func empty(v reflect.Value) bool {
	var e encoder
	e.structure(v, 0)
	return e.Len() == 0
}

func isMap(t reflect.Type) bool { _, ok := yamltree.MapElem(t); return ok }

func scalar(v reflect.Value) (string, bool) {
	switch x := v.Interface().(type) {
	case sitefile.Addr:
		return x.String(), true
	case sitefile.Prefix:
		return x.String(), true
	case sitefile.Duration:
		return x.String(), true
	case sitefile.Size:
		return strconv.FormatUint(uint64(x>>20), 10) + "M", true
	case sitefile.HostPort:
		return fmt.Sprintf("%q", fmt.Sprintf("%s:%d", x.Host, x.Port)), true
	case sitefile.PortSpec:
		switch {
		case x.SSH:
			return "ssh", true
		case x.First == x.Last:
			return fmt.Sprintf("%d/%s", x.First, x.Proto), true
		}
		return fmt.Sprintf("%d-%d/%s", x.First, x.Last, x.Proto), true
	}
	switch v.Kind() {
	case reflect.String:
		return fmt.Sprintf("%q", v.String()), true
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), true
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.FormatUint(v.Uint(), 10), true
	}
	return "", false
}

// strconvKey quotes what YAML would not take for a plain name.
func strconvKey(key string) string {
	if strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789-_") == "" && strings.Trim(key, "0123456789-_") != "" {
		return key
	}
	return fmt.Sprintf("%q", key)
}
