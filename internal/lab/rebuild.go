package lab

import (
	"context"
	"slices"

	"github.com/infractl/infractl/internal/errs"
)

// Rebuild destroys a VM and makes it anew with an empty disk, as a person does with a machine that broke: name and cards stay,
// machine-id and host keys are new. more files are on the disk before the first boot, as cloud-init's seed is. It does not
// wait for the boot. A VM with disks of its own (NestedDocker, SmallDisks) is refused.
func (v *VM) Rebuild(ctx context.Context, more ...File) error {
	op := "rebuild " + v.spec.Name
	if err := v.usable(); err != nil {
		return errs.Wrap(op, err)
	}
	if v.spec.NestedDocker || len(v.spec.SmallDisks) > 0 {
		return errs.Wrap(op, errs.New(errs.Invalid, "it has disks of its own, which would stay").At(v.spec.Name))
	}
	if err := v.lab.removeContainer(ctx, v.container()); err != nil {
		return errs.Wrap(op, err)
	}
	v.setPid(0)
	before := v.spec.Files
	v.spec.Files = append(slices.Clone(before), more...)
	defer func() { v.spec.Files = before }()
	if err := v.create(ctx); err != nil {
		return errs.Wrap(op, err)
	}
	return errs.Wrap(op, v.Start(ctx))
}
