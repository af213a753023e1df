// Package compose reads a Compose file strictly, with Docker's own library and nothing else: no environment, no other file, no
// network. It says what a stack needs (images, secrets, ports, volumes, files) and refuses what would get around the site: host
// namespaces, devices, foreign paths, passwords in plain text, images without a version, ports on every address.
package compose

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
)

// Limits of a stack.
const (
	MaxFile     = 256 << 10 // bytes of one file
	MaxServices = 100
	maxFindings = 50
	maxNodes    = 20_000 // values, those that aliases repeat counted each time
	maxDepth    = 40
)

// Input is a Compose file with what stands beside it.
type Input struct {
	// Stack is the stack's name, which becomes the project's.
	Stack string
	// File is the file's path in the site, such as stacks/supervision.yml.
	File string
	// Content is the file.
	Content []byte
	// Files are the files of the folder that has the file's name, by their path relative to the file's folder, such as
	// supervision/prometheus.yml.
	Files map[string][]byte
	// Variables are all that the file may interpolate.
	Variables map[string]string
}

// Stack is what a Compose file needs. All lists are sorted and without repetition, but Ports, which are in no special order.
type Stack struct {
	// Services are the names of its services.
	Services []string
	// Images are the references, as the file writes them.
	Images []string
	// Secrets are the names of the external secrets that services use.
	Secrets []string
	// Ports are what it publishes on addresses of the host.
	Ports []Port
	// Volumes are the names of its volumes, as the file writes them.
	Volumes []string
	// Scrapes says that it mounts ScrapeFolder, which only the monitoring node has.
	Scrapes bool
	// Files are the relative paths that it mounts or reads: files, or folders of files.
	Files []string
}

// Port is a published port.
type Port struct {
	// Service is whose it is.
	Service string
	// Address is the host's address.
	Address netip.Addr
	// Protocol is tcp or udp.
	Protocol string
	// First and Last are the ports on the host, equal for a single one.
	First, Last uint16
	// Line and Column are where the file says so.
	Line, Column int
}

// Severity is how bad a finding is.
type Severity int

// The severities.
const (
	Warning Severity = iota + 1
	Error
)

// Finding is one thing that is wrong with a file.
type Finding struct {
	// Severity is how bad it is: an error means that the file is refused.
	Severity Severity
	// File is the path in the site, Line and Column count from 1.
	File         string
	Line, Column int
	// Message says what is wrong, Hint what to do (may be empty).
	Message, Hint string
}

// Parse reads a Compose file. The stack is nil when any finding is an error. All faults are reported at once, 50 at most, in the
// order of the file. It never panics on any content.
func Parse(in Input) (stack *Stack, findings []Finding) {
	r := &reader{in: in, folder: strings.TrimSuffix(path.Base(in.File), path.Ext(in.File)), stack: &Stack{}}
	defer func() {
		// The libraries read a foreign text: a panic in them is a fault of the text as far as anybody can tell.
		if p := recover(); p != nil {
			r.report(Error, place{1, 1}, "", "the Compose library cannot read this file: %v", p)
			stack, findings = nil, r.sorted()
		}
	}()
	r.read()
	findings = r.sorted()
	if r.failed() {
		return nil, findings
	}
	for _, list := range []*[]string{&r.stack.Services, &r.stack.Images, &r.stack.Secrets, &r.stack.Volumes, &r.stack.Files} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return r.stack, findings
}

// Folder returns the folder whose files belong to a Compose file: stacks/supervision for stacks/supervision.yml.
func Folder(file string) string { return strings.TrimSuffix(file, path.Ext(file)) }

type reader struct {
	in       Input
	folder   string // the name of the folder beside the file
	tree     *tree
	stack    *Stack
	findings []Finding
}

func (r *reader) report(s Severity, at place, hint, format string, args ...any) {
	r.add(Finding{s, r.in.File, at.line, at.column, fmt.Sprintf(format, args...), hint})
}

func (r *reader) add(f Finding) {
	if len(r.findings) < maxFindings && !slices.Contains(r.findings, f) {
		r.findings = append(r.findings, f)
	}
}

// fail reports an error at the value of a path, failKey at its key, warn a warning at its value.
func (r *reader) fail(at, hint, format string, args ...any) {
	r.report(Error, r.tree.value(at), hint, format, args...)
}

func (r *reader) failKey(at, hint, format string, args ...any) {
	r.report(Error, r.tree.key(at), hint, format, args...)
}

func (r *reader) warn(at, hint, format string, args ...any) {
	r.report(Warning, r.tree.value(at), hint, format, args...)
}

func (r *reader) failed() bool {
	return slices.ContainsFunc(r.findings, func(f Finding) bool { return f.Severity == Error })
}

