package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/metrics"
)

// footprint measures the programs on disk.
func footprint(_ context.Context, o Options, r *Report) error {
	for name, limit := range map[string]float64{"infractl-agent": 20} {
		info, err := os.Stat(filepath.Join(o.Bin, name))
		if err != nil {
			return errs.Wrap("measure "+name, err)
		}
		r.AtMost(name+" on disk", float64(info.Size())/1e6, limit, "MB", "Teleport agent 292 MB resident, Elastic agent 1.5 GB on disk (published)")
	}
	return nil
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// fleet measures applies of the example site on six VMs, and the same with Ansible on the same VMs.
func fleet(ctx context.Context, o Options, r *Report) error {
	begun := time.Now()
	s, err := demo.Boot(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: filepath.Join(o.Dir, "fleet"), Name: "bench", Out: o.Out})
	if s != nil {
		defer s.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the lab's own report says what stayed
	}
	if err != nil {
		return err
	}
	r.Stated("seven VMs booted, server up, agents enrolled", time.Since(begun).Seconds(), "s", "from nothing, images cached")
	r.AtMost("infractl-server init to a running server", s.InitSeconds, 2, "s", "goal of the issue")
	begun = time.Now()
	if err := s.Apply(ctx); err != nil {
		return errs.Wrap("first apply", err)
	}
	first := time.Since(begun).Seconds()
	r.Stated("first apply, six VMs, in waves, every commit witnessed", first, "s", "wall time of infractl apply")
	before, err := endState(ctx, s.Lab)
	if err != nil {
		return err
	}
	r.All("end state by probe, infractl", before.ok, before.total, "ways that must be open or closed, by real connections")
	noop, err := noopApplies(ctx, s)
	if err != nil {
		return err
	}
	r.AtMost("no-op apply, six VMs, every host read anew", noop, 1, "s", "median of 5")
	if err := seesAHandChange(ctx, s, r); err != nil {
		return err
	}
	if err := agentMemory(ctx, s, r); err != nil {
		return err
	}
	files, err := capture(ctx, s, filepath.Join(o.Dir, "ansible"))
	if err != nil {
		return err
	}
	key := s.SSHKey()
	keep := filepath.Join(files, "id_ed25519")
	if err := copyFile(key, keep); err != nil {
		return err
	}
	if err := s.Down(ctx); err != nil {
		return errs.Wrap("take the first lab down", err)
	}
	return compareWithAnsible(ctx, o, r, files, first, noop)
}

// noopApplies returns the median wall time of five applies that change nothing, in seconds.
func noopApplies(ctx context.Context, s *demo.Site) (float64, error) {
	var times []float64
	for range 5 {
		begun := time.Now()
		if err := s.Apply(ctx); err != nil {
			return 0, errs.Wrap("no-op apply", err)
		}
		times = append(times, time.Since(begun).Seconds())
	}
	return median(times), nil
}

// seesAHandChange changes one file on one host and wants the next apply to mend it: a no-op apply must not trust its memory.
func seesAHandChange(ctx context.Context, s *demo.Site, r *Report) error {
	const file = "/etc/sysctl.d/90-infractl-net.conf"
	vm := s.Lab.VM(demo.Prod)
	want, err := vm.ReadFile(ctx, file)
	if err != nil {
		return errs.Wrap("read "+file, err)
	}
	if err := vm.AppendFile(ctx, file, []byte("# by hand\n")); err != nil {
		return errs.Wrap("change "+file, err)
	}
	if err := s.Apply(ctx); err != nil {
		return errs.Wrap("apply after a change by hand", err)
	}
	have, err := vm.ReadFile(ctx, file)
	if err != nil {
		return errs.Wrap("read "+file, err)
	}
	seen := 0
	if string(have) == string(want) {
		seen = 1
	}
	r.All("one file changed by hand is seen and mended", seen, 1, file+" on "+demo.Prod)
	return nil
}

