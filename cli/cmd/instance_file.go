package cmd

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// instanceFile is what "instance apply" reads.
type instanceFile struct {
	Instances yamltree.Map[wantedInstance] `yaml:"instances" site:"required"`
}

// wantedInstance is one instance of a file; what is not written is the server's choice, or stays.
type wantedInstance struct {
	Version    string                `yaml:"version"`
	Node       string                `yaml:"node"`
	Preprod    bool                  `yaml:"preprod"`
	Company    string                `yaml:"company"`
	Country    string                `yaml:"country"`
	Language   string                `yaml:"language"`
	AdminLogin string                `yaml:"admin_login"`
	Domains    []sitefile.DomainName `yaml:"domains"`
	Modules    []string              `yaml:"modules"`
	Cron       *bool                 `yaml:"cron"`
	Limits     wantedLimits          `yaml:"limits"`
}

type wantedLimits struct {
	Memory sitefile.Size `yaml:"memory"`
	CPUs   cpuFlag       `yaml:"cpus"`
	PIDs   uint32        `yaml:"pids"`
	Disk   sitefile.Size `yaml:"disk"`
}

func (l wantedLimits) message() *v1.InstanceLimits {
	f := limitFlags{memory: sizeFlag(l.Memory), cpus: l.CPUs, pids: l.PIDs, disk: sizeFlag(l.Disk)}
	return f.message()
}

// domains are the names as the contract has them.
func (i *wantedInstance) domains() []string {
	var out []string
	for _, d := range i.Domains {
		out = append(out, string(d))
	}
	return out
}

func (i *wantedInstance) create(name string) *v1.CreateInstanceRequest {
	return &v1.CreateInstanceRequest{Name: name, Version: i.Version, Node: i.Node, Preprod: i.Preprod, Domains: i.domains(), Company: i.Company,
		Country: i.Country, Language: i.Language, Modules: i.Modules, Limits: i.Limits.message(), AdminLogin: i.AdminLogin}
}

var (
	instanceNameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{1,30}$`)
	versionForm      = regexp.MustCompile(`^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$`)
	moduleForm       = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{1,63}$`)
)

// parsedInstances is a file without faults.
type parsedInstances struct {
	list []yamltree.Pair[wantedInstance]
	path string
	pos  *yamltree.Positions
}

// where is the place of a key of an instance, as an editor opens it.
func (p *parsedInstances) where(name, key string) string {
	pos := p.pos.Key(yamltree.Join("instances", name))
	if path := yamltree.Join("instances", name, key); key != "" && p.pos.Has(path) {
		pos = p.pos.Key(path)
	}
	return fmt.Sprintf("%s:%d:%d", p.path, pos.Line, pos.Column)
}

// readInstances reads a file strictly. All its faults are shown at once, each with its place.
func (a *app) readInstances(path string) (*parsedInstances, error) {
	content, err := a.instanceSource(path)
	if err != nil {
		return nil, err
	}
	root, faults := yamltree.Parse(content)
	var file instanceFile
	var pos *yamltree.Positions
	switch {
	case root == nil:
	case root.Kind == yamltree.Null:
		faults = append(faults, yamltree.Fault{Pos: root.Pos, Message: "the file is empty", Hint: "instances: {NAME: {company: ACME}}"})
	default:
		var more []yamltree.Fault
		pos, more = yamltree.Decode(root, &file, yamltree.Options{})
		faults = append(faults, more...)
		for _, i := range file.Instances {
			faults = append(faults, instanceFaults(i, pos)...)
		}
	}
	if len(faults) == 0 {
		return &parsedInstances{list: file.Instances, path: path, pos: pos}, nil
	}
	slices.SortStableFunc(faults, func(x, y yamltree.Fault) int {
		if x.Pos.Line != y.Pos.Line {
			return x.Pos.Line - y.Pos.Line
		}
		return x.Pos.Column - y.Pos.Column
	})
	for _, f := range faults {
		a.finding(&v1.Finding{Severity: v1.Severity_SEVERITY_ERROR, Where: fmt.Sprintf("%s:%d:%d", path, f.Pos.Line, f.Pos.Column),
			Message: f.Message, Hint: f.Hint})
	}
	return nil, errs.New(errs.Invalid, "the file has %d fault(s); nothing was sent anywhere", len(faults)).At(path)
}

func (a *app) instanceSource(path string) ([]byte, error) {
	in := a.proc.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, errs.New(errs.Invalid, "cannot be read: %w", cause(err)).At(path)
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, yamltree.MaxBytes+1))
	if err != nil {
		return nil, errs.New(errs.Invalid, "cannot be read: %w", cause(err)).At(path)
	}
	return content, nil // what is too long is refused by the parser
}

// instanceFaults are what the form of an instance cannot say. What only the server knows, such as versions and hosts, it says.
func instanceFaults(i yamltree.Pair[wantedInstance], pos *yamltree.Positions) []yamltree.Fault {
	var faults []yamltree.Fault
	check := func(good bool, key, hint, format string, args ...any) {
		if good {
			return
		}
		at := pos.Key(yamltree.Join("instances", i.Key))
		if key != "" {
			at = pos.Value(yamltree.Join("instances", i.Key, key))
		}
		faults = append(faults, yamltree.Fault{Pos: at, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	v := &i.Value
	check(instanceNameForm.MatchString(i.Key), "", "2 to 31 lower-case letters, digits and hyphens, a letter first",
		"%.40q cannot name an instance", i.Key)
	check(v.Version == "" || versionForm.MatchString(v.Version), "version", "write it like 19.0.4", "%.20q is no version of Dolibarr", v.Version)
	check(v.Language == "" || v.Language == "fr" || v.Language == "en", "language", "fr or en", "there are no pages in %.20q", v.Language)
	for n, m := range v.Modules {
		check(moduleForm.MatchString(m), yamltree.Join("modules", fmt.Sprint(n)), "its class without \"mod\", such as societe",
			"%.40q cannot name a module", m)
	}
	return faults
}
