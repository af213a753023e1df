package yamltree

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Parse reads a document. The node is nil when the document cannot be used at all; faults may also stand beside a node. An
// empty document is a Null node.
func Parse(content []byte) (root *Node, faults []Fault) {
	if len(content) > MaxBytes {
		return nil, []Fault{{
			Pos:     Pos{1, 1},
			Message: fmt.Sprintf("the file has %d bytes, more than %d", len(content), MaxBytes),
			Hint:    "a site file holds a few hundred lines; is this the right file?",
		}}
	}
	if f, bad := badText(content); bad {
		return nil, []Fault{f}
	}
	// The parser of the library is not ours: a panic in it is a document that it cannot read, never a crash of the server.
	defer func() {
		if r := recover(); r != nil {
			root, faults = nil, []Fault{{Pos: Pos{1, 1}, Message: "this is no YAML that can be read"}}
		}
	}()
	tokens := lexer.Tokenize(string(content))
	if f, bad := refusedToken(tokens); bad {
		return nil, []Fault{f}
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, []Fault{syntaxFault(err)}
	}
	c := &converter{anchors: map[string]*Node{}, open: map[string]bool{}}
	return c.document(file)
}

// badText finds text that no editor shows as what it is.
func badText(content []byte) (Fault, bool) {
	line, column := 1, 1
	for i := 0; i < len(content); {
		r, n := utf8.DecodeRune(content[i:])
		if r == utf8.RuneError && n <= 1 {
			return Fault{Pos: Pos{line, column}, Message: "this is no UTF-8 text", Hint: "save the file as UTF-8"}, true
		}
		if unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
			return Fault{Pos: Pos{line, column}, Message: fmt.Sprintf("the invisible character %U is not allowed", r)}, true
		}
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
		i += n
	}
	return Fault{}, false
}

// refusedToken looks at the tokens before they are parsed: the parser is recursive, so depth has to be bounded here.
func refusedToken(tokens token.Tokens) (Fault, bool) {
	var blocks []int // columns of the open blocks
	if len(tokens) > MaxTokens {
		return Fault{Pos: posOf(tokens[MaxTokens]), Message: fmt.Sprintf("more than %d words and signs", MaxTokens)}, true
	}
	flow, line, aliases := 0, 0, 0
	for i, t := range tokens {
		pos := posOf(t)
		opens := false
		switch t.Type {
		case token.TagType:
			return Fault{Pos: pos, Message: fmt.Sprintf("the tag %s is not allowed", short(t.Value))}, true
		case token.DirectiveType:
			return Fault{Pos: pos, Message: "directives are not allowed"}, true
		case token.MergeKeyType:
			return Fault{Pos: pos, Message: "merge keys (<<) are not allowed", Hint: "write the keys out"}, true
		case token.AnchorType:
			if i+2 < len(tokens) && tokens[i+2].Type == token.AnchorType {
				return Fault{Pos: posOf(tokens[i+2]), Message: "one value cannot have two anchors"}, true
			}
		case token.AliasType:
			if aliases++; aliases > MaxAliases {
				return Fault{Pos: pos, Message: fmt.Sprintf("more than %d aliases", MaxAliases)}, true
			}
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			opens = true
		}
		if opens || pos.Line != line && flow == 0 {
			for len(blocks) > 0 && blocks[len(blocks)-1] >= pos.Column {
				blocks = blocks[:len(blocks)-1]
			}
			blocks = append(blocks, pos.Column)
		}
		line = pos.Line
		if flow+len(blocks) > MaxDepth {
			return Fault{Pos: pos, Message: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}, true
		}
	}
	return Fault{}, false
}

func syntaxFault(err error) Fault {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		return Fault{Pos: posOf(e.GetToken()), Message: "YAML: " + short(e.GetMessage())}
	}
	return Fault{Pos: Pos{1, 1}, Message: "YAML: " + short(err.Error())}
}

func posOf(t *token.Token) Pos {
	if t == nil || t.Position == nil {
		return Pos{1, 1}
	}
	return Pos{max(t.Position.Line, 1), max(t.Position.Column, 1)}
}

func short(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:77], "") + "..."
}

type converter struct {
	anchors map[string]*Node
	open    map[string]bool // anchors whose value is being read
	faults  []Fault
	full    bool
}

