package operation

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// HaltForRestore stops the operations that were under way in a copy of the server's state: what they did since is not known,
// and a person decides whether the step at hand is tried again or all of it undone. It returns their ids.
func HaltForRestore(ctx context.Context, records store.Records) ([]string, error) {
	const op = "halt operations"
	table := store.NewTable(records, KindOperation, store.JSON[record]())
	items, err := table.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	var ids []string
	for _, it := range items {
		r := it.Value
		if Still(r.State) {
			continue
		}
		state := halted
		if r.Undoing {
			state = stuck
		}
		r.PausedBy = ""
		r.stand(state, "the server was restored from a backup that was made while this operation was under way",
			"look at its hosts first; then infractl operation retry "+r.ID+", or infractl operation cancel "+r.ID)
		if _, err := table.Put(ctx, it.Name, r, it.Revision); err != nil {
			return nil, errs.Wrap(op, err)
		}
		ids = append(ids, r.ID)
	}
	return ids, nil
}
