package instance

import "context"

// What tests of the outside need of the upkeep that Run does by the clock.

func (s *Instances) Watch(ctx context.Context) error            { return s.watch(ctx) }
func (s *Instances) Sweep(ctx context.Context) error            { return s.sweep(ctx) }
func (s *Instances) DailyAudit(ctx context.Context) error       { return s.dailyAudit(ctx) }
func (s *Instances) RefreshTemplates(ctx context.Context) error { return s.refreshTemplates(ctx) }
func (s *Instances) DropTemplates(ctx context.Context) error    { return s.dropTemplates(ctx) }
