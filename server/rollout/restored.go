package rollout

import (
	"context"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// HaltForRestore ends the rollouts that were at work in a copy of the server's state: the fleet has gone on since, and what
// they would do next may be long past. Nothing begins by itself after a halt; a person applies or retries. It returns their
// ids.
func HaltForRestore(ctx context.Context, records store.Records, now time.Time) ([]string, error) {
	const op = "halt rollouts"
	headers := store.NewTable(records, KindRollout, store.JSON[header]())
	nodes := store.NewTable(records, KindNode, store.JSON[nodeRecord]())
	items, err := headers.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	var ids []string
	for _, it := range items {
		h := it.Value
		if !h.Ended.IsZero() {
			continue
		}
		if err := dropTasks(ctx, nodes, h.ID); err != nil {
			return nil, errs.Wrap(op, err)
		}
		h.State, h.Ended = v1.RolloutState_ROLLOUT_STATE_HALTED, now.UTC()
		h.Reason = "the server was restored from a backup that was made while this rollout was at work"
		if _, err := headers.Put(ctx, it.Name, h, it.Revision); err != nil {
			return nil, errs.Wrap(op, err)
		}
		ids = append(ids, h.ID)
	}
	return ids, nil
}

// dropTasks forgets the tasks under way: their agents have ended them, one way or the other.
func dropTasks(ctx context.Context, nodes *store.Table[nodeRecord], rollout string) error {
	items, err := nodes.List(ctx, store.ListOptions{Prefix: rollout + "/"})
	if err != nil {
		return err
	}
	for _, it := range items {
		if it.Value.Task == nil {
			continue
		}
		it.Value.Task, it.Value.State = nil, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING
		it.Value.Message = "how its commit ended is not known to the restored server"
		if _, err := nodes.Put(ctx, it.Name, it.Value, it.Revision); err != nil {
			return err
		}
	}
	return nil
}
