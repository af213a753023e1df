package containers

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/docker"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// detailAge is how long what the engine said of one container is believed while its state stays the same.
const detailAge = time.Minute

// maxMessage bounds what a report repeats of others' words.
const maxMessage = 500

type detail struct {
	docker.Detail
	key   string
	taken time.Time
}

// State returns the last report; nil before the first.
func (p *Provider) State() *v1.ContainersReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.report
}

// Report looks at the stacks and returns how they are. It asks the engine once, and once more for each container that changed.
func (p *Provider) Report(ctx context.Context) *v1.ContainersReport {
	records, err := p.records()
	report := &v1.ContainersReport{}
	if err == nil && len(records) > 0 {
		list, lerr := p.engine.Containers(ctx, docker.LabelProject)
		for _, r := range records {
			report.Stacks = append(report.Stacks, p.stackState(ctx, r, byService(r.Name, list), lerr))
		}
	}
	p.addNotYetThere(report)
	if ctx.Err() != nil {
		return p.State()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report = report
	for id, d := range p.details {
		if p.cfg.Clock.Now().Sub(d.taken) > 10*detailAge {
			delete(p.details, id)
		}
	}
	return report
}

// addNotYetThere adds stacks whose first apply failed: nothing is left of them but the reason.
func (p *Provider) addNotYetThere(report *v1.ContainersReport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, why := range p.problems {
		if !slices.ContainsFunc(report.Stacks, func(s *v1.StackState) bool { return s.GetName() == name }) {
			report.Stacks = append(report.Stacks, &v1.StackState{Name: name, Problem: shorten(why)})
		}
	}
	slices.SortFunc(report.Stacks, func(a, b *v1.StackState) int { return strings.Compare(a.GetName(), b.GetName()) })
}

func (p *Provider) stackState(ctx context.Context, r *record, mine map[string][]docker.Container, engineErr error) *v1.StackState {
	state := &v1.StackState{Name: r.Name}
	if engineErr != nil {
		state.Problem = shorten(engineErr.Error())
		return state
	}
	var bad []string
	for i := range r.Services {
		s := &r.Services[i]
		if why := wrong(s, r, mine[s.Name]); why != "" {
			bad = append(bad, s.Name+": "+why)
		}
		if len(mine[s.Name]) == 0 && s.Replicas > 0 {
			state.Services = append(state.Services, &v1.ServiceState{Service: s.Name, Image: s.Image, State: "missing"})
		}
		for j := range mine[s.Name] {
			state.Services = append(state.Services, p.serviceState(ctx, s.Name, mine[s.Name][j]))
		}
	}
	p.mu.Lock()
	last := p.problems[r.Name]
	p.mu.Unlock()
	switch {
	case last != "":
		state.Problem = shorten(last)
	case len(bad) > 0:
		state.Problem = shorten(strings.Join(bad, "; "))
	case r.Pending:
		state.Problem = "a change of it was cut short"
	}
	return state
}

func shorten(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > maxMessage {
		s = s[:maxMessage] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

func (p *Provider) serviceState(ctx context.Context, service string, c docker.Container) *v1.ServiceState {
	s := &v1.ServiceState{Service: service, Container: c.Name, Image: c.Image, State: c.State, Health: c.Health}
	now := p.cfg.Clock.Now()
	p.mu.Lock()
	d, ok := p.details[c.ID]
	p.mu.Unlock()
	if key := c.State + " " + c.Health; !ok || d.key != key || now.Sub(d.taken) > detailAge {
		fresh, err := p.engine.Inspect(ctx, c.ID)
		if err != nil {
			return s
		}
		d = detail{Detail: fresh, key: key, taken: now}
		p.mu.Lock()
		p.details[c.ID] = d
		p.mu.Unlock()
	}
	s.Restarts, s.ExitCode = uint32(max(d.Restarts, 0)), int32(d.ExitCode)
	if !d.Started.IsZero() {
		s.Started = timestamppb.New(d.Started)
	}
	if c.Health == "unhealthy" {
		s.Message = shorten(strings.TrimSpace(p.redact(c.Project(), d.HealthOutput)))
	}
	return s
}

// diagnose says what is wrong with a stack's containers: the last words of health checks and logs.
func (p *Provider) diagnose(ctx context.Context, stack string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := p.engine.Containers(ctx, docker.LabelProject+"="+stack)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for i := range list {
		c := &list[i]
		if c.State == "running" && c.Health != "unhealthy" && c.Health != "starting" || strings.HasPrefix(c.Status, "Exited (0)") {
			continue
		}
		d, err := p.engine.Inspect(ctx, c.ID)
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "; %s is %s", c.Name, strings.TrimSpace(c.State+" "+c.Health))
		if d.State == "exited" {
			fmt.Fprintf(&b, " with code %d", d.ExitCode)
		}
		if said := strings.TrimSpace(p.redact(stack, d.HealthOutput)); said != "" {
			fmt.Fprintf(&b, ", its health check says: %s", oneLine(said, 300))
		}
		if lines := p.redact(stack, p.lastLines(ctx, c.ID)); lines != "" {
			fmt.Fprintf(&b, ", its log ends: %s", oneLine(lines, 600))
		}
	}
	return b.String()
}

func (p *Provider) lastLines(ctx context.Context, id string) string {
	r, err := p.engine.Logs(ctx, id, docker.LogOptions{Tail: 5})
	if err != nil {
		return ""
	}
	defer r.Close()
	data, _ := io.ReadAll(io.LimitReader(r, 8<<10))
	return strings.TrimSpace(string(data))
}

func oneLine(s string, limit int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " | ")
	if len(s) > limit {
		s = "..." + s[len(s)-limit:]
	}
	return strings.ToValidUTF8(s, "?")
}

// redact takes the values of a stack's secrets out of what others said.
func (p *Provider) redact(stack, text string) string {
	files, err := p.secretFiles(stack)
	if err != nil {
		return text
	}
	for _, file := range files {
		data, err := p.host.ReadFile(file)
		if value := strings.TrimSpace(string(data)); err == nil && len(value) >= 4 {
			text = strings.ReplaceAll(text, value, "<secret "+path.Base(file)+">")
		}
	}
	return text
}
