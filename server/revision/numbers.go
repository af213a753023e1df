package revision

import (
	"context"
	"encoding/json"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// Numbers returns the newest site revision and the revision of the resources that are stored, 0 for none. It derives nothing
// and writes nothing: backups and restores call it on a copy.
func Numbers(ctx context.Context, records store.Records) (site, resources uint64, err error) {
	newest, err := records.List(ctx, KindRevision, store.ListOptions{Reverse: true, Limit: 1})
	if err != nil {
		return 0, 0, errs.Wrap("read newest revision", err)
	}
	if len(newest) == 1 {
		var r struct {
			Number uint64 `json:"number"`
		}
		if err := json.Unmarshal(newest[0].Data, &r); err != nil {
			return 0, 0, errs.New(errs.Invalid, "the newest revision cannot be read: %w", err)
		}
		site = r.Number
	}
	rec, err := records.Get(ctx, KindResources, resourcesName)
	if errs.Is(err, errs.NotFound) {
		return site, 0, nil
	}
	if err != nil {
		return 0, 0, errs.Wrap("read resources", err)
	}
	var r struct {
		Revision uint64 `json:"revision"`
	}
	if err := json.Unmarshal(rec.Data, &r); err != nil {
		return 0, 0, errs.New(errs.Invalid, "the resources cannot be read: %w", err)
	}
	return site, r.Revision, nil
}
