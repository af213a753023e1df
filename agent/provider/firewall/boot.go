package firewall

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// FirstBootFile is written by the template or by cloud-init, and says what may come in before the first commit was kept.
const FirstBootFile = "/etc/infractl/firstboot.json"

// firstBootMore are further files whose ports are added: what is installed later on the machine, such as the server, opens
// its ports there.
const firstBootMore = "/etc/infractl/firstboot.d/*.json"

// FirstBoot is the content of FirstBootFile.
type FirstBoot struct {
	// SSHFrom are the addresses or prefixes that may log in: the relay's; on the relay, the admin network.
	SSHFrom []string `json:"ssh_from"`
	// SSHPort is the port of the SSH server; 0 means 22.
	SSHPort uint16 `json:"ssh_port,omitempty"`
	// Ports are further TCP ports, open to everybody: 7443 and 7444 on the server's machine.
	Ports []uint16 `json:"ports,omitempty"`
}

// RuleSet returns the first-boot rules. They filter INPUT only.
func (b FirstBoot) RuleSet() (RuleSet, error) {
	from, err := prefixes(b.SSHFrom)
	if err != nil {
		return RuleSet{}, errs.New(errs.Invalid, "ssh_from: %w", err)
	}
	if len(from) == 0 {
		return RuleSet{}, errs.New(errs.Invalid, "ssh_from names nobody who may log in")
	}
	if len(b.Ports) > maxPorts {
		return RuleSet{}, errs.New(errs.Invalid, "%d ports are more than %d", len(b.Ports), maxPorts)
	}
	port := b.SSHPort
	if port == 0 {
		port = 22
	}
	hook := &Hook{Tail: TailDrop, Accepts: []Accept{{
		Protocol: "tcp", Ports: []PortRange{{port, port}}, From: Endpoint{Prefixes: from}, Families: "46", Flow: "first-boot",
		Reason: "login before the first commit",
	}}}
	for _, p := range b.Ports {
		if p == 0 {
			return RuleSet{}, errs.New(errs.Invalid, "0 is no port")
		}
		hook.Accepts = append(hook.Accepts, Accept{
			Protocol: "tcp", Ports: []PortRange{{p, p}}, Families: "46", Flow: "first-boot", Reason: "the server, before the first commit",
		})
	}
	hook.Accepts = tidy(hook.Accepts)
	return RuleSet{Version: 1, Input: hook}, nil
}

// loadFirstBoot reads FirstBootFile with the files beside it.
func loadFirstBoot(h *host.Host) (RuleSet, error) { return readFirstBoot(h, true) }

func readFirstBoot(h *host.Host, more bool) (RuleSet, error) {
	data, err := h.ReadFile(FirstBootFile)
	if err != nil {
		return RuleSet{}, err
	}
	var b FirstBoot
	if err := strictjson.Unmarshal(data, &b); err != nil {
		return RuleSet{}, errs.New(errs.Invalid, "%w", err).At(FirstBootFile)
	}
	if more {
		if err := b.addMore(h); err != nil {
			return RuleSet{}, err
		}
	}
	rs, err := b.RuleSet()
	if err != nil {
		return rs, errs.Wrap("read "+FirstBootFile, err)
	}
	return rs, nil
}

func (b *FirstBoot) addMore(h *host.Host) error {
	files, err := h.Glob(firstBootMore)
	if err != nil {
		return errs.Wrap("read "+firstBootMore, err)
	}
	for _, file := range files {
		data, err := h.ReadFile(file)
		if err != nil {
			return errs.Wrap("read "+file, err)
		}
		var more struct {
			Ports []uint16 `json:"ports"`
		}
		if err := strictjson.Unmarshal(data, &more); err != nil {
			return errs.New(errs.Invalid, "%w", err).At(file)
		}
		b.Ports = append(b.Ports, more.Ports...)
	}
	return nil
}

// Booted says what Boot put into place.
type Booted string

// The outcomes of Boot.
const (
	// BootedNothing: nothing was kept, and there is no first-boot file.
	BootedNothing Booted = "nothing"
	// BootedKept: the rules of the last kept commit.
	BootedKept Booted = "kept"
	// BootedFirst: the first-boot rules, since nothing was kept yet.
	BootedFirst Booted = "first boot"
	// BootedEmergency: the kept rules did not load. Only what always passes, and TCP from the addresses that the kept rules
	// name, may come in; so the relay's SSH stays reachable and everything else is closed.
	BootedEmergency Booted = "emergency"
)

