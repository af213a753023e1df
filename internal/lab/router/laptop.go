package router

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// Laptop is a machine of a person, somewhere in the internet: a network namespace in a VM, on the VM's own wire.
type Laptop struct {
	vm   *lab.VM
	name string
}

// LaptopDevice is the laptop's side of the tunnel.
const LaptopDevice = "wglaptop"

// NewLaptop makes the namespace in vm, with an address beside that of the VM's card and the gateway that leads on.
func NewLaptop(ctx context.Context, vm *lab.VM, card, address string) (*Laptop, error) {
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

// Connect brings the tunnel up from a configuration's text, with wireguard-go, and returns the name servers that it names.
func (l *Laptop) Connect(ctx context.Context, text string) (dns []string, err error) {
	conf, err := parseConf(text)
	if err != nil {
		return nil, err
	}
	const file = "/etc/wireguard/laptop.conf"
	if err := l.vm.WriteFile(ctx, file, 0o600, []byte(conf.wg)); err != nil {
		return nil, errs.Wrap("bring the tunnel up", err)
	}
	if _, err := l.vm.Must(ctx, "systemd-run", "--quiet", "--collect", "--unit=laptop-tunnel",
		"ip", "netns", "exec", l.name, "wireguard-go", "-f", LaptopDevice); err != nil {
		return nil, errs.Wrap("bring the tunnel up", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if r, err := l.Exec(ctx, "wg", "setconf", LaptopDevice, file); err == nil && r.Code == 0 {
			break
		} else if time.Now().After(deadline) {
			return nil, errs.New(errs.Timeout, "wireguard-go does not come up: %v %s", err, r.Stderr)
		}
	}
	var argvs [][]string
	for _, a := range conf.addresses {
		argvs = append(argvs, []string{"address", "add", a, "dev", LaptopDevice})
	}
	argvs = append(argvs, []string{"link", "set", "dev", LaptopDevice, "up"})
	for _, p := range conf.prefixes {
		argvs = append(argvs, []string{"route", "replace", p, "dev", LaptopDevice})
	}
	for _, argv := range argvs {
		if _, err := l.vm.Must(ctx, append([]string{"ip", "-n", l.name}, argv...)...); err != nil {
			return nil, errs.Wrap("bring the tunnel up", err)
		}
	}
	return conf.dns, nil
}

// Disconnect takes the tunnel down.
func (l *Laptop) Disconnect(ctx context.Context) error {
	_, err := l.vm.Must(ctx, "systemctl", "stop", "laptop-tunnel.service")
	return errs.Wrap("take the tunnel down", err)
}

// Ping reports whether an address answers.
func (l *Laptop) Ping(ctx context.Context, address string) (bool, error) {
	r, err := l.Exec(ctx, "ping", "-c", "1", "-W", "2", address)
	return r.Code == 0, err
}

// Open reports whether a TCP port answers.
func (l *Laptop) Open(ctx context.Context, address string, port int) (bool, error) {
	r, err := l.Exec(ctx, "nc", "-z", "-w", "2", address, fmt.Sprint(port))
	return r.Code == 0, err
}
