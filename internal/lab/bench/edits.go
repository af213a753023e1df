package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/site/sitetest"
)

// edits tries random valid-but-hostile edits: many in network namespaces with real iptables and real connections, and some
// of whole sites in the lab.
func edits(ctx context.Context, o Options, r *Report) error {
	namespaceEdits(ctx, o, r)
	return labEdits(ctx, o, r)
}

// namespaceEdits runs the firewall's own property test with more checks than usual, and its planted faults.
func namespaceEdits(ctx context.Context, o Options, r *Report) {
	run := func(test string, more ...string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-timeout", "8m", "./agent/provider/firewall", "-run", "^" + test + "$"}, more...)...)
		cmd.Dir = o.Root
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	held := o.Edits
	out, err := run("TestRandomEditsKeepExactlyTheFlowsOpen", fmt.Sprintf("-rapid.checks=%d", o.Edits))
	if err != nil {
		held = 0
		r.say("%s", tail(out, 2000))
	}
	r.All("random edits in namespaces: never out of reach", held, o.Edits, "real iptables, real TCP connections, both families")
	found := 2
	if out, err := run("TestPlantedFaultsAreFoundByRandomEdits"); err != nil {
		found = 0
		r.say("%s", tail(out, 2000))
	}
	r.All("planted faults caught by the same test", found, 2, "jump order swapped; established rule removed")
}

// labEdits applies random edits of the whole site to the lab and looks after each one whether every VM is still in reach.
func labEdits(ctx context.Context, o Options, r *Report) error {
	s, err := demo.Boot(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: filepath.Join(o.Dir, "edits"), Name: "edits", Out: o.Out,
		Overlay: "rollout: {window: 5s}\n"})
	if s != nil {
		defer s.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the lab's own report says what stayed
	}
	if err != nil {
		return err
	}
	if err := s.Apply(ctx); err != nil {
		return errs.Wrap("first apply", err)
	}
	content, err := os.ReadFile(s.File)
	if err != nil {
		return errs.Wrap("read the site file", err)
	}
	overlay, err := os.ReadFile(s.Overlay)
	if err != nil {
		return errs.Wrap("read the overlay", err)
	}
	seed, reached, applied := rand.Uint64N(1_000_000), 0, 0
	r.say("seed %d", seed)
	for n := range o.LabEdits {
		src := site.Source{File: s.File, Content: content, WithoutFiles: true, OverlayFile: s.Overlay, OverlayContent: overlay}
		mutant := sitetest.Mutate(sitetest.Seeded(seed+uint64(n)), src, sitetest.Options{KeepMachines: true})
		if err := s.WriteSite(string(mutant)); err != nil {
			return err
		}
		result, err := s.Infractl(ctx, "apply", "-f", s.File, "--overlay", s.Overlay, "--yes")
		if err != nil {
			return errs.Wrap("apply", err)
		}
		if result.Code == 0 {
			applied++
		}
		if err := inReach(ctx, s); err != nil {
			r.say("edit %d of seed %d: %v", n, seed, err)
			continue
		}
		reached++
	}
	r.All("random edits of the whole site in the lab: never a VM out of reach", reached, o.LabEdits,
		fmt.Sprintf("sshd of every VM greets the relay, every agent has its session; %d edits were kept by all nodes, the others were undone", applied))
	return nil
}

// inReach wants a session of every agent, and the greeting of every sshd, as the relay sees it, on a port that it listens on.
func inReach(ctx context.Context, s *demo.Site) error {
	if err := s.WaitOnline(ctx, 15*time.Second, demo.Nodes()...); err != nil {
		return err
	}
	addresses := map[string]string{demo.Router: "10.0.10.1", "srv-dhcp-dns": "10.0.10.10", "srv-supervision": "10.0.10.11",
		demo.Prod: "10.0.10.20", demo.Preprod: "10.0.10.21"}
	for node, address := range addresses {
		ports, err := sshPorts(ctx, s, node)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(ports, func(port int) bool { return greets(ctx, s, address, port) }) {
			return errs.New(errs.Internal, "no sshd of %s greets the relay on %v", node, ports)
		}
	}
	return nil
}

// sshPorts are the ports that sshd of a node says it uses.
func sshPorts(ctx context.Context, s *demo.Site, node string) ([]int, error) {
	out, err := s.Lab.VM(node).Must(ctx, "sh", "-c", "sshd -T | sed -n 's/^port //p'")
	if err != nil {
		return nil, errs.Wrap("ask sshd of "+node, err)
	}
	var ports []int
	for _, word := range strings.Fields(out) {
		if port, err := strconv.Atoi(word); err == nil {
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// greets reports whether an SSH server says hello to the relay.
func greets(ctx context.Context, s *demo.Site, address string, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := s.Lab.VM(demo.Relay).DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return false
	}
	hello := make([]byte, 4)
	n, err := conn.Read(hello)
	return err == nil && string(hello[:n]) == "SSH-"
}
