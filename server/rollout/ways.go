package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

// operatorName stands for the operator in lists of those that are waited for.
const operatorName = "operator"

// lookup reads what is known of nodes, each once.
type lookup struct {
	fleet Fleet
	seen  map[string]*fleet.Node
}

func newLookup(f Fleet) *lookup { return &lookup{fleet: f, seen: map[string]*fleet.Node{}} }

// node returns what is known of a node, nil when it has no identity (or none any more).
func (l *lookup) node(ctx context.Context, name string) (*fleet.Node, error) {
	if n, ok := l.seen[name]; ok {
		return n, nil
	}
	n, err := l.fleet.Node(ctx, name)
	switch {
	case errs.Is(err, errs.NotFound):
		l.seen[name] = nil
		return nil, nil
	case err != nil:
		return nil, errs.Wrap("read node "+name, err)
	case n.IsRevoked():
		l.seen[name] = nil
		return nil, nil
	}
	l.seen[name] = &n
	return &n, nil
}

// casting is the choice of witnesses for one commit.
type casting struct {
	needs []need
	// atRest are the nodes that must not change meanwhile.
	atRest []string
	// missing say what has to come first, in words, or name the operator; busy are those that are in a commit of their own.
	missing, busy []string
}

// caster chooses witnesses.
type caster struct {
	view      *View
	look      *lookup
	live      func(string) (string, bool) // session id
	rest      func(string) bool
	operator  func() bool
	atConsole string
}

// cast chooses the witnesses for a commit of a node: for each proof the best way whose witness has a session and is at
// rest. Where nobody can be the witness the operator is, and at the operator's own console nobody need be.
func (c *caster) cast(ctx context.Context, node string, pass v1.Pass) (*casting, error) {
	out := &casting{}
	console := node == c.atConsole
	for _, w := range c.view.Nodes[node].Witnesses {
		if console && isLogin(w.Kind) {
			continue
		}
		ways, err := c.existing(ctx, node, w)
		if err != nil {
			return nil, err
		}
		if len(ways) == 0 {
			if !console {
				if err := c.castOperator(ctx, out, node, w, pass); err != nil {
					return nil, err
				}
			}
			continue
		}
		if err := c.castWay(ctx, out, node, w, ways, pass); err != nil {
			return nil, err
		}
	}
	for i := range out.needs {
		out.needs[i].ID = fmt.Sprintf("w%d", i+1)
	}
	slices.Sort(out.atRest)
	out.atRest = slices.Compact(out.atRest)
	return out, nil
}

// existing returns the ways whose ends have identities.
func (c *caster) existing(ctx context.Context, node string, w site.Witness) ([]site.Way, error) {
	var out []site.Way
	for _, way := range w.Alternatives {
		from, err := c.look.node(ctx, way.From)
		if err != nil {
			return nil, err
		}
		if from == nil {
			continue
		}
		if isLogin(w.Kind) && way.To != node {
			if to, err := c.look.node(ctx, way.To); err != nil {
				return nil, err
			} else if to == nil {
				continue
			}
		}
		out = append(out, way)
	}
	return out, nil
}

func (c *caster) castWay(ctx context.Context, out *casting, node string, w site.Witness, ways []site.Way, pass v1.Pass) error {
	var missing []string
	busy := ""
	for _, way := range ways {
		obstacle, err := c.obstacle(ctx, node, w, way)
		if err != nil {
			return err
		}
		sessionID, live := c.live(way.From)
		switch {
		case !live:
			missing = append(missing, "its witness "+way.From+", which is offline")
			continue
		case obstacle != "":
			missing = append(missing, obstacle)
			continue
		case !c.rest(way.From), way.To != node && !c.rest(way.To):
			busy = way.From
			continue
		}
		n, err := c.need(ctx, node, w, way, pass)
		if err != nil {
			return err
		}
		n.Session = sessionID
		out.needs = append(out.needs, n)
		for _, name := range []string{way.From, way.To} {
			if name != node && name != "" {
				out.atRest = append(out.atRest, name)
			}
		}
		return nil
	}
	if busy != "" {
		out.busy = append(out.busy, busy)
		return nil
	}
	out.missing = append(out.missing, strings.Join(slices.Compact(missing), " or "))
	return nil
}

// obstacle says why a login cannot work yet, "" when it can: the target must have told its host keys and know the witness's
// key. On the node that commits, the pass itself brings that key; another one has it only when it has kept something.
func (c *caster) obstacle(ctx context.Context, node string, w site.Witness, way site.Way) (string, error) {
	if !isLogin(w.Kind) {
		return "", nil
	}
	target, ok := c.view.Nodes[way.To]
	if !ok {
		return way.To + ", which is no node of the site", nil
	}
	to, err := c.look.node(ctx, way.To)
	if err != nil {
		return "", err
	}
	switch {
	case to == nil:
		return way.To + " to enrol", nil
	case way.To != node && !everKept(to):
		return way.To + " to keep its first change", nil
	case len(to.Facts.M.GetSshHostKeys()) == 0:
		return "the host keys of " + way.To, nil
	case target.Spec.GetAccounts() == nil, loginUser(target.Spec) == "":
		return "", nil // a look at the banner is all that is possible
	case !slices.ContainsFunc(target.Spec.GetAccounts().GetWitnessKeys(), func(k *v1.WitnessKey) bool { return k.GetNode() == way.From }):
		return "the witness key of " + way.From, nil
	}
	return "", nil
}