func agentMemory(ctx context.Context, s *demo.Site, r *Report) error {
	time.Sleep(metrics.AtRest)
	worst := 0.0
	for _, name := range demo.Nodes() {
		out, err := s.Lab.VM(name).Must(ctx, "sh", "-c", "grep VmRSS /proc/$(systemctl show -p MainPID --value infractl-agent)/status")
		if err != nil {
			return errs.Wrap("measure the agent", err)
		}
		kb, err := strconv.ParseFloat(strings.Fields(out)[1], 64)
		if err != nil {
			return errs.New(errs.Internal, "unreadable memory %q", out)
		}
		worst = max(worst, kb/1000)
	}
	r.AtMost("agent resident when idle, worst of six", worst, 30, "MB", "Elastic agent 220-280 MB (published)")
	return nil
}

// way is one connection of the end-state probe.
type way struct {
	from, to string
	port     uint16
	open     bool
}

type probed struct {
	ok, total int
}

// ways are what the example site's hardening must have opened and closed; the same list judges infractl and Ansible.
func ways() []way {
	list := []way{
		{demo.Operator, "10.0.10.4", 202, true}, {demo.Operator, "10.0.10.20", 202, false}, {demo.Operator, "10.0.10.20", 22, false},
		{demo.Internet, "10.0.10.10", 80, true}, {demo.Internet, "192.168.8.30", 443, true}, {demo.Internet, "192.168.8.30", 202, false}, {demo.Internet, "10.0.10.10", 81, false}, {demo.Internet, "10.0.10.4", 202, false},
		{demo.Internet, "10.0.10.20", 202, false}, {"srv-supervision", "10.0.10.20", 9100, true}, {"srv-prod", "10.0.10.21", 202, false},
	}
	for _, address := range []string{"10.0.10.1", "10.0.10.10", "10.0.10.11", "10.0.10.20", "10.0.10.21"} {
		list = append(list, way{demo.Relay, address, 202, true}, way{demo.Relay, address, 22, false}, way{demo.Relay, address, 8080, false})
	}
	return list
}

// endState opens every way for real, all at once.
func endState(ctx context.Context, l *lab.Lab) (probed, error) {
	list := ways()
	wrong := make([]string, len(list)+1)
	var wg sync.WaitGroup
	for i, w := range list {
		wg.Go(func() {
			if open, seen := opens(ctx, l, w); open != w.open {
				wrong[i] = fmt.Sprintf("%s to %s:%d open=%v (%v)", w.from, w.to, w.port, open, seen)
			}
		})
	}
	wg.Go(func() {
		if err := names(ctx, l); err != nil {
			wrong[len(list)] = err.Error()
		}
	})
	wg.Wait()
	wrong = slices.DeleteFunc(wrong, func(s string) bool { return s == "" })
	if len(wrong) > 0 {
		return probed{}, errs.New(errs.Internal, "wrong end state: %s", strings.Join(wrong, "; "))
	}
	return probed{ok: len(list) + 1, total: len(list) + 1}, nil
}

// names asks the site's name server for a node's name and for its address.
func names(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	asks := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return l.VM("srv-supervision").DialContext(ctx, network, "10.0.10.10:53")
	}}
	const name, address = "srv-prod.projetpro.lab.", "10.0.10.20"
	if found, err := asks.LookupHost(ctx, name); err != nil || !slices.Equal(found, []string{address}) {
		return errs.New(errs.Internal, "the name server says that %s is %v (%v)", name, found, err)
	}
	if found, err := asks.LookupAddr(ctx, address); err != nil || !slices.Equal(found, []string{name}) {
		return errs.New(errs.Internal, "the name server says that %s is %v (%v)", address, found, err)
	}
	return nil
}

// opens reports whether a way is open: a connection or a refusal, not silence. seen is what the kernel said.
func opens(ctx context.Context, l *lab.Lab, w way) (open bool, seen error) {
	ctx, cancel := context.WithTimeout(ctx, 1200*time.Millisecond)
	defer cancel()
	dial := l.VM(w.from).DialContext
	if w.from == demo.Operator {
		dial = l.Namespace(w.from).DialContext
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort(w.to, strconv.Itoa(int(w.port))))
	if err == nil {
		return true, conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED), err
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return errs.Wrap("copy "+from, err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return errs.Wrap("copy "+from, err)
	}
	return errs.Wrap("copy "+from, os.WriteFile(to, data, 0o600))
}
