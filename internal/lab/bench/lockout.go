package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// Stages of a commit as its record numbers them.
const (
	widening  = 2
	narrowing = 4
)

// Times that a heal may take beyond the window, and after a boot is complete.
const (
	slack     = 5 * time.Second
	afterBoot = 10 * time.Second
)

// kind is one way of locking a VM out.
type kind struct {
	name     string
	saboteur demo.Saboteur
	stage    int
	// strike is done to a VM whose commit is armed; nil for those whose saboteur strikes by itself.
	strike func(context.Context, *ground, *lab.VM) error
	// reboots says that the time counts from the end of the boot.
	reboots bool
	// relay says that the victim is the relay.
	relay bool
	// server says that the server is stopped and must be started afterwards.
	server bool
}

func kinds() []kind {
	return []kind{
		{name: "firewall drops everything", saboteur: demo.DropEverything(), stage: widening},
		{name: "sshd no longer starts", saboteur: demo.DeadSshd(), stage: widening},
		{name: "sshd refuses every login", saboteur: demo.RefusingSshd(), stage: widening},
		{name: "agent killed mid-apply", stage: widening, strike: killAgent},
		{name: "server stopped mid-apply", stage: widening, strike: stopServer, server: true},
		{name: "host restarted mid-apply, widening", stage: widening, strike: powerCut, reboots: true},
		{name: "host restarted mid-apply, narrowing with accounts", stage: narrowing, strike: powerCut, reboots: true},
		{name: "relay cuts off its fleet", saboteur: demo.CutOff(), stage: widening, relay: true},
	}
}

// killAgent kills the agent and keeps it down, so that only the revert outside of it can heal.
func killAgent(ctx context.Context, _ *ground, vm *lab.VM) error {
	time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond)
	_, err := vm.Exec(ctx, "sh", "-c", "systemctl kill -s KILL infractl-agent.service; systemctl stop infractl-agent.service")
	return err
}

func powerCut(ctx context.Context, _ *ground, vm *lab.VM) error {
	time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond)
	return vm.PowerCut(ctx)
}

func stopServer(ctx context.Context, g *ground, _ *lab.VM) error {
	var err error
	g.stopOnce.Do(func() {
		_, err = g.site.Lab.VM(demo.Relay).Must(ctx, "systemctl", "kill", "-s", "KILL", "infractl-server.service")
		if err == nil {
			_, err = g.site.Lab.VM(demo.Relay).Must(ctx, "systemctl", "stop", "infractl-server.service")
		}
	})
	return err
}

// ground is the lab in which trials are made.
type ground struct {
	site     *demo.Site
	people   *people
	prods    []string
	content  string
	edits    int
	stopOnce *sync.Once
	r        *Report
}

// lockout makes the trials on up to ten VMs at once.
func lockout(ctx context.Context, o Options, r *Report) error {
	return lockouts(ctx, o, r, "trials", 10, func(k kind) bool { return !k.relay })
}

// cutOff makes those on the relay, of which there is one: a lab of its own lets them run beside the others.
func cutOff(ctx context.Context, o Options, r *Report) error {
	return lockouts(ctx, o, r, "relay", 1, func(k kind) bool { return k.relay })
}

// lockouts makes trials: each kind with a window of 10 s, and once more with the default of 30 s.
func lockouts(ctx context.Context, o Options, r *Report, name string, prods int, wanted func(kind) bool) error {
	list := slices.DeleteFunc(kinds(), func(k kind) bool { return !wanted(k) })
	example, err := os.ReadFile(filepath.Join(o.Root, "examples/projetpro/site.yaml"))
	if err != nil {
		return errs.Wrap("read the example site", err)
	}
	content, addresses := fleetSite(string(example), prods)
	content += "\nrollout: {max_unavailable: 20}\n"
	g := &ground{content: content, r: r}
	for node := range addresses {
		if node == demo.Prod || strings.HasPrefix(node, demo.Prod+"-") {
			g.prods = append(g.prods, node)
		}
	}
	g.site, err = demo.Boot(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: filepath.Join(o.Dir, name), Name: name, Out: o.Out,
		Site: content, Overlay: "rollout: {window: 10s}\n", Customize: func(cfg *lab.Config) { addProds(cfg, addresses) }})
	if g.site != nil {
		defer g.site.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the lab's own report says what stayed
	}
	if err != nil {
		return err
	}
	if g.people, err = newPeople(g.site, addresses); err != nil {
		return err
	}
	if err := g.site.Apply(ctx); err != nil {
		return errs.Wrap("first apply", err)
	}
	for _, k := range list {
		if err := g.tryKind(ctx, k, o.Trials, 10*time.Second); err != nil {
			return errs.Wrap(k.name, err)
		}
	}
	if err := g.site.SetOverlay(""); err != nil {
		return err
	}
	for _, k := range list {
		if err := g.tryKind(ctx, k, 1, 30*time.Second); err != nil {
			return errs.Wrap(k.name, err)
		}
	}
	return nil
}

// addProds adds the further prod VMs as copies of a plain server.
func addProds(cfg *lab.Config, addresses map[string]string) {
	for name, address := range addresses {
		if cfg.VM(name) != nil {
			continue
		}
		vm := *cfg.VM("srv-supervision")
		vm.Name = name
		card := vm.Interfaces[0]
		card.Addresses = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(address), 24)}
		card.MAC = ""
		vm.Interfaces = []lab.Interface{card}
		cfg.VMs = append(cfg.VMs, vm)
	}
}

