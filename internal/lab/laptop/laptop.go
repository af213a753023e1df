// Package laptop is a person's machine in the lab, somewhere in the internet: it comes in through the tunnel with the text that
// "infractl vpn peer add" prints.
package laptop

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// Laptop is a network namespace in a VM, on the VM's own wire.
type Laptop struct {
	vm   *lab.VM
	name string
	dns  []string
}

const (
	device  = "wglaptop"            // its side of the tunnel
	unit    = "laptop-tunnel"       // runs wireguard-go
	keyFile = "/run/laptop-ssh-key" // its owner's key
)

// New makes the namespace in vm, with an address beside that of the VM's card and the gateway that leads on.
func New(ctx context.Context, vm *lab.VM, card, address string) (*Laptop, error) {
	l := &Laptop{vm: vm, name: "laptop"}
	for _, argv := range [][]string{
		{"ip", "netns", "add", l.name},
		{"ip", "link", "add", "lap0", "link", card, "type", "macvlan", "mode", "bridge"},
		{"ip", "link", "set", "lap0", "netns", l.name},
		{"ip", "-n", l.name, "address", "add", address, "dev", "lap0"},
		{"ip", "-n", l.name, "link", "set", "lo", "up"},
		{"ip", "-n", l.name, "link", "set", "lap0", "up"},
	} {
		if _, err := vm.Must(ctx, argv...); err != nil {
			return nil, errs.Wrap("make the laptop", err)
		}
	}
	return l, nil
}

// Exec runs a command on the laptop.
func (l *Laptop) Exec(ctx context.Context, argv ...string) (lab.Result, error) {
	return l.vm.Exec(ctx, append([]string{"ip", "netns", "exec", l.name}, argv...)...)
}

// clientConf is a configuration as "infractl vpn peer add" prints it, taken apart: what wg understands, and what the system does.
type clientConf struct {
	wg                       string
	addresses, dns, prefixes []string
}

func parseConf(text string) (clientConf, error) {
	var c clientConf
	list := func(value string) []string {
		return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
	}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "Address":
			c.addresses = append(c.addresses, list(value)...)
			continue
		case "DNS":
			c.dns = append(c.dns, list(value)...)
			continue
		case "MTU":
			continue
		case "AllowedIPs":
			c.prefixes = append(c.prefixes, list(value)...)
		}
		c.wg += line
	}
	if len(c.addresses) == 0 || len(c.prefixes) == 0 || !strings.Contains(c.wg, "PrivateKey") {
		return c, errs.New(errs.Invalid, "the configuration has no address, no peer or no key")
	}
	return c, nil
}

// Connect brings the tunnel up from a configuration's text, with wireguard-go.
func (l *Laptop) Connect(ctx context.Context, text string) error {
	conf, err := parseConf(text)
	if err != nil {
		return err
	}
	l.dns = conf.dns
	const file = "/etc/wireguard/laptop.conf"
	if err := l.vm.WriteFile(ctx, file, 0o600, []byte(conf.wg)); err != nil {
		return errs.Wrap("bring the tunnel up", err)
	}
	if _, err := l.vm.Must(ctx, "systemd-run", "--quiet", "--collect", "--unit="+unit,
		"ip", "netns", "exec", l.name, "wireguard-go", "-f", device); err != nil {
		return errs.Wrap("bring the tunnel up", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if r, err := l.Exec(ctx, "wg", "setconf", device, file); err == nil && r.Code == 0 {
			break
		} else if time.Now().After(deadline) {
			return errs.New(errs.Timeout, "wireguard-go does not come up: %v %s", err, r.Stderr)
		}
	}
	var argvs [][]string
	for _, a := range conf.addresses {
		argvs = append(argvs, []string{"address", "add", a, "dev", device})
	}
	argvs = append(argvs, []string{"link", "set", "dev", device, "up"})
	for _, p := range conf.prefixes {
		argvs = append(argvs, []string{"route", "replace", p, "dev", device})
	}
	for _, argv := range argvs {
		if _, err := l.vm.Must(ctx, append([]string{"ip", "-n", l.name}, argv...)...); err != nil {
			return errs.Wrap("bring the tunnel up", err)
		}
	}
	return nil
}

// Dig asks the name server that the configuration names, and returns what it answers: an address, a name, or nothing.
func (l *Laptop) Dig(ctx context.Context, question ...string) (string, error) {
	if len(l.dns) == 0 {
		return "", errs.New(errs.Precondition, "the configuration names no name server")
	}
	r, err := l.Exec(ctx, append([]string{"dig", "+short", "+time=2", "+tries=2", "@" + l.dns[0]}, question...)...)
	return strings.TrimSpace(r.Stdout), err
}

// Ping reports whether an address answers.
func (l *Laptop) Ping(ctx context.Context, address string) (bool, error) {
	r, err := l.Exec(ctx, "ping", "-c", "1", "-W", "2", address)
	return r.Code == 0, err
}

// Open reports whether a TCP port answers.
func (l *Laptop) Open(ctx context.Context, address string, port int) (bool, error) {
	r, err := l.Exec(ctx, "nc", "-z", "-w", "1", address, fmt.Sprint(port))
	return r.Code == 0, err
}

// Login logs in by SSH with a private key, runs a command and returns what it prints; the error says why that did not work.
func (l *Laptop) Login(ctx context.Context, key []byte, user, address string, port int, command string) (string, error) {
	if err := l.vm.WriteFile(ctx, keyFile, 0o600, key); err != nil {
		return "", errs.Wrap("log in from the laptop", err)
	}
	r, err := l.Exec(ctx, "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "ConnectTimeout=5", "-i", keyFile, "-p", fmt.Sprint(port), user+"@"+address, command)
	if err == nil {
		err = r.OK("ssh", address)
	}
	return strings.TrimSpace(r.Stdout), errs.Wrap("log in from the laptop", err)
}
