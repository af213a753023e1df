package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// instancePlan is what a file asks of one instance.
type instancePlan struct {
	name string
	// create makes it; configure and enable change one that is there, in this order. All are nil where nothing is to be done.
	create    *v1.CreateInstanceRequest
	configure *v1.ConfigureInstanceRequest
	enable    *v1.SetModulesRequest
	// lines say what changes.
	lines []string
	// blocks are what stands against it, each with its place in the file.
	blocks []string
}

func (p *instancePlan) idle() bool { return p.create == nil && p.configure == nil && p.enable == nil }

// word says in a word what is to be done.
func (p *instancePlan) word() string {
	switch {
	case len(p.blocks) > 0:
		return "blocked"
	case p.create != nil:
		return "create"
	case p.idle():
		return "unchanged"
	}
	return "change"
}

// planInstances compares a file with what there is.
func planInstances(file *parsedInstances, list []*v1.Instance) []*instancePlan {
	known := map[string]*v1.Instance{}
	for _, i := range list {
		if i.GetState() != v1.InstanceState_INSTANCE_STATE_PURGED {
			known[i.GetName()] = i
		}
	}
	var plans []*instancePlan
	for n := range file.list {
		name, wanted := file.list[n].Key, &file.list[n].Value
		now := known[name]
		if now == nil {
			p := &instancePlan{name: name, create: wanted.create(name), lines: createLines(wanted)}
			if wanted.Cron != nil && !*wanted.Cron { // a new one has its scheduled jobs on
				p.configure = &v1.ConfigureInstanceRequest{Name: name, Cron: wanted.Cron}
			}
			plans = append(plans, p)
			continue
		}
		p := &instancePlan{name: name}
		p.compare(wanted, now)
		p.block(file, wanted, now)
		plans = append(plans, p)
	}
	return plans
}

func createLines(w *wantedInstance) []string {
	var lines []string
	add := func(key, value string) {
		if value != "" {
			lines = append(lines, key+": "+value)
		}
	}
	add("version", w.Version)
	add("node", w.Node)
	add("company", w.Company)
	add("domains", strings.Join(w.domains(), ", "))
	add("modules", strings.Join(w.Modules, ", "))
	if l := w.Limits.message(); l != nil {
		add("limits", limitsText(l))
	}
	if w.Cron != nil && !*w.Cron {
		add("cron", "off, once it works")
	}
	return lines
}

// compare finds what can be changed: names and modules are only added, limits, cron and language become what the file says.
func (p *instancePlan) compare(w *wantedInstance, now *v1.Instance) {
	c := &v1.ConfigureInstanceRequest{Name: p.name}
	change := func(format string, args ...any) {
		p.configure = c
		p.lines = append(p.lines, fmt.Sprintf(format, args...))
	}
	if limits := changedLimits(w.Limits.message(), now.GetLimits()); limits != nil {
		c.Limits = limits
		change("limits: %s (now %s)", limitsText(limits), limitsText(now.GetLimits()))
	}
	if w.Cron != nil && *w.Cron != now.GetCron() {
		c.Cron = w.Cron
		change("cron: %s", map[bool]string{true: "on", false: "off"}[*w.Cron])
	}
	if w.Language != "" && w.Language != now.GetLanguage() {
		c.Language = w.Language
		change("language: %s (now %s)", w.Language, dash(now.GetLanguage()))
	}
	if c.AddDomains = missing(w.domains(), now.GetDomains()); len(c.AddDomains) > 0 {
		change("domains: + %s", strings.Join(c.AddDomains, ", "))
	}
	if modules := missing(w.Modules, now.GetModules()); len(modules) > 0 {
		p.enable = &v1.SetModulesRequest{Name: p.name, Enable: modules}
		p.lines = append(p.lines, "modules: + "+strings.Join(modules, ", "))
	}
}

// changedLimits are the limits of w that differ from those of now, nil where none does.
func changedLimits(w, now *v1.InstanceLimits) *v1.InstanceLimits {
	f := limitFlags{}
	if w.GetMemoryBytes() != now.GetMemoryBytes() {
		f.memory = sizeFlag(w.GetMemoryBytes())
	}
	if w.GetMilliCpus() != now.GetMilliCpus() {
		f.cpus = cpuFlag(w.GetMilliCpus())
	}
	if w.GetPids() != now.GetPids() {
		f.pids = w.GetPids()
	}
	if w.GetDiskBytes() != now.GetDiskBytes() {
		f.disk = sizeFlag(w.GetDiskBytes())
	}
	return f.message()
}

// missing are those of wanted that are not in have; Dolibarr's module names have no case.
func missing(wanted, have []string) []string {
	var out []string
	for _, w := range wanted {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.EqualFold(w, h) }) {
			out = append(out, w)
		}
	}
	return out
}

// block finds what apply cannot change, and states in which nothing may be changed.
func (p *instancePlan) block(file *parsedInstances, w *wantedInstance, now *v1.Instance) {
	differs := func(key, wanted, is, how string) {
		if wanted != "" && wanted != is {
			p.blocks = append(p.blocks, fmt.Sprintf("%s: %s of %s is %s, the file says %s; %s", file.where(p.name, key), key, p.name, dash(is), wanted, how))
		}
	}
	differs("version", w.Version, now.GetVersion(), "a file does not change versions")
	differs("node", w.Node, now.GetNode(), "a file does not move instances")
	differs("company", w.Company, now.GetCompany(), "change it in Dolibarr, or correct the file")
	differs("admin_login", w.AdminLogin, now.GetAdminLogin(), "it is chosen once")
	if w.Preprod && !now.GetPreprod() {
		p.blocks = append(p.blocks, fmt.Sprintf("%s: %s is a customer's live instance, the file says preprod", file.where(p.name, "preprod"), p.name))
	}
	state := ""
	switch now.GetState() {
	case v1.InstanceState_INSTANCE_STATE_ARCHIVED:
		state = "is archived; infractl instance resume " + p.name + ", or take it out of the file"
	case v1.InstanceState_INSTANCE_STATE_CREATING, v1.InstanceState_INSTANCE_STATE_CHANGING:
		state = "is being changed; infractl operation watch " + now.GetOperationId()
	}
	if state != "" {
		p.blocks = append(p.blocks, fmt.Sprintf("%s: %s %s", file.where(p.name, ""), p.name, state))
	}
}

// showInstancePlans writes a plan for people.
func showInstancePlans(printf func(string, ...any), plans []*instancePlan) {
	count := map[string]int{}
	for _, p := range plans {
		count[p.word()]++
		sign := map[string]string{"create": "+", "change": "~", "unchanged": "=", "blocked": "!"}[p.word()]
		printf("%s %s: %s\n", sign, output.Line(p.name), p.word())
		for _, line := range p.lines {
			printf("    %s\n", output.Line(line))
		}
		for _, line := range p.blocks {
			printf("    %s\n", output.Line(line))
		}
	}
	printf("%d to create, %d to change, %d unchanged\n", count["create"], count["change"], count["unchanged"])
}