// maxRounds bounds the rounds of a kind: a rollout that halts at its first victims leaves the others alone, and a commit may be kept
// before the fault strikes. Those are struck in a further round.
const maxRounds = 6

// tryKind makes n trials of a kind, as many at once as there are victims.
func (g *ground) tryKind(ctx context.Context, k kind, n int, window time.Duration) error {
	healed, worst := 0, time.Duration(0)
	var wrong []string
	rounds := maxRounds
	if k.relay {
		rounds += n
	}
	for made := 0; made < n && rounds > 0; rounds-- {
		victims := g.prods
		if k.relay {
			victims = []string{demo.Relay}
		}
		victims = victims[:min(len(victims), n-made)]
		trials, err := g.round(ctx, k, victims, window)
		if err != nil {
			return err
		}
		for _, t := range trials {
			limit := window + slack
			if k.reboots {
				limit = afterBoot
			}
			if errors.Is(t.err, errNotStruck) {
				continue
			}
			made++
			switch {
			case t.err != nil:
				wrong = append(wrong, t.vm.Name()+": "+t.err.Error())
			case t.healed > limit:
				wrong = append(wrong, fmt.Sprintf("%s: healed only after %s", t.vm.Name(), t.healed.Round(time.Millisecond)))
			default:
				healed++
			}
			worst = max(worst, t.healed)
		}
	}
	for _, w := range wrong {
		g.r.say("  %s: %s", k.name, w)
	}
	limit := fmt.Sprintf("within window + %s", slack)
	if k.reboots {
		limit = fmt.Sprintf("within %s of the end of boot", afterBoot)
	}
	g.r.All(fmt.Sprintf("healed: %s (window %s)", k.name, window), healed, n, fmt.Sprintf("%s; worst %.1f s", limit, worst.Seconds()))
	return nil
}

// round strikes all victims during one apply and brings the site back to health afterwards.
func (g *ground) round(ctx context.Context, k kind, victims []string, window time.Duration) ([]*trial, error) {
	g.edits++
	g.stopOnce = &sync.Once{}
	trials := make([]*trial, len(victims))
	before := make([]map[string]bool, len(victims))
	for i, name := range victims {
		trials[i] = &trial{vm: g.site.Lab.VM(name)}
		before[i] = commits(trials[i].vm)
		if err := k.saboteur.Install(ctx, trials[i].vm); err != nil {
			return nil, err
		}
	}
	if err := g.site.WriteSite(edit(g.content, g.edits)); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	for i, t := range trials {
		wg.Add(1)
		go func() {
			defer wg.Done()
			g.one(ctx, k, t, before[i], window)
		}()
	}
	applied := make(chan struct{})
	go func() {
		defer close(applied)
		actx, cancel := context.WithTimeout(ctx, 3*window+30*time.Second)
		defer cancel()
		_, _ = g.site.Infractl(actx, "apply", "-f", g.site.File, "--overlay", g.site.Overlay, "--yes", "--detach")
	}()
	wg.Wait()
	<-applied
	for _, t := range trials {
		if t.err == nil && !k.saboteur.Struck(t.vm) {
			t.err = errNotStruck
		}
	}
	return trials, g.recover(ctx, k, trials)
}

// one follows one victim.
func (g *ground) one(ctx context.Context, k kind, t *trial, before map[string]bool, window time.Duration) {
	if t.err = t.waitArmed(ctx, before, k.stage, 40*time.Second); t.err != nil {
		return
	}
	begin, limit := t.armed, window+slack+2*time.Second
	if k.strike != nil {
		if t.err = k.strike(ctx, g, t.vm); t.err != nil {
			return
		}
	}
	if k.reboots {
		if t.err = t.vm.WaitBooted(ctx); t.err != nil {
			return
		}
		begin, limit = time.Now(), afterBoot+2*time.Second
	}
	t.waitHealed(ctx, g.people, begin, limit)
}

// recover ends the round: saboteurs go, what was stopped starts, what is known to be bad is forgotten, and an apply must
// reach every node.
func (g *ground) recover(ctx context.Context, k kind, trials []*trial) error {
	if k.server {
		if _, err := g.site.Lab.VM(demo.Relay).Must(ctx, "systemctl", "start", "infractl-server.service"); err != nil {
			return errs.Wrap("start the server again", err)
		}
	}
	names := make([]string, 0, len(trials))
	for _, t := range trials {
		if err := k.saboteur.Remove(ctx, t.vm); err != nil {
			return err
		}
		if _, err := t.vm.Must(ctx, "systemctl", "start", "infractl-agent.service"); err != nil {
			return errs.Wrap("start the agent again", err)
		}
		names = append(names, t.vm.Name())
	}
	if err := g.site.WaitOnline(ctx, 60*time.Second, names...); err != nil {
		return errs.Wrap("after a round", err)
	}
	// What the server makes of the round is known when its rollout has ended; clearing earlier would be overtaken by it.
	wctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	if _, err := g.site.Infractl(wctx, "rollout", "watch"); err != nil {
		return errs.Wrap("wait for the rollout of a round", err)
	}
	for _, name := range names {
		if _, err := g.site.Must(ctx, "node", "clear", name); err != nil {
			return err
		}
	}
	return errs.Wrap("bring the site back to health", g.site.Apply(ctx))
}
