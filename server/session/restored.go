package session

import (
	"context"
	"slices"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// DropTasks removes all tasks from a copy of the server's state: a restored server must not send an order of former days. The
// results that agents still hold for them are acknowledged like any that nobody waits for.
func DropTasks(ctx context.Context, records store.Records) error {
	const op = "drop tasks"
	list, err := records.List(ctx, KindTask, store.ListOptions{NamesOnly: true})
	if err != nil {
		return errs.Wrap(op, err)
	}
	for chunk := range slices.Chunk(list, store.MaxOps) {
		ops := make([]store.Op, 0, len(chunk))
		for _, r := range chunk {
			ops = append(ops, store.Delete{Kind: KindTask, Name: r.Name, Expect: store.Any})
		}
		if _, err := records.Write(ctx, ops...); err != nil {
			return errs.Wrap(op, err)
		}
	}
	return nil
}
