package yamltree

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Map is a mapping with free keys, in the order of the file.
type Map[T any] []Pair[T]

// Pair is one entry of a Map.
type Pair[T any] struct {
	// Key is the entry's key.
	Key string
	// Value is the entry's value.
	Value T
}

func (Map[T]) freeKeys() {}

// Keyed is implemented by every Map.
type Keyed interface{ freeKeys() }

// Positions are the places of values by path; a path's parts are joined with "/", lists count from 0.
type Positions struct {
	keys, values map[string]Pos
}

// Value returns where the value of the path starts; for one that does not exist, where its nearest parent stands.
func (p *Positions) Value(path string) Pos { return nearest(p.values, path) }

// Key returns where the key of the path stands.
func (p *Positions) Key(path string) Pos {
	if pos, ok := p.keys[path]; ok {
		return pos
	}
	return p.Value(path)
}

// Has reports whether the file has the path.
func (p *Positions) Has(path string) bool { _, ok := p.values[path]; return ok }

func nearest(m map[string]Pos, path string) Pos {
	for {
		if pos, ok := m[path]; ok {
			return pos
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return Pos{1, 1}
		}
		path = path[:i]
	}
}

// Join makes a path of its parts.
func Join(parts ...string) string { return strings.Join(parts, "/") }

// Options of Decode.
type Options struct {
	// UnknownHint adds a hint about an unknown key at a path when the usual one, a similar known key, does not exist.
	UnknownHint func(parent, key string) string
}

// Decode fills the structure that into points to, and reports everything that does not fit. Fields are named by their yaml
// tag; the tag site:"required" makes a key mandatory. Scalars are strings, booleans, whole numbers and everything that is an
// encoding.TextUnmarshaler; what is faulty keeps its zero value.
func Decode(root *Node, into any, opt Options) (*Positions, []Fault) {
	d := &decoder{opt: opt, pos: &Positions{keys: map[string]Pos{}, values: map[string]Pos{}}}
	d.value(root, reflect.ValueOf(into).Elem(), "")
	return d.pos, d.faults
}

type decoder struct {
	opt    Options
	pos    *Positions
	faults []Fault
}

func (d *decoder) fault(pos Pos, hint, format string, args ...any) {
	d.faults = append(d.faults, Fault{Pos: pos, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (d *decoder) value(n *Node, v reflect.Value, path string) {
	d.pos.values[path] = n.Pos
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if n.Kind == Null {
		d.fault(n.Pos, "give it a value or remove the key", "%s has no value", label(path))
		return
	}
	if t, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if d.kind(n, Scalar, path) {
			d.text(n, t, path)
		}
		return
	}
	switch {
	case v.Kind() == reflect.Struct:
		if d.kind(n, Mapping, path) {
			d.structure(n, v, path)
		}
	case isMap(v.Type()):
		if d.kind(n, Mapping, path) {
			d.mapping(n, v, path)
		}
	case v.Kind() == reflect.Slice:
		if d.kind(n, List, path) {
			for i, item := range n.Items {
				element := reflect.New(v.Type().Elem()).Elem()
				d.value(item, element, child(path, strconv.Itoa(i)))
				v.Set(reflect.Append(v, element))
			}
		}
	default:
		if d.kind(n, Scalar, path) {
			d.scalar(n, v, path)
		}
	}
}

func (d *decoder) kind(n *Node, want Kind, path string) bool {
	if n.Kind == want {
		return true
	}
	d.fault(n.Pos, "", "%s must be %s, this is %s", label(path), want, n.Kind)
	return false
}

func (d *decoder) text(n *Node, t encoding.TextUnmarshaler, path string) {
	if err := t.UnmarshalText([]byte(n.Text)); err != nil {
		hint := ""
		if h, ok := err.(interface{ Hint() string }); ok {
			hint = h.Hint()
		}
		d.fault(n.Pos, hint, "%s: %s", label(path), err)
	}
}

func (d *decoder) scalar(n *Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Text)
	case reflect.Bool:
		if n.Quoted || n.Text != "true" && n.Text != "false" {
			d.fault(n.Pos, "write true or false", "%s: %q is neither true nor false", label(path), short(n.Text))
			return
		}
		v.SetBool(n.Text == "true")
	case reflect.Uint, reflect.Uint16, reflect.Uint32:
		u, err := strconv.ParseUint(n.Text, 10, v.Type().Bits())
		if err != nil {
			d.fault(n.Pos, "", "%s: %q is no whole number that is possible here", label(path), short(n.Text))
			return
		}
		v.SetUint(u)
	default:
		d.fault(n.Pos, "", "%s: a %s cannot be read", label(path), v.Type())
	}
}

func (d *decoder) structure(n *Node, v reflect.Value, path string) {
	fields := Fields(v.Type())
	for _, e := range n.Entries {
		at := child(path, e.Key)
		i := fieldIndex(fields, e.Key)
		if i < 0 {
			d.unknown(e, fields, path)
			continue
		}
		d.pos.keys[at] = e.Pos
		d.value(e.Value, v.Field(fields[i].Index), at)
	}
	for _, f := range fields {
		if f.Required && !d.pos.Has(child(path, f.Name)) {
			d.fault(d.pos.Key(path), "", "%s lacks the key %s", label(path), f.Name)
		}
	}
}

func (d *decoder) unknown(e Entry, fields []Field, path string) {
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		names = append(names, f.Name)
	}
	hint := ""
	if like := Similar(e.Key, names); like != "" {
		hint = fmt.Sprintf("did you mean %s?", like)
	} else if d.opt.UnknownHint != nil {
		hint = d.opt.UnknownHint(path, e.Key)
	}
	if hint == "" {
		hint = "known here: " + strings.Join(names, ", ")
	}
	d.fault(e.Pos, hint, "unknown key %s", short(e.Key))
}

func (d *decoder) mapping(n *Node, v reflect.Value, path string) {
	for _, e := range n.Entries {
		pair := reflect.New(v.Type().Elem()).Elem()
		pair.Field(0).SetString(e.Key)
		at := child(path, e.Key)
		d.pos.keys[at] = e.Pos
		d.value(e.Value, pair.Field(1), at)
		v.Set(reflect.Append(v, pair))
	}
}

func child(path, key string) string {
	if path == "" {
		return key
	}
	return path + "/" + key
}

func label(path string) string {
	if path == "" {
		return "the file"
	}
	return short(strings.ReplaceAll(path, "/", "."))
}
