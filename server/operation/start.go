package operation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

const (
	// maxParams bounds the parameters of an operation and maxSteps its steps.
	maxParams = 256 << 10
	maxSteps  = 1000
	// keep is how long operations that ended are remembered.
	keep = 90 * 24 * time.Hour
)

// StartRequest is an operation to begin.
type StartRequest struct {
	// Kind names the kind.
	Kind string
	// Target is what it is about, such as "instance/acme"; one operation at a time works on a target.
	Target string
	// Params go to the kind's Steps, as JSON. They hold no secrets.
	Params any
	// Operator is who wants it.
	Operator string
}

// Start stores an operation, which is carried out from then on, and returns it. Errors: Conflict when another one works on
// the target, and names that; Invalid for an unknown kind or what Steps refuses.
func (e *Engine) Start(ctx context.Context, req StartRequest) (*v1.Operation, error) {
	const op = "start operation"
	kind, ok := e.kinds[req.Kind]
	if !ok {
		return nil, errs.New(errs.Invalid, "there is no operation %q", req.Kind)
	}
	if err := store.CheckName(req.Target); err != nil {
		return nil, errs.Wrap(op, err)
	}
	params, err := json.Marshal(req.Params)
	if err != nil || len(params) > maxParams {
		return nil, errs.New(errs.Invalid, "the parameters of %s cannot be stored: %d bytes, %w", req.Kind, len(params), err)
	}
	steps, err := kind.Steps(params)
	if err != nil {
		return nil, err
	}
	if len(steps) == 0 || len(steps) > maxSteps {
		return nil, errs.New(errs.Invalid, "%s has %d steps; it may have 1 to %d", req.Kind, len(steps), maxSteps)
	}
	now := e.cfg.Clock.Now().UTC()
	rec := record{Kind: req.Kind, Target: req.Target, Params: params, State: running, Operator: req.Operator, Created: now, Updated: now}
	for _, s := range steps {
		rec.Steps = append(rec.Steps, step{Name: s.Name, Node: s.Node, State: stepQueued})
	}
	if err := e.create(ctx, &rec); err != nil {
		return nil, errs.Wrap(op, err)
	}
	e.audit(ctx, req.Operator, "operation.start", rec.ID, "ok", req.Kind+" "+req.Target)
	e.nudge()
	return rec.toProto(""), nil
}

// create stores a new record and takes its target, as one write.
func (e *Engine) create(ctx context.Context, rec *record) error {
	for {
		held, err := e.targets.Get(ctx, rec.Target)
		if err == nil {
			return errs.New(errs.Conflict, "operation %s works on %s", held.Value.ID, rec.Target).
				WithHint("infractl operation watch %s", held.Value.ID)
		}
		if !errs.Is(err, errs.NotFound) {
			return err
		}
		if rec.ID, err = e.newID(ctx); err != nil {
			return err
		}
		take, err := e.targets.PutOp(rec.Target, target{ID: rec.ID}, store.Absent)
		if err != nil {
			return err
		}
		put, err := e.records.PutOp(rec.ID, *rec, store.Absent)
		if err != nil {
			return err
		}
		if _, err = e.cfg.Store.Write(ctx, take, put); !errs.Is(err, errs.Exists) {
			return err
		}
	}
}

func (e *Engine) newID(ctx context.Context) (string, error) {
	newest, err := e.records.List(ctx, store.ListOptions{Reverse: true, Limit: 1, NamesOnly: true})
	if err != nil {
		return "", err
	}
	number := 0
	if len(newest) > 0 {
		if number, err = strconv.Atoi(newest[0].Name[1:7]); err != nil {
			return "", errs.New(errs.Internal, "operation id %q is damaged: %w", newest[0].Name, err)
		}
	}
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("o%06d-%s", number+1, hex.EncodeToString(b)), nil
}

// Get returns an operation by its id, or by a prefix that names just one. NotFound and Invalid say which it is not.
func (e *Engine) Get(ctx context.Context, id string) (*v1.Operation, error) {
	rec, err := e.find(ctx, id)
	if err != nil {
		return nil, err
	}
	return e.describe(&rec), nil
}

func (e *Engine) describe(rec *record) *v1.Operation {
	e.mu.Lock()
	defer e.mu.Unlock()
	return rec.toProto(e.said[rec.ID])
}

func (e *Engine) find(ctx context.Context, id string) (record, error) {
	if store.CheckName(id) != nil {
		return record{}, errs.New(errs.Invalid, "%.40q is not the id of an operation", id)
	}
	items, err := e.records.List(ctx, store.ListOptions{Prefix: id, Limit: 2})
	switch {
	case err != nil:
		return record{}, errs.Wrap("read operation", err)
	case len(items) == 0:
		return record{}, errs.New(errs.NotFound, "there is no operation %q", id).WithHint("infractl operation list")
	case len(items) > 1 && items[0].Name != id:
		return record{}, errs.New(errs.Invalid, "several operations begin with %q", id).WithHint("infractl operation list")
	}
	return items[0].Value, nil
}

// List returns at most limit operations, newest first; kind limits to one kind, open to those that have not ended.
func (e *Engine) List(ctx context.Context, limit int, kind string, open bool) ([]*v1.Operation, error) {
	var out []*v1.Operation
	opts := store.ListOptions{Reverse: true, Limit: 100}
	for len(out) < limit {
		items, err := e.records.List(ctx, opts)
		if err != nil {
			return nil, errs.Wrap("list operations", err)
		}
		for i := range items {
			rec := &items[i].Value
			if (kind == "" || rec.Kind == kind) && (!open || !Ended(rec.State)) && len(out) < limit {
				out = append(out, e.describe(rec))
			}
		}
		if len(items) < opts.Limit {
			break
		}
		opts.After = items[len(items)-1].Name
	}
	return out, nil
}

// Open returns the operations that have not ended, by target.
func (e *Engine) Open(ctx context.Context) (map[string]*v1.Operation, error) {
	open, err := e.targets.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap("list operations", err)
	}
	out := make(map[string]*v1.Operation, len(open))
	for _, it := range open {
		rec, err := e.records.Get(ctx, it.Value.ID)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, errs.Wrap("list operations", err)
		}
		out[it.Name] = e.describe(&rec.Value)
	}
	return out, nil
}

// Prune forgets operations that ended long ago. It is done now and then.
func (e *Engine) Prune(ctx context.Context) error {
	items, err := e.records.List(ctx, store.ListOptions{})
	if err != nil {
		return errs.Wrap("prune operations", err)
	}
	before := e.cfg.Clock.Now().Add(-keep)
	items = slices.DeleteFunc(items, func(it store.Item[record]) bool {
		return !Ended(it.Value.State) || !it.Value.Ended.Before(before)
	})
	// The newest id is never given twice: its record stays.
	newest, err := e.records.List(ctx, store.ListOptions{Reverse: true, Limit: 1, NamesOnly: true})
	if err != nil {
		return errs.Wrap("prune operations", err)
	}
	for _, it := range items {
		if strings.Compare(it.Name, newest[0].Name) >= 0 {
			continue
		}
		if err := e.records.Delete(ctx, it.Name, it.Revision); err != nil && !errs.Is(err, errs.Conflict) {
			return errs.Wrap("prune operations", err)
		}
	}
	return nil
}