// Boot puts the rules back before the network and Docker start; it is what the boot unit runs. It needs neither server nor
// network and may run at any time: rules of others and Docker's chains stay.
//
// When the kept rules do not load, the host is closed but for what BootedEmergency says, and an error tells why. When not
// even that loads, iptables itself does not work: the host comes up without rules of ours, and the error says so.
func Boot(ctx context.Context, h *host.Host) (Booted, error) {
	kept, keptErr := loadKept(h)
	if errors.Is(keptErr, fs.ErrNotExist) {
		first, err := loadFirstBoot(h)
		if errors.Is(err, fs.ErrNotExist) {
			return BootedNothing, nil
		}
		if err != nil {
			// A wrong file that only adds ports must not leave the host open.
			base, berr := readFirstBoot(h, false)
			if berr != nil {
				return BootedNothing, errs.Wrap("restore the firewall", berr)
			}
			return BootedFirst, errs.Wrap("restore the firewall", errs.Join(err, bootRuleSet(ctx, h, base, []family{v4, v6})))
		}
		return BootedFirst, errs.Wrap("restore the firewall", bootRuleSet(ctx, h, first, []family{v4, v6}))
	}
	var failed []family
	var causes []error
	for _, f := range []family{v4, v6} {
		if err := bootFile(ctx, h, f); err != nil {
			failed, causes = append(failed, f), append(causes, err)
		}
	}
	if len(failed) == 0 {
		return BootedKept, nil
	}
	if keptErr != nil {
		if kept, keptErr = loadFirstBoot(h); keptErr != nil {
			kept = RuleSet{Version: 1, Input: &Hook{}} // nobody is known who may come in: only what always passes
		}
	}
	causes = append(causes, bootRuleSet(ctx, h, emergency(kept), failed))
	return BootedEmergency, errs.Wrap("restore the firewall", errs.Join(causes...))
}

// bootFile restores what was rendered when it was kept, rather than rendering it anew: that is what was confirmed.
func bootFile(ctx context.Context, h *host.Host, f family) error {
	data, err := h.ReadFile(rulesFile(f))
	if err != nil {
		return errs.Wrap("read "+rulesFile(f), err)
	}
	k, err := iptables.Parse(iptables.Filter(), string(data))
	if err != nil {
		return errs.New(errs.Invalid, "%w", err).At(rulesFile(f))
	}
	want := k.Ours()
	if len(want.Chains) == 0 {
		return errs.New(errs.Invalid, "it holds no chain").At(rulesFile(f))
	}
	return bootTable(ctx, h, f, want)
}

func bootRuleSet(ctx context.Context, h *host.Host, rs RuleSet, families []family) error {
	var failed []error
	for _, f := range families {
		want, err := render(rs, f, faults{})
		if err == nil {
			err = bootTable(ctx, h, f, want)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

func bootTable(ctx context.Context, h *host.Host, f family, want table) error {
	now, err := iptables.Read(ctx, h, iptables.Filter(), f)
	if err != nil {
		return err
	}
	if now.Same(want) {
		return nil
	}
	return iptables.Restore(ctx, h, f, iptables.Transaction(now, want, false))
}

// emergency keeps, of a rule set, TCP from named addresses to the host itself; INPUT and FORWARD drop the rest.
func emergency(rs RuleSet) RuleSet {
	out := RuleSet{Version: 1, Docker: rs.Docker, InstancePool: rs.InstancePool, Input: &Hook{Tail: TailDrop}, Forward: &Hook{Tail: TailDrop}}
	if rs.Input == nil {
		return out
	}
	for _, a := range rs.Input.Accepts {
		if a.Protocol == "tcp" && len(a.From.Prefixes) > 0 {
			a.Containers, a.Flow = false, "emergency"
			out.Input.Accepts = append(out.Input.Accepts, a)
		}
	}
	return out
}

// Repair puts back chains of ours that are gone and jumps that are gone or not first, as after a restart of Docker, and says
// what it did. Content that was changed by hand is drift, and stays until the next apply. It must not run while a commit of
// this host is undecided.
func (p *Provider) Repair(ctx context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept, err := loadOld(p.host)
	if err != nil {
		return nil, errs.Wrap("repair firewall", err)
	}
	if kept.empty() {
		return nil, nil
	}
	var done []string
	for _, f := range []family{v4, v6} {
		want, err := render(kept, f, p.flaw)
		if err != nil {
			return done, errs.Wrap("repair firewall", err)
		}
		now, err := iptables.Read(ctx, p.host, iptables.Filter(), f)
		if err != nil {
			return done, errs.Wrap("repair firewall", err)
		}
		text := iptables.Repair(now, want)
		if text == "" {
			continue
		}
		if err := iptables.Restore(ctx, p.host, f, text); err != nil {
			return done, errs.Wrap("repair firewall", err)
		}
		for _, line := range now.Differences(want) {
			if text, ok := strings.CutPrefix(line, "+ "); ok {
				done = append(done, f.String()+": "+text)
			}
		}
		p.log.Warn("put the firewall's own chains and jumps back", "family", f.String(), "differences", len(done))
	}
	return done, nil
}
