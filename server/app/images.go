package app

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/image"
)

// openImages opens the image archives, before anything asks for resources.
func (a *App) openImages(ctx context.Context) (err error) {
	a.images, err = image.Open(ctx, image.Config{Records: a.store, Dir: a.cfg.imagesDir(), Clock: a.cfg.Clock, Log: a.cfg.Log.Named("image")})
	return err
}

// atWork reports whether a rollout is under way.
func (o *operations) atWork(ctx context.Context) (bool, error) {
	ro, err := o.rollouts.Get(ctx, "")
	if errs.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	state := ro.GetState()
	return state == v1.RolloutState_ROLLOUT_STATE_RUNNING || state == v1.RolloutState_ROLLOUT_STATE_PAUSED, nil
}