func (c *converter) fault(pos Pos, hint, format string, args ...any) {
	c.faults = append(c.faults, Fault{Pos: pos, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (c *converter) document(file *ast.File) (*Node, []Fault) {
	var root *Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		n := c.node(doc.Body, 0)
		if root != nil {
			c.fault(n.Pos, "keep one document in the file", "a second document starts here")
			break
		}
		root = n
	}
	if root == nil {
		root = &Node{Pos: Pos{1, 1}}
	}
	if c.full {
		return nil, c.faults
	}
	return root, c.faults
}

func (c *converter) node(n ast.Node, depth int) *Node {
	out := &Node{Pos: Pos{1, 1}, size: 1}
	if n == nil {
		return out
	}
	out.Pos = posOf(n.GetToken())
	if depth > MaxDepth {
		c.stop(out.Pos, "nested deeper than %d levels", MaxDepth)
	}
	if c.full {
		return out
	}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		out.Kind, out.Text = Scalar, n.Value
		out.Quoted = n.Token != nil && (n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType)
	case *ast.LiteralNode:
		out.Kind, out.Text, out.Quoted = Scalar, n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		out.Kind, out.Text = Scalar, n.GetToken().Value
	case *ast.SequenceNode:
		out.Kind, out.Pos = List, posOf(n.Start)
		for _, v := range n.Values {
			out.add(c.node(v, depth+1))
		}
	case *ast.MappingNode:
		out.Kind = Mapping
		if len(n.Values) == 0 {
			out.Pos = posOf(n.Start)
		}
		for _, v := range n.Values {
			c.entry(out, v, depth)
		}
	case *ast.MappingValueNode:
		out.Kind = Mapping
		c.entry(out, n, depth)
	case *ast.AnchorNode:
		return c.anchor(n, depth)
	case *ast.AliasNode:
		return c.alias(n)
	default:
		c.fault(out.Pos, "", "%s is not allowed here", n.Type())
	}
	if out.size > MaxNodes {
		c.stop(out.Pos, "more than %d values, those that aliases repeat included", MaxNodes)
	}
	return out
}

// stop ends the reading: what follows would only cost time.
func (c *converter) stop(pos Pos, format string, args ...any) {
	if !c.full {
		c.fault(pos, "", format, args...)
	}
	c.full = true
}

func (n *Node) add(v *Node) {
	n.Items = append(n.Items, v)
	n.size += v.size
}

func (c *converter) entry(out *Node, v *ast.MappingValueNode, depth int) {
	key := v.Key.GetToken()
	pos := posOf(key)
	if len(out.Entries) == 0 {
		out.Pos = pos
	}
	var text string
	switch k := v.Key.(type) {
	case *ast.StringNode:
		text = k.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		text = key.Value
	default:
		c.fault(pos, "use a plain name", "this is no key")
		return
	}
	value := c.node(v.Value, depth+1)
	if v.Value == nil || value.Kind == Null {
		value.Pos = pos
	}
	if first, ok := out.keys[text]; ok {
		c.fault(pos, "", "%s is given twice, first in line %d", short(text), first.Line)
		return
	}
	if out.keys == nil {
		out.keys = map[string]Pos{}
	}
	out.keys[text] = pos
	out.Entries = append(out.Entries, Entry{Key: text, Pos: pos, Value: value})
	out.size += value.size
}

func (c *converter) anchor(n *ast.AnchorNode, depth int) *Node {
	name := ""
	if n.Name != nil {
		name = n.Name.GetToken().Value
	}
	c.open[name] = true
	value := c.node(n.Value, depth+1)
	delete(c.open, name)
	c.anchors[name] = value
	return value
}

func (c *converter) alias(n *ast.AliasNode) *Node {
	pos, name := posOf(n.Start), ""
	if n.Value != nil {
		name = n.Value.GetToken().Value
	}
	value, ok := c.anchors[name]
	switch {
	case c.open[name]:
		c.fault(pos, "", "the alias *%s stands inside of its own anchor", short(name))
	case !ok:
		c.fault(pos, "", "there is no anchor &%s before this alias", short(name))
	default:
		return value
	}
	return &Node{Pos: pos, size: 1}
}
