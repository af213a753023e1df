package sitetest

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
)

// edits are those that leave machines and addresses alone.
func edits() []func(*editor) {
	return []func(*editor){
		(*editor).addFlow, (*editor).addFlow, (*editor).addFlow, (*editor).removeFlow, (*editor).removeFlow,
		(*editor).turnFlow, (*editor).changePorts, (*editor).changePorts, (*editor).changeSide, (*editor).shuffleFlows,
		(*editor).renameFlow, (*editor).widenBastion, (*editor).renameNetwork, (*editor).swapRoles, (*editor).changeRole,
		(*editor).moveSSH, (*editor).moveSSH, (*editor).limitSSH, (*editor).dropUsers, (*editor).addAccount,
		(*editor).removeAccount, (*editor).changeKeys, (*editor).changeSudo, (*editor).moveDNS, (*editor).dropSection,
		(*editor).moveSection, (*editor).changeAliases, (*editor).changeTime, (*editor).changeRollout,
	}
}

func (e *editor) names() []string {
	f := e.file
	out := []string{"internet", "all", "instances", "router", "relay", "services", "supervision", "prod", "preprod"}
	for _, n := range f.Networks {
		out = append(out, n.Key)
	}
	out = append(out, e.nodes()...)
	for _, h := range f.Hosts {
		out = append(out, h.Key)
	}
	for _, s := range f.Stacks {
		out = append(out, "stack:"+s.Key)
	}
	return out
}

func (e *editor) nodes() []string {
	var out []string
	for _, n := range e.file.Nodes {
		out = append(out, n.Key)
	}
	return out
}

// port draws a port, often one that matters to somebody.
func (e *editor) port() sitefile.PortSpec {
	proto := pick(e, []string{"tcp", "tcp", "udp"})
	switch e.IntN(4) {
	case 0:
		return sitefile.PortSpec{SSH: true}
	case 1:
		p := pick(e, []uint16{22, 53, 80, 123, 202, 443, 7443, 7444, 9100, 9323, 65535, 1})
		return sitefile.PortSpec{Proto: proto, First: p, Last: p}
	case 2:
		first := uint16(1 + e.IntN(65000))
		return sitefile.PortSpec{Proto: proto, First: first, Last: first + uint16(e.IntN(500))}
	}
	p := uint16(1 + e.IntN(65535))
	return sitefile.PortSpec{Proto: proto, First: p, Last: p}
}

func (e *editor) addFlow() {
	f := sitefile.Flow{
		Name: fmt.Sprintf("flow-%d", e.IntN(100000)), From: pick(e, e.names()), To: pick(e, e.names()),
		Ports: []sitefile.PortSpec{e.port()},
	}
	for range e.IntN(3) {
		f.Ports = append(f.Ports, e.port())
	}
	e.file.Flows = slices.Insert(e.file.Flows, e.IntN(len(e.file.Flows)+1), f)
}

func (e *editor) flow() *sitefile.Flow {
	if len(e.file.Flows) == 0 {
		return &sitefile.Flow{}
	}
	return &e.file.Flows[e.IntN(len(e.file.Flows))]
}

func (e *editor) removeFlow() {
	if n := len(e.file.Flows); n > 0 {
		i := e.IntN(n)
		e.file.Flows = slices.Delete(e.file.Flows, i, i+1)
	}
}

func (e *editor) turnFlow() { f := e.flow(); f.From, f.To = f.To, f.From }

func (e *editor) changePorts() {
	f := e.flow()
	if len(f.Ports) == 0 {
		return
	}
	f.Ports[e.IntN(len(f.Ports))] = e.port()
	if e.chance(3) {
		f.Ports = append(f.Ports, e.port())
	}
}

func (e *editor) changeSide() {
	f := e.flow()
	if e.chance(2) {
		f.From = pick(e, e.names())
	} else {
		f.To = pick(e, e.names())
	}
}

func (e *editor) shuffleFlows() {
	for i := range e.file.Flows {
		j := e.IntN(i + 1)
		e.file.Flows[i], e.file.Flows[j] = e.file.Flows[j], e.file.Flows[i]
	}
}

func (e *editor) renameFlow() { e.flow().Name = fmt.Sprintf("renamed-%d", e.IntN(100000)) }

// widenBastion says the same as the flow of the relay, in other words or for more people.
func (e *editor) widenBastion() {
	e.file.Flows = append(e.file.Flows, sitefile.Flow{
		Name: fmt.Sprintf("ssh-%d", e.IntN(100000)), From: pick(e, []string{"relay", "all", "lan"}), To: "all",
		Ports: []sitefile.PortSpec{{SSH: true}},
	})
	if e.chance(2) {
		e.file.Flows = slices.DeleteFunc(e.file.Flows, func(f sitefile.Flow) bool { return f.Name == "bastion" })
	}
}

// renameNetwork renames a network wherever the site names it.
func (e *editor) renameNetwork() {
	f := e.file
	if len(f.Networks) == 0 {
		return
	}
	n := &f.Networks[e.IntN(len(f.Networks))]
	old, now := n.Key, fmt.Sprintf("net-%d", e.IntN(1000))
	n.Key = now
	swap := func(s *string) {
		if *s == old {
			*s = now
		}
	}
	for i := range f.Flows {
		swap(&f.Flows[i].From)
		swap(&f.Flows[i].To)
	}
	for i := range f.Nodes {
		for j := range f.Nodes[i].Value.Interfaces {
			swap(&f.Nodes[i].Value.Interfaces[j].Value.Network)
		}
	}
	if f.Proxy != nil {
		for i := range f.Proxy.Hosts {
			for j := range f.Proxy.Hosts[i].Value.Allow {
				swap(&f.Proxy.Hosts[i].Value.Allow[j])
			}
		}
	}
}

