package yamltree

import (
	"reflect"
	"slices"
)

// Field is one key of a structure.
type Field struct {
	// Name is the key, Go the name of the field.
	Name, Go string
	// Index is the field's place in the structure.
	Index int
	// Required says that the key is mandatory.
	Required bool
	// Type is the field's type.
	Type reflect.Type
}

// Fields returns the keys of a structure in order.
func Fields(t reflect.Type) []Field {
	var out []Field
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		out = append(out, Field{
			Name: name, Go: f.Name, Index: i, Required: f.Tag.Get("site") == "required", Type: f.Type,
		})
	}
	return out
}

func fieldIndex(fields []Field, name string) int {
	return slices.IndexFunc(fields, func(f Field) bool { return f.Name == name })
}

func isMap(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Implements(reflect.TypeFor[Keyed]())
}

// MapElem returns the type of a Map's values.
func MapElem(t reflect.Type) (reflect.Type, bool) {
	if !isMap(t) {
		return nil, false
	}
	return t.Elem().Field(1).Type, true
}

// Similar returns the candidate that is most like the word, empty when none is.
func Similar(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, bestDistance := "", 1+min(2, len(word)/2)
	for _, c := range candidates {
		if d := distance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts inserted, removed, replaced and swapped letters.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, now := rows[(i-1)%3], rows[i%3], rows[(i+1)%3]
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(a)+1)%3][len(b)]
}
