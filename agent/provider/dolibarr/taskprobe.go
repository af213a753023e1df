package dolibarr

import (
	"context"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// probe asks the login page through the front until it is there.
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
	if inst.GetVersion() != "" && inst.GetAdopted() == nil && version != inst.GetVersion() {
		return nil, errs.New(errs.Precondition, "its login page says %s, and it should be %s", version, inst.GetVersion())
	}
	return &v1.InstanceResult{Version: version, Steps: t.list}, nil
}

func (p *Provider) login(ctx context.Context, front *frontRecord, name string) (version string, err error) {
	status, body, err := p.ask(ctx, front.Addresses[0], front.Port, name, dolibarr.LoginPath)
	if err != nil {
		return "", err
	}
	return dolibarr.LoginVersion(status, body)
}
