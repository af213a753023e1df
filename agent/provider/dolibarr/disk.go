package dolibarr

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// A kernel's quota of projects cannot be counted on: a file system has it from its making on or never, and the engine's volumes have none.
// So what an instance holds is measured, and the front keeps out what would bring more.
const (
	// diskEvery is how often what an instance holds is measured, diskSoon how often for one that is near its limit: who deletes something
	// does not wait long.
	diskEvery, diskSoon = 5 * time.Minute, 30 * time.Second
	// A full instance is one again below diskAgain percent of its limit; from diskNear percent on it is near it.
	diskAgain, diskNear = 95, 90
)

// disk is what instances hold.
type disk struct {
	mu     sync.Mutex
	loaded bool
	held   map[string]holding // by id
	// asked are those that are to be measured soon, due says that there are some.
	asked map[string]bool
	due   chan struct{}
	// space is where their volumes are.
	space string
}

// holding is what one instance holds.
type holding struct {
	Bytes    uint64    `json:"bytes"`
	Measured time.Time `json:"measured"`
	// Full is what was decided last, under Limit.
	Full  bool   `json:"full,omitempty"`
	Limit uint64 `json:"limit,omitempty"`
}

// full says whether an instance with this limit is full. One that was is so until it holds clearly less, or may hold more than then.
func (h holding) full(limit uint64) bool {
	switch {
	case limit == 0 || h.Measured.IsZero():
		return false
	case h.Bytes >= limit:
		return true
	}
	return h.Full && limit <= h.Limit && h.Bytes >= limit/100*diskAgain
}

// near says that it is soon full, or is.
func (h holding) near(limit uint64) bool {
	return h.Full || limit > 0 && h.Bytes >= limit/100*diskNear
}

// diskFile keeps what was measured over a restart: a full instance stays one, and nothing is measured anew for it.
func (p *Provider) diskFile() string { return path.Join(p.cfg.Dir, "disk.json") }

// holdings are those that there are; change is called while nobody else sees them.
func (p *Provider) holdings(change func(map[string]holding)) {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	if !p.disk.loaded {
		p.disk.held, p.disk.loaded = map[string]holding{}, true
		if f, err := p.host.Stat(p.diskFile()); err == nil && !f.Absent && json.Unmarshal(f.Data, &p.disk.held) != nil || p.disk.held == nil {
			p.disk.held = map[string]holding{} // it is measured again
		}
	}
	change(p.disk.held)
}

func (p *Provider) keepHoldings() error {
	var text []byte
	var err error
	p.holdings(func(held map[string]holding) { text, err = json.Marshal(held) })
	if err == nil {
		_, err = p.host.WriteFile(p.diskFile(), append(text, '\n'), 0o600)
	}
	return errs.Wrap("note what instances hold", err)
}

func (p *Provider) isFull(inst *v1.InstanceSpec) (full bool) {
	p.holdings(func(held map[string]holding) { full = held[inst.GetId()].full(inst.GetLimits().GetDiskBytes()) })
	return full
}

// decided notes which instances of a wish are full, before the front acts on it.
func (p *Provider) decided(spec *v1.DolibarrSpec) error {
	changed := false
	p.holdings(func(held map[string]holding) {
		for _, inst := range spec.GetInstances() {
			h, known := held[inst.GetId()]
			limit := inst.GetLimits().GetDiskBytes()
			full := h.full(limit)
			if !known || full == h.Full && limit == h.Limit {
				continue
			}
			if full != h.Full {
				p.log.Info("what an instance may hold on the disk", "instance", inst.GetName(), "used up", full, "bytes", h.Bytes, "limit", limit)
			}
			h.Full, h.Limit, changed = full, limit, true
			held[inst.GetId()] = h
		}
	})
	if !changed {
		return nil
	}
	return p.keepHoldings()
}

// diskPlan says which instances may hold more or less than before. Nothing of them has to change for it: the front looks at it.
func (p *Provider) diskPlan(former, spec *v1.DolibarrSpec) (changes []*v1.Change) {
	for _, inst := range spec.GetInstances() {
		if limited(former, inst) {
			changes = append(changes, &v1.Change{Provider: p.Name(), Subject: "instance " + inst.GetName(),
				Action: v1.ChangeAction_CHANGE_ACTION_UPDATE, After: []string{"disk limit: changed"}, Risk: v1.Risk_RISK_NONE})
		}
	}
	return changes
}

// limited says that an instance that there was has another limit now.
func limited(former *v1.DolibarrSpec, inst *v1.InstanceSpec) bool {
	old := byID(former, inst.GetId())
	return old != nil && old.GetLimits().GetDiskBytes() != inst.GetLimits().GetDiskBytes()
}

// measureSoon asks for the instances that an apply has changed.
func (p *Provider) measureSoon(former *v1.DolibarrSpec, seen *sight) {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	for _, one := range seen.instances {
		if limited(former, one.inst) || len(one.differences()) > 0 {
			p.disk.asked[one.inst.GetId()] = true
		}
	}
	if len(p.disk.asked) > 0 {
		select {
		case p.disk.due <- struct{}{}:
		default: // it is known
		}
	}
}

