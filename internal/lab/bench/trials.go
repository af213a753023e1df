package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// commitsDir is where an agent keeps the records of its commits.
const commitsDir = "var/lib/infractl/commits"

// errNotStruck says that a victim's turn never came: there was nothing to strike, and the trial was not made.
var errNotStruck = errs.New(errs.Timeout, "no commit was struck while it was armed")

// trial is one lock-out on one VM.
type trial struct {
	vm *lab.VM
	// armed is when the commit was seen armed: the lock-out begins no earlier.
	armed time.Time
	// commit is its id.
	commit string
	// locked says that a login really failed in between.
	locked bool
	// healed is the time from armed, or from the end of a boot, until a login worked and the commit was over.
	healed time.Duration
	err    error
}

// waitArmed waits for a commit that is armed at a stage (0: any) on a VM that has not seen it before.
func (t *trial) waitArmed(ctx context.Context, before map[string]bool, stage int, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		files, err := filepath.Glob(filepath.Join(t.vm.Root(), commitsDir, "*", "armed.json"))
		if err != nil {
			return errs.Wrap("look for a commit", err)
		}
		for _, f := range files {
			id := filepath.Base(filepath.Dir(f))
			if !before[id] && hasStage(f, stage) {
				t.commit, t.armed = id, time.Now()
				return nil
			}
		}
		time.Sleep(3 * time.Millisecond)
	}
	return errNotStruck
}

func hasStage(file string, stage int) bool {
	if stage == 0 {
		return true
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	var rec struct {
		Stage int `json:"stage"`
	}
	return json.Unmarshal(data, &rec) == nil && rec.Stage == stage
}

// commits lists the commits that a VM has records of.
func commits(vm *lab.VM) map[string]bool {
	seen := map[string]bool{}
	dirs, err := filepath.Glob(filepath.Join(vm.Root(), commitsDir, "*"))
	if err != nil {
		return seen
	}
	for _, d := range dirs {
		seen[filepath.Base(d)] = true
	}
	return seen
}

// over reports whether the commit is neither armed nor reverting.
func (t *trial) over() bool {
	for _, state := range []string{"armed", "reverting"} {
		if _, err := os.Stat(filepath.Join(t.vm.Root(), commitsDir, t.commit, state+".json")); err == nil {
			return false
		}
	}
	return true
}

// waitHealed polls real logins until one works and the commit is over, from begin on.
func (t *trial) waitHealed(ctx context.Context, p *people, begin time.Time, limit time.Duration) {
	deadline := begin.Add(limit)
	for ctx.Err() == nil {
		err := p.login(ctx, t.vm.Name())
		if err != nil {
			t.locked = true
		}
		if err == nil && t.over() {
			t.healed = time.Since(begin)
			return
		}
		if time.Now().After(deadline) {
			t.err = errs.New(errs.Timeout, "not healed after %s: over=%v login=%v", limit, t.over(), err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.err = ctx.Err()
}

// people log in as the operator does, from the relay.
type people struct {
	site      *demo.Site
	signer    ssh.Signer
	addresses map[string]string
}

func newPeople(s *demo.Site, addresses map[string]string) (*people, error) {
	data, err := os.ReadFile(s.SSHKey())
	if err != nil {
		return nil, errs.Wrap("read the operator's key", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, errs.Wrap("read the operator's key", err)
	}
	return &people{site: s, signer: signer, addresses: addresses}, nil
}

// login makes one real login to a node from the relay. To the relay itself it comes from the operator's side, and goes on from there.
func (p *people) login(ctx context.Context, node string) error {
	dial := p.site.Lab.VM(demo.Relay).DialContext
	if node == demo.Relay {
		if err := p.login(ctx, demo.Prod); err != nil {
			return err
		}
		dial = p.site.Lab.Namespace(demo.Operator).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := dial(ctx, "tcp", net.JoinHostPort(p.addresses[node], strconv.Itoa(202)))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, node, &ssh.ClientConfig{User: "operator", Auth: []ssh.AuthMethod{ssh.PublicKeys(p.signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey()}) // the lab's own VM; that it is the right one is not what is measured
	if err != nil {
		return err
	}
	client := ssh.NewClient(c, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	return session.Run("true")
}

// edit is a harmless change of the whole site that touches firewall, sshd and accounts of every node; each number makes
// another one.
func edit(content string, n int) string {
	content = strings.Replace(content, "max_auth_tries: 4", "max_auth_tries: "+strconv.Itoa(3+n%3), 1)
	content = strings.Replace(content, "flows:\n", fmt.Sprintf("flows:\n  - {name: trial, from: srv-supervision, to: all, ports: [%d/tcp]}\n", 20000+n), 1)
	if n%2 == 1 {
		content = strings.Replace(content, "{name: Developer, sudo: true,", "{name: Developer, sudo: false,", 1)
	}
	return content
}

// fleetSite adds prod VMs to the example site, so that many trials run at once.
func fleetSite(content string, prods int) (text string, addresses map[string]string) {
	addresses = map[string]string{demo.Router: "10.0.10.1", demo.Relay: "10.0.10.4", "srv-dhcp-dns": "10.0.10.10", "srv-supervision": "10.0.10.11",
		demo.Prod: "10.0.10.20", demo.Preprod: "10.0.10.21"}
	var more strings.Builder
	for i := 2; i <= prods; i++ {
		name, address := fmt.Sprintf("srv-prod-%d", i), fmt.Sprintf("10.0.10.%d", 40+i)
		addresses[name] = address
		fmt.Fprintf(&more, "  %s: {role: prod, address: %s}\n", name, address)
	}
	const last = "  srv-pre-prod:"
	return strings.Replace(content, last, more.String()+last, 1), addresses
}