func (r *reader) sorted() []Finding {
	slices.SortStableFunc(r.findings, func(a, b Finding) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column))
	})
	return r.findings
}

func (r *reader) read() {
	if len(r.in.Content) > MaxFile {
		r.report(Error, place{1, 1}, "split it, or put large content into files beside it", "the file is larger than %d KiB", MaxFile>>10)
		return
	}
	t, fault := parseTree(r.in.Content)
	r.tree = t
	if fault != nil {
		r.report(Error, fault.at, fault.hint, "%s", fault.message)
		return
	}
	for _, f := range t.faults {
		r.report(Error, f.at, f.hint, "%s", f.message)
	}
	r.structure()
	r.variables()
	project := r.load()
	if project == nil {
		return
	}
	if n := len(project.Services) + len(project.DisabledServices); n > MaxServices {
		r.fail("services", "split it into several stacks", "%d services, more than %d", n, MaxServices)
		return
	}
	all := project.AllServices()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		r.service(name, &s)
	}
	r.resources(project)
}

// load lets the Compose library read the file.
func (r *reader) load() *types.Project {
	model, err := r.tree.model()
	if err != nil {
		f := yamlFault(err)
		r.report(Error, f.at, "", "%s", f.message)
		return nil
	}
	if named, ok := model["name"].(string); ok && named != r.in.Stack {
		r.fail("name", "leave name out: the stack's name is the one in the site file", "the file calls itself %q, the site calls it %q", named, r.in.Stack)
	}
	delete(model, "version")
	if len(model) == 0 {
		r.report(Error, place{1, 1}, "", "the file is empty")
		return nil
	}
	details := types.ConfigDetails{
		WorkingDir:  "/stack", // nothing is looked for there: paths stay as they are
		ConfigFiles: []types.ConfigFile{{Filename: r.in.File, Config: model}},
		Environment: maps.Clone(r.in.Variables),
	}
	if details.Environment == nil {
		details.Environment = types.Mapping{}
	}
	project, err := loader.LoadWithContext(context.Background(), details, func(o *loader.Options) {
		o.SetProjectName(r.in.Stack, true)
		o.SkipNormalization, o.SkipExtends, o.SkipInclude = true, true, true
		o.SkipResolveEnvironment, o.SkipResolveLabels, o.ResolvePaths = true, true, false
		o.Interpolate.LookupValue = func(name string) (string, bool) { v, ok := r.in.Variables[name]; return v, ok }
		o.Interpolate.Substitute = func(text string, values template.Mapping) (string, error) {
			return template.SubstituteWithOptions(text, values, template.WithoutLogging)
		}
	})
	if err != nil {
		if !r.failed() { // what was refused above often makes the rest wrong as well
			at, message := r.locate(err.Error())
			r.report(Error, at, "", "%s", message)
		}
		return nil
	}
	return project
}

var (
	dottedPath  = regexp.MustCompile(`\b(services|networks|volumes|secrets|configs)(\.[A-Za-z0-9_-]+)+`)
	namedThing  = regexp.MustCompile(`\b(service|network|volume|secret|config) "([^"]+)"`)
	extraKey    = regexp.MustCompile(`additional properties '([^']+)'`)
	spaces      = regexp.MustCompile(`\s+`)
	boilerplate = regexp.MustCompile(`: invalid compose project$|^validating [^ ]+: `)
)

// locate finds the place that an error of the library speaks of.
func (r *reader) locate(message string) (place, string) {
	message = boilerplate.ReplaceAllString(spaces.ReplaceAllString(message, " "), "")
	if len(message) > 400 {
		message = strings.ToValidUTF8(message[:400], "") + "…"
	}
	where := ""
	if m := dottedPath.FindString(message); m != "" {
		where = strings.ReplaceAll(m, ".", "/")
	} else if m := namedThing.FindStringSubmatch(message); m != nil {
		where = m[1] + "s/" + m[2]
	}
	if m := extraKey.FindStringSubmatch(message); m != nil {
		if at := strings.TrimPrefix(where+"/"+m[1], "/"); r.tree.has(at) {
			return r.tree.key(at), message
		}
	}
	return r.tree.key(where), message
}

// variables refuses what nobody will set: it would silently become nothing.
func (r *reader) variables() {
	known := slices.Sorted(maps.Keys(r.in.Variables))
	r.tree.scalars(func(at, text string) {
		if !strings.Contains(text, "$") {
			return
		}
		used := template.ExtractVariables(map[string]any{"": text}, nil)
		for _, name := range slices.Sorted(maps.Keys(used)) {
			if _, ok := r.in.Variables[name]; !ok && used[name].DefaultValue == "" {
				r.fail(at, "a stack knows "+strings.Join(known, ", ")+"; write $$ for a dollar sign", "there is no variable %q", name)
			}
		}
	})
}
