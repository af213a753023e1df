package store

import (
	"context"
	"encoding/json"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// Codec turns values into a record's data and back.
type Codec[T any] struct {
	Encode func(T) ([]byte, error)
	Decode func([]byte) (T, error)
}

// JSON is the codec for plain Go values. Decoding is strict: a field that this program does not know would be lost at the
// next write.
func JSON[T any]() Codec[T] {
	return Codec[T]{
		Encode: func(v T) ([]byte, error) { return json.Marshal(v) },
		Decode: func(data []byte) (T, error) {
			var v T
			err := strictjson.Unmarshal(data, &v)
			return v, err
		},
	}
}

// Item is a typed record.
type Item[T any] struct {
	Name     string
	Revision Revision
	Value    T
}

// Table is typed access to the records of one kind.
type Table[T any] struct {
	records Records
	kind    Kind
	codec   Codec[T]
}

// NewTable returns a table over the records of kind.
func NewTable[T any](records Records, kind Kind, codec Codec[T]) *Table[T] {
	return &Table[T]{records: records, kind: kind, codec: codec}
}

// Kind returns the table's kind.
func (t *Table[T]) Kind() Kind { return t.kind }

// Get returns a value and its revision, or NotFound.
func (t *Table[T]) Get(ctx context.Context, name string) (Item[T], error) {
	rec, err := t.records.Get(ctx, t.kind, name)
	if err != nil {
		return Item[T]{}, err
	}
	return t.item(rec)
}

// List returns values in the order of their names. NamesOnly leaves Value zero.
func (t *Table[T]) List(ctx context.Context, opts ListOptions) ([]Item[T], error) {
	recs, err := t.records.List(ctx, t.kind, opts)
	if err != nil {
		return nil, err
	}
	items := make([]Item[T], 0, len(recs))
	for _, rec := range recs {
		it := Item[T]{Name: rec.Name, Revision: rec.Revision}
		if !opts.NamesOnly {
			if it, err = t.item(rec); err != nil {
				return nil, err
			}
		}
		items = append(items, it)
	}
	return items, nil
}

// Put writes a value and returns its new revision; see Records.Write for expect and the errors.
func (t *Table[T]) Put(ctx context.Context, name string, value T, expect Revision) (Revision, error) {
	op, err := t.PutOp(name, value, expect)
	if err != nil {
		return 0, err
	}
	recs, err := t.records.Write(ctx, op)
	if err != nil {
		return 0, err
	}
	return recs[0].Revision, nil
}

// PutOp returns the operation that Put does, for a Write that does more.
func (t *Table[T]) PutOp(name string, value T, expect Revision) (Op, error) {
	data, err := t.codec.Encode(value)
	if err != nil {
		return nil, errs.Wrap("encode "+string(t.kind)+" "+name, err)
	}
	return Put{Kind: t.kind, Name: name, Data: data, Expect: expect}, nil
}

// Delete removes a value.
func (t *Table[T]) Delete(ctx context.Context, name string, expect Revision) error {
	_, err := t.records.Write(ctx, Delete{Kind: t.kind, Name: name, Expect: expect})
	return err
}

// Update changes an existing value: it reads, calls change, writes, and begins again when somebody else was faster.
// change may be called several times; its error ends the update and is returned as it is.
func (t *Table[T]) Update(ctx context.Context, name string, change func(*T) error) (Item[T], error) {
	for {
		it, err := t.Get(ctx, name)
		if err != nil {
			return Item[T]{}, err
		}
		if err := change(&it.Value); err != nil {
			return Item[T]{}, err
		}
		rev, err := t.Put(ctx, name, it.Value, it.Revision)
		if err == nil {
			it.Revision = rev
			return it, nil
		}
		if !errs.Is(err, errs.Conflict) {
			return Item[T]{}, err
		}
	}
}

func (t *Table[T]) item(rec Record) (Item[T], error) {
	value, err := t.codec.Decode(rec.Data)
	if err != nil {
		return Item[T]{}, errs.Wrap("decode "+string(rec.Kind)+" "+rec.Name, errs.New(errs.Internal, "%w", err).
			WithHint("the record may have been written by a newer infractl-server; run that version"))
	}
	return Item[T]{Name: rec.Name, Revision: rec.Revision, Value: value}, nil
}