func (e *editor) swapRoles() {
	n := e.file.Nodes
	a, b := &n[e.IntN(len(n))], &n[e.IntN(len(n))]
	a.Value.Role, b.Value.Role = b.Value.Role, a.Value.Role
	a.Value.Platform, b.Value.Platform = "", ""
}

func (e *editor) changeRole() {
	n := &e.file.Nodes[e.IntN(len(e.file.Nodes))]
	if n.Value.Role != "router" && n.Value.Role != "relay" {
		n.Value.Role = pick(e, []string{"services", "supervision", "prod", "preprod"})
	}
}

func (e *editor) moveSSH() {
	e.file.SSH.Port = pick(e, []sitefile.Port{22, 202, 2222, 1, 65535, sitefile.Port(1 + e.IntN(65535))})
}

func (e *editor) limitSSH() {
	e.file.SSH.MaxAuthTries = uint32(2 + e.IntN(9))
	e.file.SSH.MaxSessions = uint32(1 + e.IntN(100))
	e.file.SSH.ClientAliveInterval = sitefile.Duration(time.Duration(5+e.IntN(3000)) * time.Second)
}

// dropUsers leaves one of ssh.users.
func (e *editor) dropUsers() {
	if len(e.file.SSH.Users) > 0 {
		e.file.SSH.Users = []string{pick(e, e.file.SSH.Users)}
	}
}

func (e *editor) key() sitefile.SSHKey {
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(e.IntN(256))
	}
	public, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed).Public())
	if err != nil {
		return ""
	}
	return sitefile.SSHKey(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))))
}

func (e *editor) addAccount() {
	name := fmt.Sprintf("person%d", e.IntN(1000))
	e.file.Accounts = append(e.file.Accounts, yamltree.Pair[sitefile.Account]{Key: name, Value: sitefile.Account{
		Name: "A Person", Sudo: e.chance(2), SSHKeys: []sitefile.SSHKey{e.key()},
	}})
	if e.chance(2) {
		e.file.SSH.Users = append(e.file.SSH.Users, name)
	}
}

func (e *editor) account() *yamltree.Pair[sitefile.Account] {
	if len(e.file.Accounts) == 0 {
		return &yamltree.Pair[sitefile.Account]{}
	}
	return &e.file.Accounts[e.IntN(len(e.file.Accounts))]
}

func (e *editor) removeAccount() {
	name := e.account().Key
	e.file.Accounts = slices.DeleteFunc(e.file.Accounts, func(p yamltree.Pair[sitefile.Account]) bool { return p.Key == name })
	e.file.SSH.Users = slices.DeleteFunc(e.file.SSH.Users, func(u string) bool { return u == name })
}

func (e *editor) changeKeys() {
	a := &e.account().Value
	if e.chance(3) {
		a.SSHKeys = nil
	}
	a.SSHKeys = append(a.SSHKeys, e.key())
}

func (e *editor) changeSudo() { a := &e.account().Value; a.Sudo = !a.Sudo }

func (e *editor) moveDNS() {
	if e.file.DNS != nil {
		e.file.DNS.Primary = pick(e, e.nodes())
		if e.chance(2) {
			e.file.DNS.Secondary = pick(e, e.nodes())
		}
	}
}

func (e *editor) dropSection() {
	f := e.file
	switch e.IntN(8) {
	case 0:
		f.VPN = nil
	case 1:
		f.DNS = nil
	case 2:
		f.Stacks = nil
	case 3:
		f.Proxy = nil
	case 4:
		f.Monitoring = nil
	case 5:
		f.Dolibarr = nil
	case 6:
		f.Backup = nil
	case 7:
		f.NTP = nil
	}
}

func (e *editor) moveSection() {
	f := e.file
	if f.Proxy != nil && e.chance(2) {
		f.Proxy.Node = pick(e, e.nodes())
	}
	if f.Monitoring != nil && e.chance(2) {
		f.Monitoring.Node = pick(e, e.nodes())
	}
}

func (e *editor) changeAliases() {
	if e.file.DNS != nil {
		e.file.DNS.Aliases = append(e.file.DNS.Aliases, yamltree.Pair[string]{
			Key: fmt.Sprintf("alias-%d", e.IntN(1000)), Value: pick(e, e.nodes()),
		})
	}
}

func (e *editor) changeTime() {
	e.file.Timezone = pick(e, []string{"Etc/UTC", "Europe/Paris", "Indian/Reunion", "America/Cayenne"})
	e.file.NTP = []sitefile.NTPServer{pick(e, []sitefile.NTPServer{"2.pool.ntp.org", "backup", "10.0.10.30", "192.0.2.9"})}
}

func (e *editor) changeRollout() {
	e.file.Rollout = &sitefile.Rollout{
		MaxUnavailable: uint32(1 + e.IntN(5)), Window: sitefile.Duration(time.Duration(5+e.IntN(60)) * time.Second),
	}
}
