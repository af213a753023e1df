package demo

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// ForTests returns the options of a lab for tests in a package below internal/lab: the programs are those of INFRACTL_BIN, its state
// lies in a new folder, which done removes.
func ForTests(name string) (o Options, done func(), err error) {
	bin := os.Getenv("INFRACTL_BIN")
	if bin == "" {
		return o, nil, errs.New(errs.Precondition, "INFRACTL_BIN must name the folder of the built programs").WithHint("make e2e")
	}
	dir, err := os.MkdirTemp("", "infractl-"+name+"-")
	if err != nil {
		return o, nil, errs.Wrap("make the lab's folder", err)
	}
	return Options{Root: "../../..", Bin: bin, Dir: dir, Name: name, Out: os.Stderr}, func() { _ = os.RemoveAll(dir) }, nil
}

// Suite are the tests of a package that share one site.
type Suite struct {
	// Name is the lab's name.
	Name string
	// Limit bounds how long the site may take to come up.
	Limit time.Duration
	// Change changes how it is built; nil where nothing is special.
	Change func(*Options)
	// Boot builds it; nil means Boot.
	Boot func(context.Context, Options) (*Site, error)
	// Prepare makes it ready for the tests; nil where it is.
	Prepare func(context.Context, *Site) error
}

// Run brings the site up, puts it where the tests look for it, runs them, and takes it down. It returns the program's exit code. What
// went wrong is explained on stderr.
func (s Suite) Run(into **Site, tests func() int) int {
	o, done, err := ForTests(s.Name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer done()
	if s.Change != nil {
		s.Change(&o)
	}
	// The next lab of this name removes what stayed.
	defer func() {
		if *into != nil {
			_ = (*into).Down(context.Background())
		}
	}()
	code := 1
	if err := s.up(o, into); err != nil {
		fmt.Fprintln(os.Stderr, "the site did not come up:", err)
	} else {
		code = tests()
	}
	if code != 0 && *into != nil {
		(*into).Explain(context.Background(), os.Stderr)
	}
	return code
}

func (s Suite) up(o Options, into **Site) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.Limit)
	defer cancel()
	boot := s.Boot
	if boot == nil {
		boot = Boot
	}
	if *into, err = boot(ctx, o); err != nil || s.Prepare == nil {
		return err
	}
	return s.Prepare(ctx, *into)
}
