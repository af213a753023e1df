package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// maxFormerBoots is how many boot ids are remembered per node.
const maxFormerBoots = 16

// maxSetAside is how many machines are remembered as set aside per node; further ones are refused all the same.
const maxSetAside = 20

// verdict says what to do with a machine that shows a node's key.
type verdict struct {
	// setAside is why the machine is a second one; empty when it is the node.
	setAside string
	// refuse is why it may not come in now, although it is not a second one.
	refuse string
	// alarm is what a person should know although it may come in.
	alarm string
	// other is the boot of a second machine that was taken for the node until now.
	other string
}

// judgeCounter decides by the count of issues that a machine shows: an older one is on a copied disk.
func judgeCounter(n *fleet.Node, counter uint64, restores int) verdict {
	switch {
	case counter < n.KnownCounter:
		return verdict{setAside: fmt.Sprintf("its join counter is %d and %d was seen already: a copied disk or an old snapshot",
			counter, n.KnownCounter)}
	case counter <= n.JoinCounter:
		return verdict{}
	case n.JumpEpoch < restores:
		return verdict{alarm: fmt.Sprintf("its join counter jumped from %d to %d, which is allowed once after a restore of the server",
			n.JoinCounter, counter)}
	default:
		return verdict{refuse: fmt.Sprintf("its join counter is %d, and this server has issued only %d: the server's state is older",
			counter, n.JoinCounter)}
	}
}

// judgeHello decides whether a machine that shows a node's key is the node. The incumbent wins: a newcomer is set aside.
func judgeHello(n *fleet.Node, h *v1.Hello, restores int) verdict {
	if !fleet.SameMachine(n.Fingerprint.M, h.GetFingerprint()) {
		return verdict{setAside: "another machine shows this node's key: a cloned disk"}
	}
	v := judgeCounter(n, h.GetJoinCounter(), restores)
	if v.setAside == "" && v.refuse == "" && h.GetBootId() != "" && h.GetBootId() != n.BootID &&
		slices.Contains(n.FormerBoots, h.GetBootId()) {
		// Boot ids never come back. The boot in between was another machine, with a disk and hardware ids like these.
		v.other = n.BootID
		v.alarm = "two machines with the same identity and hardware ids run at once"
	}
	return v
}

// admit decides on a session and writes what the hello says into the node's record.
func (s *Service) admit(ctx context.Context, c access.Caller, h *v1.Hello) (fleet.Node, error) {
	name := c.Identity.Name
	aside, err := s.cfg.Fleet.SetAsidesOf(ctx, name)
	if err != nil {
		return fleet.Node{}, err
	}
	for _, a := range aside {
		if h.GetBootId() != "" && a.BootID == h.GetBootId() {
			return fleet.Node{}, s.asideError(ctx, c, a)
		}
	}
	state, err := s.cfg.Fleet.ServerState(ctx)
	if err != nil {
		return fleet.Node{}, err
	}
	now := s.cfg.Clock.Now()
	var v verdict
	n, err := s.cfg.Fleet.UpdateNode(ctx, name, func(n *fleet.Node) error {
		if n.KeyHash != c.KeyHash || n.IsRevoked() {
			return errs.New(errs.Precondition, "the identity was changed meanwhile")
		}
		if v = judgeHello(n, h, state.Restores); v.setAside != "" || v.refuse != "" {
			return errUnchanged
		}
		apply(n, h, v, state.Restores)
		if n.Probe { // it manages nothing, and has no state to compare
			state.Restore.Heard(n, nil)
		}
		n.Address, n.LastSeen = c.Address, now
		return nil
	})
	switch {
	case v.setAside != "":
		a := setAsideOf(name, h.GetFingerprint(), "", c.Address, v.setAside)
		a.Counter = h.GetJoinCounter()
		return fleet.Node{}, s.asideError(ctx, c, a)
	case v.refuse != "":
		s.refuse(ctx, c, access.ReasonUnknown, "%s", v.refuse)
		return fleet.Node{}, errs.New(errs.Precondition, "%s", v.refuse).At("node "+name).
			WithHint("restore a newer backup of the server; or: infractl node approve %s", name)
	case err != nil:
		return fleet.Node{}, err
	}
	if v.other != "" {
		other := setAsideOf(name, nil, v.other, "", v.alarm)
		if err := s.cfg.Fleet.AddSetAside(ctx, other, now, maxSetAside); err != nil {
			return fleet.Node{}, err
		}
	}
	if v.alarm != "" {
		s.refuse(ctx, c, access.ReasonClone, "%s", v.alarm)
	}
	return n, nil
}

func apply(n *fleet.Node, h *v1.Hello, v verdict, restores int) {
	n.KnownCounter, n.Recovering = max(n.KnownCounter, h.GetJoinCounter()), false
	if h.GetJoinCounter() > n.JoinCounter {
		n.JoinCounter, n.JumpEpoch = h.GetJoinCounter(), restores
	}
	if n.BootID != h.GetBootId() {
		former := slices.DeleteFunc(n.FormerBoots, func(b string) bool { return b == h.GetBootId() })
		if n.BootID != "" {
			former = slices.Insert(former, 0, n.BootID)
		}
		n.BootID, n.FormerBoots = h.GetBootId(), former[:min(len(former), maxFormerBoots)]
	}
	n.Probe, n.AgentVersion, n.WitnessKey = h.GetProbe(), h.GetAgentVersion(), h.GetWitnessKey()
	n.Fingerprint.M = fleet.MergeFingerprint(n.Fingerprint.M, h.GetFingerprint())
	if v.alarm != "" {
		n.Alarm = v.alarm
	}
}

// asideError remembers a machine as set aside and is the answer to it. It is never one that an agent could take for a
// revocation.
func (s *Service) asideError(ctx context.Context, c access.Caller, a fleet.SetAside) error {
	if err := s.cfg.Fleet.AddSetAside(ctx, a, s.cfg.Clock.Now(), maxSetAside); err != nil {
		return err
	}
	s.refuse(ctx, c, access.ReasonClone, "%s; set aside as %s", a.Reason, a.ID)
	return asideAnswer(a)
}

func asideAnswer(a fleet.SetAside) error {
	return errs.New(errs.Precondition, "this machine is set aside: %s", a.Reason).At("node "+a.Node).
		WithHint("if it is the right machine: infractl node approve %s; if it is a copy, wipe it and enrol it with a token of its own",
			a.ID)
}

// setAsideOf describes a machine by its fingerprint or, where that is no different from the node's, by its boot.
func setAsideOf(node string, fp *v1.HostFingerprint, boot, address, reason string) fleet.SetAside {
	key := strings.Join(append([]string{node, boot, fp.GetMachineId(), fp.GetProductSerial()}, fp.GetMacAddresses()...), "\x00")
	sum := sha256.Sum256([]byte(key))
	a := fleet.SetAside{ID: "aside-" + hex.EncodeToString(sum[:6]), Node: node, BootID: boot, Address: address, Reason: reason}
	a.Fingerprint.M = fp
	return a
}

// auditEntry returns an entry for what a caller did or was refused.
func auditEntry(c access.Caller, action, node, result, message string) store.AuditEntry {
	return store.AuditEntry{Actor: c.Actor, Source: c.Address, Action: action, Target: node, Node: node, Result: result,
		Message: message}
}
