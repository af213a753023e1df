// Package yamltree reads one YAML document strictly: with limits on everything, a position for everything, and all faults
// at once. It knows mappings, lists and scalars; tags, merge keys and further documents are refused. Anchors and aliases
// work within limits.
package yamltree

// Limits on a document.
const (
	// MaxBytes is the greatest size of a document.
	MaxBytes = 1 << 20
	// MaxDepth is the deepest nesting.
	MaxDepth = 50
	// MaxTokens is the greatest number of words and signs: the parser's time grows with its square.
	MaxTokens = 50_000
	// MaxAliases is the greatest number of aliases.
	MaxAliases = 200
	// MaxNodes is the greatest number of values, those that aliases repeat counted each time.
	MaxNodes = 100_000
)

// Pos is a place in a document; both count from 1.
type Pos struct {
	Line, Column int
}

// Fault is one thing that is wrong with a document.
type Fault struct {
	// Pos is where.
	Pos Pos
	// Message says what is wrong, Hint what to do (may be empty).
	Message, Hint string
}

// Kind is the kind of a node.
type Kind int

// The kinds.
const (
	Null Kind = iota
	Scalar
	List
	Mapping
)

// String returns the kind in words.
func (k Kind) String() string {
	switch k {
	case Scalar:
		return "a single value"
	case List:
		return "a list"
	case Mapping:
		return "a mapping"
	}
	return "empty"
}

// Node is one value.
type Node struct {
	// Kind says which of the other fields count.
	Kind Kind
	// Pos is where it starts.
	Pos Pos
	// Text is a scalar's text, without quotes and escapes.
	Text string
	// Quoted says that a scalar was written in quotes or as a block: it is a string whatever it looks like.
	Quoted bool
	// Items are a list's values.
	Items []*Node
	// Entries are a mapping's entries in order; keys are unique.
	Entries []Entry

	size int
	keys map[string]Pos // of Entries, while the mapping is read
}

// Entry is one key of a mapping with its value.
type Entry struct {
	// Key is the key's text.
	Key string
	// Pos is where the key stands.
	Pos Pos
	// Value is never nil.
	Value *Node
}