// everKept reports whether a node has kept a commit, of whatever revision.
func everKept(n *fleet.Node) bool {
	return n.State.M.GetWidenedDigest() != "" || n.State.M.GetNarrowedDigest() != ""
}

func isLogin(k v1.ProbeKind) bool { return k == v1.ProbeKind_PROBE_KIND_SSH_LOGIN }

func (c *caster) castOperator(ctx context.Context, out *casting, node string, w site.Witness, pass v1.Pass) error {
	if !c.operator() {
		if !slices.Contains(out.missing, operatorName) {
			out.missing = append(out.missing, operatorName)
		}
		return nil
	}
	// One look of each kind is all that a person can add.
	if slices.ContainsFunc(out.needs, func(n need) bool { return n.From == "" && n.Kind == w.Kind }) {
		return nil
	}
	n, err := c.need(ctx, node, w, site.Way{To: node}, pass)
	if err != nil {
		return err
	}
	out.needs = append(out.needs, n)
	return nil
}

// need describes one way so that it can be probed.
func (c *caster) need(ctx context.Context, node string, w site.Witness, way site.Way, pass v1.Pass) (need, error) {
	n := need{Reason: w.Reason, Kind: w.Kind, From: way.From, To: way.To}
	if way.Address.IsValid() {
		n.Address = way.Address.String()
	}
	if !isLogin(w.Kind) {
		switch {
		case way.Port != 0:
			n.Ports = []uint32{uint32(way.Port)}
		case way.From == "" && c.view.Server.IsValid(): // the operator's own way to the server
			n.Address, n.Ports = c.view.Server.Addr().String(), []uint32{uint32(c.view.Server.Port())}
		}
		return n, nil
	}
	target := c.view.Nodes[way.To]
	if n.Address == "" {
		n.Address = target.Address.String()
	}
	to, err := c.look.node(ctx, way.To)
	if err != nil {
		return n, err
	}
	var facts *v1.HostFacts
	if to != nil {
		facts = to.Facts.M
	}
	n.HostKeys = facts.GetSshHostKeys()
	n.Ports = sshPorts(facts.GetSshPorts(), target.Spec.GetSshd().GetPort(), pass, way.To == node && to != nil && everKept(to))
	if n.User = loginUser(target.Spec); n.User == "" {
		n.Kind = v1.ProbeKind_PROBE_KIND_SSH_BANNER // nobody of ours may log in there
	}
	return n, nil
}

// sshPorts returns the ports on which a login proves what the pass needs, the best first. Widening is proved on the old way,
// narrowing on the new one. On another node than the one that commits any port will do: what is proved is the way there.
//
// settled says that the login is to the committing node and that it has kept something before. A new node may listen on its
// template's port, which the relay's own firewall has long closed; a login on the new way, which the widening opens beside
// the old one, proves then that people get in.
func sshPorts(listening []uint32, wanted uint32, pass v1.Pass, settled bool) []uint32 {
	var old []uint32
	for _, p := range listening {
		if p != wanted {
			old = append(old, p)
		}
	}
	switch {
	case wanted == 0 && len(old) > 0:
		return old
	case wanted == 0:
		return []uint32{22}
	case pass == v1.Pass_PASS_NARROW && settled:
		return []uint32{wanted}
	case pass == v1.Pass_PASS_NARROW:
		return append([]uint32{wanted}, old...)
	case settled && len(old) > 0:
		return old
	}
	return append(old, wanted)
}

// loginUser is the first of ssh.users that has an account here.
func loginUser(spec *v1.HostSpec) string {
	for _, user := range spec.GetSshd().GetAllowUsers() {
		for _, a := range spec.GetAccounts().GetAccounts() {
			if a.GetName() == user && a.GetSshLogin() {
				return user
			}
		}
	}
	for _, a := range spec.GetAccounts().GetAccounts() {
		if a.GetSshLogin() {
			return a.GetName()
		}
	}
	return ""
}

// probe is the probe for a need at a given try; tries go round its ports.
func (n *need) probe(try int, timeout *durationpb.Duration) *v1.Probe {
	p := &v1.Probe{Id: n.ID, Kind: n.Kind, Address: n.Address, User: n.User, HostKeys: n.HostKeys, Timeout: timeout}
	if len(n.Ports) > 0 {
		p.Port = n.Ports[try%len(n.Ports)]
	}
	return p
}
