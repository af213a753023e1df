package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/instances"
)

// Sizes of the measurements of instances.
const (
	instanceTrials = 5
	atOnce         = 20
	listed         = 100
	// restBefore is how long an instance is left alone before its memory is looked at.
	restBefore = 20 * time.Second
	// quietLoad is how long neighbours' pages are measured before anything happens.
	quietLoad = 15 * time.Second
)

// instanceNumbers measures customers' instances in a fleet of the lab: from the command to the login page on the VM "internet".
func instanceNumbers(ctx context.Context, o Options, r *Report) error {
	f, err := instances.Boot(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: filepath.Join(o.Dir, "instances"), Name: "bench-inst", Out: o.Out})
	if f != nil && f.Site != nil {
		defer f.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the lab's own report says what stayed
	}
	if err != nil {
		return err
	}
	b := &instanceBench{f: f, r: r}
	for _, do := range []func(context.Context) error{b.first, b.memory, b.creates, b.byHand, b.many, b.list} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

type instanceBench struct {
	f          *instances.Fleet
	r          *Report
	cold, warm float64
}

// first is the very first instance of a host: it loads the images, and makes the warm template afterwards.
func (b *instanceBench) first(ctx context.Context) error {
	made, err := b.f.TimeCreate(ctx, "first")
	if err != nil {
		return errs.Wrap("create the first instance", err)
	}
	b.r.Stated("instance: the true first on a host, to its login page on the internet", made.Page, "s", "three images are loaded from the server first; no template")
	return nil
}

func (b *instanceBench) memory(ctx context.Context) error {
	time.Sleep(restBefore)
	parts, err := b.f.Memory(ctx, "first")
	if err != nil {
		return err
	}
	b.r.AtMost("instance: idle memory of database and application", parts["db"]+parts["app"], 180, "MB",
		fmt.Sprintf("proportional set size alone on its host: db %.0f, app %.0f; cron besides %.0f. The official example's limits are 512 each", parts["db"], parts["app"], parts["cron"]))
	return nil
}

// creates measures warm and cold ones in turn, so that both see the same machine.
func (b *instanceBench) creates(ctx context.Context) error {
	var warm, cold, commands []float64
	for n := range instanceTrials {
		for _, way := range []struct {
			name string
			args []string
			into *[]float64
		}{{"warm", nil, &warm}, {"cold", []string{"--cold"}, &cold}} {
			name := fmt.Sprintf("%s%d", way.name, n)
			made, err := b.f.TimeCreate(ctx, name, way.args...)
			if err != nil {
				return errs.Wrap("create "+name, err)
			}
			b.r.say("create %s: page %.1f s, command %.1f s", name, made.Page, made.Command)
			*way.into = append(*way.into, made.Page)
			if way.name == "warm" {
				commands = append(commands, made.Command)
			}
			if err := b.f.Remove(ctx, name); err != nil {
				return err
			}
		}
	}
	b.warm, b.cold = median(warm), median(cold)
	b.r.AtMost("instance: warm create to its login page on the internet", b.warm, 5, "s", "median of 5, by name, proxy, a new certificate and the front")
	b.r.AtMost("instance: cold create to its login page on the internet", b.cold, 20, "s", "median of 5, images present, no template")
	b.r.Stated("instance: warm create, the command alone", median(commands), "s", "median of 5, with the operation's own probes and the password")
	return nil
}

// byHand compares with the ways without infractl, which make neither name nor proxy host nor certificate.
func (b *instanceBench) byHand(ctx context.Context) error {
	var original, plain []float64
	for range instanceTrials {
		for way, into := range map[instances.ByHand]*[]float64{instances.Original: &original, instances.Plain: &plain} {
			seconds, err := b.f.ByHand(ctx, way)
			if err != nil {
				return err
			}
			*into = append(*into, seconds)
		}
	}
	b.r.Stated("instance: the original way by hand", median(original), "s", "median of 5: containers up and raw SQL, page inside the host; no name, no TLS")
	b.r.Stated("instance: the plain installer by hand", median(plain), "s", "median of 5: the same containers, step1, step2, step5; no name, no TLS")
	b.r.Stated("instance: warm create against the original way", b.warm/median(original), "x", "same run")
	b.r.Stated("instance: cold create against the original way", b.cold/median(original), "x", "same run")
	b.r.Stated("instance: warm create against the plain installer", b.warm/median(plain), "x", "same run")
	b.r.Stated("instance: cold create against the plain installer", b.cold/median(plain), "x", "same run")
	return nil
}

// many makes twenty at once while two neighbours are used.
func (b *instanceBench) many(ctx context.Context) error {
	if _, err := b.f.MustCreate(ctx, "second"); err != nil {
		return err
	}
	load := b.f.StartLoad(ctx, "first", "second")
	time.Sleep(quietLoad)
	before, pages, bad := load.End()
	b.r.say("neighbours alone: p95 %.0f ms of %d pages, %d bad", before, pages, bad)
	load = b.f.StartLoad(ctx, "first", "second")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var times []float64
	for n := range atOnce {
		wg.Go(func() {
			name, begun := fmt.Sprintf("many%02d", n), time.Now()
			_, err := b.f.MustCreate(ctx, name, "--memory", "256M")
			if err == nil {
				_, err = b.f.WaitLogin(ctx, name, time.Minute)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				b.r.say("%s: %v", name, err)
				return
			}
			times = append(times, time.Since(begun).Seconds())
		})
	}
	wg.Wait()
	during, pages, bad := load.End()
	b.r.say("neighbours meanwhile: p95 %.0f ms of %d pages, %d bad", during, pages, bad)
	b.r.All("instance: creates at once on one host", len(times), atOnce, "all must come")
	b.r.Stated("instance: creates at once, p95 to the login page", instances.P95(times), "s", "twenty at once on two cores")
	b.r.AtMost("instance: neighbours' login page meanwhile, p95", during/before, 2, "x", fmt.Sprintf("%.0f ms before, %.0f ms meanwhile, %d pages, %d that were none", before, during, pages, bad))
	return nil
}

// list measures the list of a hundred, of which most are only recorded. It is the last: the records are false.
func (b *instanceBench) list(ctx context.Context) error {
	if err := b.f.SeedRecords(ctx, "first", listed); err != nil {
		return err
	}
	var times []float64
	for range instanceTrials * 2 {
		begun := time.Now()
		if _, err := b.f.Must(ctx, "instance", "list"); err != nil {
			return err
		}
		times = append(times, float64(time.Since(begun).Milliseconds()))
	}
	b.r.AtMost("instance: list of 100", median(times), 200, "ms", "median of 10, the whole command")
	return nil
}
