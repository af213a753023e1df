package session

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// validText makes every text of a message UTF-8. What a host says of itself, a file's lines or a program's complaint, need
// not be, and a message with other bytes in it can't be sent at all: its task would never end.
func validText(m proto.Message) { validate(m.ProtoReflect()) }

func validate(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap(): // reports and results have none
		case fd.IsList():
			list := v.List()
			for i := range list.Len() {
				switch fd.Kind() {
				case protoreflect.MessageKind:
					validate(list.Get(i).Message())
				case protoreflect.StringKind:
					if s := list.Get(i).String(); !utf8.ValidString(s) {
						list.Set(i, protoreflect.ValueOfString(strings.ToValidUTF8(s, "?")))
					}
				}
			}
		case fd.Kind() == protoreflect.MessageKind:
			validate(v.Message())
		case fd.Kind() == protoreflect.StringKind:
			if s := v.String(); !utf8.ValidString(s) {
				m.Set(fd, protoreflect.ValueOfString(strings.ToValidUTF8(s, "?")))
			}
		}
		return true
	})
}
