package dolibarr

import (
	"context"
	"net/http"
	"regexp"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// titleForm finds the version in a login page. The word before the sign is translated, and replaced by the application's title.
var titleForm = regexp.MustCompile(`<title>[^<]* @ ([0-9]+\.[0-9]+\.[0-9]+)</title>`)

// probe asks the login page through the front until it is there: exactly 200, with the version in its title. Anything below 400 would call a
// page "database down" (202), one "please upgrade" (302) and a refused character set healthy.
func (p *Provider) probe(ctx context.Context, inst *v1.InstanceSpec) (*v1.InstanceResult, error) {
	if mainDomain(inst) == "" {
		return nil, errs.New(errs.Invalid, "it has no domain")
	}
	front, err := p.readFrontRecord()
	if err != nil {
		return nil, err
	}
	t := &steps{}
	version := ""
	err = t.do("probe", func() error {
		return p.until(ctx, probeLimit-askLimit, func(ctx context.Context) error {
			version, err = p.login(ctx, front, mainDomain(inst))
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	if inst.GetVersion() != "" && version != inst.GetVersion() {
		return nil, errs.New(errs.Precondition, "its login page says %s, and it should be %s", version, inst.GetVersion())
	}
	return &v1.InstanceResult{Version: version, Steps: t.list}, nil
}

func (p *Provider) login(ctx context.Context, front *frontRecord, name string) (version string, err error) {
	status, body, err := p.ask(ctx, front.Addresses[0], front.Port, name, "/index.php")
	if err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", errs.New(errs.Precondition, "its login page answers %d", status).WithHint("infractl instance logs says why")
	}
	found := titleForm.FindSubmatch(body)
	if found == nil {
		return "", errs.New(errs.Precondition, "its login page shows no version: it is not Dolibarr's").WithHint("infractl instance logs says why")
	}
	return string(found[1]), nil
}