// WatchDisk measures what instances hold until ctx ends: now and then, and those that were changed at once. alone calls a function while no
// apply is at work.
func (p *Provider) WatchDisk(ctx context.Context, alone func(context.Context, func()) error) {
	wait := time.NewTicker(diskSoon / 2)
	defer wait.Stop()
	for {
		if err := p.measureDisk(ctx, alone); err != nil && ctx.Err() == nil {
			p.log.Warn("cannot measure what instances hold on the disk", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		case <-p.disk.due:
		}
	}
}

// measureDisk measures the instances whose turn it is, one after the other.
func (p *Provider) measureDisk(ctx context.Context, alone func(context.Context, func()) error) error {
	spec, err := p.applied()
	if err != nil || len(spec.GetInstances()) == 0 {
		return err
	}
	list := p.unmeasured(spec)
	if len(list) == 0 {
		return nil
	}
	volumes, err := p.engine.Volumes(ctx)
	if err != nil {
		return err
	}
	containers, err := p.engine.Containers(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, inst := range list {
		var bytes uint64
		host.Quietly(func() { bytes, err = p.holds(ctx, inst, volumesOf(inst, volumes, containers)) })
		if err == nil { // never beside an apply: that one must find the front as it left it
			alone := alone(ctx, func() { err = p.measured(ctx, inst.GetId(), bytes) })
			err = errs.Join(err, alone)
		}
		failed = append(failed, errs.Wrap("instance "+inst.GetName(), err))
	}
	return errs.Join(append(failed, p.keepHoldings())...)
}

// unmeasured are the instances whose turn it is. What is not wished any more is forgotten.
func (p *Provider) unmeasured(spec *v1.DolibarrSpec) (list []*v1.InstanceSpec) {
	now := p.cfg.Clock.Now()
	p.holdings(func(held map[string]holding) {
		maps.DeleteFunc(held, func(id string, _ holding) bool { return byID(spec, id) == nil })
		for _, inst := range spec.GetInstances() {
			h, every := held[inst.GetId()], diskEvery
			if h.near(inst.GetLimits().GetDiskBytes()) {
				every = diskSoon
			}
			if age := now.Sub(h.Measured); p.disk.asked[inst.GetId()] || age >= every || age < 0 {
				list = append(list, inst)
			}
		}
		clear(p.disk.asked)
	})
	return list
}

// volumesOf are the folders of an instance's volumes. Those of an adopted one are named, or have one of the engine's long names.
func volumesOf(inst *v1.InstanceSpec, volumes []docker.Volume, containers []docker.Container) (at []string) {
	a := inst.GetAdopted()
	names := a.GetVolumes()
	for _, c := range containers {
		for _, m := range c.Mounts {
			if a != nil && (c.Name == a.GetAppContainer() || c.Name == a.GetDbContainer()) && len(m.Volume) == sha256.Size*2 {
				names = append(slices.Clip(names), m.Volume)
			}
		}
	}
	for _, v := range volumes {
		if v.Path != "" && (v.Labels[LabelID] == inst.GetId() || slices.Contains(names, v.Name)) {
			at = append(at, v.Path)
		}
	}
	return at
}

// holds measures one instance: its folder and its volumes.
func (p *Provider) holds(ctx context.Context, inst *v1.InstanceSpec, volumes []string) (sum uint64, err error) {
	at := append([]string{p.folder(inst.GetId())}, volumes...)
	if dir := inst.GetAdopted().GetFolder(); dir != "" {
		at = append([]string{dir}, at...)
	}
	for _, dir := range at {
		bytes, err := p.host.Blocks(ctx, dir)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return 0, err
		}
		sum += bytes
	}
	p.holdings(func(map[string]holding) { p.disk.space = at[len(at)-1] })
	return sum, nil
}

// measured notes what an instance holds, and lets the front act on it.
func (p *Provider) measured(ctx context.Context, id string, bytes uint64) error {
	spec, err := p.applied()
	if err != nil {
		return err
	}
	inst := byID(spec, id)
	if inst == nil {
		return nil // it left meanwhile
	}
	acts := false
	p.holdings(func(held map[string]holding) {
		h := held[id]
		h.Bytes, h.Measured = bytes, p.cfg.Clock.Now().UTC().Truncate(time.Second)
		held[id], acts = h, h.full(inst.GetLimits().GetDiskBytes()) != h.Full
	})
	if !acts || spec.GetFront() == nil {
		return nil
	}
	return p.frontApply(ctx, spec)
}

// Disk tells what instances hold as last measured, by id, and how large the file system of their volumes is and what is free of it.
func (p *Provider) Disk() (list []*v1.InstanceDisk, size, free uint64) {
	spec, err := p.applied()
	if err != nil {
		return nil, 0, 0
	}
	space := ""
	p.holdings(func(held map[string]holding) {
		space = p.disk.space
		for _, inst := range spec.GetInstances() {
			h, known := held[inst.GetId()]
			if !known || h.Measured.IsZero() {
				continue
			}
			limit := inst.GetLimits().GetDiskBytes()
			list = append(list, &v1.InstanceDisk{Id: inst.GetId(), Bytes: h.Bytes, LimitBytes: limit, Full: h.full(limit),
				Measured: timestamppb.New(h.Measured)})
		}
	})
	slices.SortFunc(list, func(a, b *v1.InstanceDisk) int { return strings.Compare(a.GetId(), b.GetId()) })
	if space == "" {
		space = p.cfg.Dir
	}
	if size, free, err = p.host.Space(space); err != nil {
		return list, 0, 0
	}
	return list, size, free
}
