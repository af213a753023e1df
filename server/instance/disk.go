package instance

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// diskNear is from what part of its limit on, in percent, an instance is worth a word; spaceLeft is what of a host's disk must be free.
	diskNear, spaceLeft = 90, 10
	// usageFresh is how old what an instance uses may be when one is looked at.
	usageFresh = 5 * time.Second
)

// space is how much there is for the instances of a host, and what of it is free.
type space struct{ size, free uint64 }

// measureAll asks all hosts what their instances use.
func (s *Instances) measureAll(ctx context.Context) error {
	_, byNode, err := s.byNode(ctx)
	if err != nil {
		return err
	}
	var asking sync.WaitGroup
	for node, list := range byNode {
		asking.Go(func() { s.measure(ctx, node, list, time.Second) })
	}
	asking.Wait()
	return ctx.Err()
}

// freshen measures an instance's host again, when that was done some time ago. What cannot be measured now stays as it is known.
func (s *Instances) freshen(ctx context.Context, rec *record) error {
	now := s.cfg.Clock.Now()
	s.mu.Lock()
	fresh := now.Sub(s.looked[rec.ID]).Abs() < usageFresh
	if !fresh && rec.Made {
		s.looked[rec.ID] = now // one whose host does not answer is not waited for each time
	}
	s.mu.Unlock()
	if fresh || !rec.Made || !rec.Purged.IsZero() {
		return nil
	}
	_, byNode, err := s.byNode(ctx)
	if err == nil {
		s.measure(ctx, rec.Node, byNode[rec.Node], 100*time.Millisecond)
	}
	return err
}

// measure keeps what the instances of a host use, over some time.
func (s *Instances) measure(ctx context.Context, node string, list []record, over time.Duration) {
	res, err := s.usageOf(ctx, node, over)
	if err != nil {
		return // that it is away is shown elsewhere
	}
	sums := map[string]*v1.Usage{}
	for i := range list {
		r := &list[i]
		sum := &v1.Usage{Name: r.Name, Cpus: float64(r.Limits.MilliCPU) / 1000, MemoryLimitBytes: r.Limits.Memory, DiskLimitBytes: r.Limits.Disk}
		for _, c := range res.GetContainers() {
			if strings.HasPrefix(c.GetName(), "infractl-"+r.ID+"-") || r.Adopted != nil && (c.GetName() == r.Adopted.App || c.GetName() == r.Adopted.DB) {
				sum.Cpu += c.GetCpu()
				sum.MemoryBytes += c.GetMemoryBytes()
				sum.Processes += c.GetProcesses()
				sum.ReceivedBytesPerSecond += c.GetReceivedBytesPerSecond()
				sum.SentBytesPerSecond += c.GetSentBytesPerSecond()
			}
		}
		sums[r.ID] = sum
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.usage, sums)
	s.noteDisk(node, res, sums)
}

// noteDisk takes in what a host's instances hold. The lock is held.
func (s *Instances) noteDisk(node string, res *v1.UsageResult, sums map[string]*v1.Usage) {
	for _, d := range res.GetInstances() {
		if sum := sums[d.GetId()]; sum != nil { // none of another host's
			sum.DiskBytes = d.GetBytes()
			s.disk[d.GetId()] = proto.CloneOf(d)
		}
	}
	delete(s.space, node)
	if res.GetInstanceSpaceBytes() > 0 {
		s.space[node] = space{res.GetInstanceSpaceBytes(), res.GetInstanceSpaceFreeBytes()}
	}
}

// diskFinding says that an instance's space is used up, or soon; nil when it is not.
func diskFinding(i *v1.Instance) *v1.Finding {
	d := i.GetDisk()
	f := &v1.Finding{Severity: v1.Severity_SEVERITY_WARNING, Where: "instance " + i.GetName(),
		Hint: "infractl instance limits " + i.GetName() + " --disk SIZE gives it more; or its users delete something"}
	switch {
	case d.GetFull():
		f.Severity = v1.Severity_SEVERITY_ERROR
		f.Message = fmt.Sprintf("its disk space is used up (%d of %d MiB): uploads are refused", d.GetBytes()>>20, d.GetLimitBytes()>>20)
	case d.GetLimitBytes() > 0 && d.GetBytes() >= d.GetLimitBytes()/100*diskNear:
		f.Message = fmt.Sprintf("its disk space is nearly used up: %d of %d MiB", d.GetBytes()>>20, d.GetLimitBytes()>>20)
	default:
		return nil
	}
	return f
}

// spaceFindings says which hosts have hardly any room for what their instances write. No limit of an instance helps then.
func (s *Instances) spaceFindings() (out []*v1.Finding) {
	for _, node := range sortedKeys(s.space) {
		sp, severity := s.space[node], v1.Severity_SEVERITY_WARNING
		if sp.free < hostDisk {
			severity = v1.Severity_SEVERITY_ERROR
		}
		if sp.free < sp.size/100*spaceLeft || sp.free < hostDisk {
			out = append(out, &v1.Finding{Severity: severity, Where: "node " + node,
				Message: fmt.Sprintf("the disk of its instances is nearly full: %d of %d MiB are free", sp.free>>20, sp.size>>20),
				Hint:    "give it a larger disk: a full one stops the databases of all its instances"})
		}
	}
	return out
}
