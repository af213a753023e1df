package instance

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
)

var (
	nameForm    = regexp.MustCompile(`^[a-z][a-z0-9-]{1,30}$`)
	loginForm   = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]{1,49}$`)
	countryForm = regexp.MustCompile(`^[A-Z]{2}$`)
	moduleForm  = regexp.MustCompile(`^[A-Z][A-Za-z0-9_]{0,63}$`)
)

// reservedNames mean something to people or programs in a domain, or are words of this program.
const reservedNames = ` www web mail smtp imap pop pop3 webmail mx mx1 mx2 ns ns1 ns2 dns dns1 dns2 ftp sftp ssh vpn admin administrator root
	api app apps static cdn assets status health monitor monitoring grafana prometheus portainer proxy npm front internal infractl server
	autoconfig autodiscover hostmaster postmaster abuse security support help info billing login auth sso account accounts test demo
	localhost local wildcard template all none instances internet default preprod prod staging backup `

// checkName refuses what cannot name an instance on the site. Capitals are refused and not lowered: what was meant is not guessed.
func checkName(where *site.Site, name string) error {
	if !nameForm.MatchString(name) || strings.HasSuffix(name, "-") || strings.Contains(name, "--") {
		hint := "2 to 31 small letters, digits and single hyphens, a letter first, such as acme"
		if low := strings.ToLower(name); low != name && nameForm.MatchString(low) {
			hint = "write " + low
		}
		return errs.New(errs.Invalid, "%.60q cannot name an instance", name).WithHint("%s", hint)
	}
	if slices.Contains(strings.Fields(reservedNames), name) {
		return errs.New(errs.Invalid, "the name %s is reserved", name).WithHint("choose another one, such as %s-erp", name)
	}
	if where == nil {
		return nil
	}
	if why := where.NameProblem(name); why != "" {
		return errs.New(errs.Invalid, "the name %s %s", name, why).WithHint("choose another name")
	}
	return nil
}

// checkDomains refuses what cannot be a further name, and returns each once.
func checkDomains(where *site.Site, domains []string) ([]string, error) {
	const most = 20
	var out []string
	for _, d := range domains {
		if why := where.DomainProblem(d); why != "" {
			return nil, errs.New(errs.Invalid, "the name %.260q %s", d, why).WithHint("a name like erp.example.org, in small letters")
		}
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	if len(out) > most {
		return nil, errs.New(errs.Invalid, "%d further names are more than %d", len(out), most)
	}
	return out, nil
}

func checkLanguage(language string) error {
	if language != "fr" && language != "en" {
		return errs.New(errs.Invalid, "%.20q is no language that customers are spoken to in", language).WithHint("fr or en")
	}
	return nil
}

// checkCompany takes what people write, on one line.
func checkCompany(name string) error {
	if len(name) > 128 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return errs.New(errs.Invalid, "the company's name is not one line of at most 128 bytes")
	}
	return nil
}

func checkModules(modules []string) error {
	const most = 200
	if len(modules) > most {
		return errs.New(errs.Invalid, "%d modules are more than %d", len(modules), most)
	}
	for _, m := range modules {
		if !moduleForm.MatchString(m) {
			return errs.New(errs.Invalid, "%.70q is no module", m).WithHint("such as Societe or Facture, without mod before it")
		}
	}
	return nil
}

// check refuses limits that no instance may have.
func (l limits) check() error {
	const mib = 1 << 20
	switch {
	case l.Memory < site.MinInstanceMemory || l.Memory > site.MaxInstanceMemory:
		return errs.New(errs.Invalid, "memory of %d MiB is not %d to %d MiB", l.Memory/mib, site.MinInstanceMemory/mib, site.MaxInstanceMemory/mib)
	case l.MilliCPU < site.MinInstanceCPUs || l.MilliCPU > site.MaxInstanceCPUs:
		return errs.New(errs.Invalid, "%d thousandths of a core are not %d to %d", l.MilliCPU, site.MinInstanceCPUs, site.MaxInstanceCPUs)
	case l.PIDs < site.MinInstancePIDs || l.PIDs > site.MaxInstancePIDs:
		return errs.New(errs.Invalid, "%d processes are not %d to %d", l.PIDs, site.MinInstancePIDs, site.MaxInstancePIDs)
	case l.Disk < site.MinInstanceDisk || l.Disk > site.MaxInstanceDisk:
		return errs.New(errs.Invalid, "disk space of %d MiB is not %d to %d MiB",
			l.Disk/mib, site.MinInstanceDisk/mib, uint64(site.MaxInstanceDisk/mib))
	}
	return nil
}
