package cmd

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site/sitefile"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// limitFlags are an instance's limits; what is 0 was not named.
type limitFlags struct {
	memory, disk sizeFlag
	cpus         cpuFlag
	pids         uint32
}

func (l *limitFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.Var(&l.memory, "memory", "memory of application and database together, such as 768M")
	f.Var(&l.cpus, "cpus", "processor time in cores, such as 0.5")
	f.Uint32Var(&l.pids, "pids", 0, "number of processes")
	f.Var(&l.disk, "disk", "space of documents and database together, such as 5G")
}

// message returns nil where no limit was named.
func (l *limitFlags) message() *v1.InstanceLimits {
	m := &v1.InstanceLimits{MemoryBytes: uint64(l.memory), MilliCpus: uint32(l.cpus), Pids: l.pids, DiskBytes: uint64(l.disk)}
	if m.MemoryBytes == 0 && m.MilliCpus == 0 && m.Pids == 0 && m.DiskBytes == 0 {
		return nil
	}
	return m
}

// sizeFlag is a number of bytes as a site file writes it: 512M, 2G.
type sizeFlag sitefile.Size

// String implements pflag.Value.
func (s *sizeFlag) String() string {
	if *s == 0 {
		return ""
	}
	return sizeText(uint64(*s))
}

// Type implements pflag.Value.
func (s *sizeFlag) Type() string { return "size" }

// Set implements pflag.Value.
func (s *sizeFlag) Set(text string) error {
	return hinted((*sitefile.Size)(s).UnmarshalText([]byte(text)))
}

// cpuFlag is processor time in thousandths of a core, written in cores: 0.5, 2.
type cpuFlag uint32

// maxCPUs is the greatest number of cores.
const maxCPUs = 1024

// String implements pflag.Value.
func (p *cpuFlag) String() string {
	if *p == 0 {
		return ""
	}
	return cpus(uint32(*p))
}

// Type implements pflag.Value.
func (p *cpuFlag) Type() string { return "cores" }

// Set implements pflag.Value.
func (p *cpuFlag) Set(text string) error { return p.UnmarshalText([]byte(text)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *cpuFlag) UnmarshalText(text []byte) error {
	whole, part, _ := strings.Cut(string(text), ".")
	cores, err := strconv.ParseUint(whole, 10, 32)
	thousandths, perr := strconv.ParseUint((part + "000")[:3], 10, 32)
	if err != nil || perr != nil || len(part) > 3 || cores > maxCPUs || cores == 0 && thousandths == 0 {
		return errs.New(errs.Invalid, "%.20q is no number of cores; write 0.5 or 2", string(text))
	}
	*p = cpuFlag(cores*1000 + thousandths)
	return nil
}

// cpus writes thousandths of a core in cores.
func cpus(milli uint32) string { return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64) }

// hinted puts what a scalar advises behind what is wrong with it: a flag's error is one line.
func hinted(err error) error {
	if h, ok := err.(interface{ Hint() string }); ok && err != nil {
		return errs.New(errs.Invalid, "%s; %s", err.Error(), h.Hint())
	}
	return err
}
