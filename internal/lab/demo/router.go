package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/laptop"
)

const (
	services = "srv-dhcp-dns"
	// outsideAddress is where the world reaches the site, and laptopAddress a person's machine beside the VM that plays the world.
	outsideAddress = "192.168.8.30"
	laptopAddress  = "192.168.8.77/24"
	// Peer is the name of the machine that the demo lets in through the tunnel.
	Peer = "demo-laptop"
)

// routerShown says that the router is managed, and how.
func (s *Site) routerShown(ctx context.Context) (string, error) {
	var node struct {
		Name   string `json:"name"`
		Router struct {
			Platform string `json:"platform"`
			Key      string `json:"wireguard_public_key"`
		} `json:"router"`
	}
	for deadline := time.Now().Add(10 * time.Second); node.Router.Key == ""; time.Sleep(100 * time.Millisecond) {
		out, err := s.Must(ctx, "router", "show", "-o", "json")
		if err != nil {
			return "", err
		}
		if err := json.Unmarshal([]byte(out), &node); err != nil {
			return "", errs.New(errs.Internal, "router show does not parse: %w", err)
		}
		if time.Now().After(deadline) {
			return "", errs.New(errs.Timeout, "the router reports no key of its tunnel")
		}
	}
	if node.Router.Platform != "linux" {
		return "", errs.New(errs.Internal, "the router reports platform %q", node.Router.Platform)
	}
	return fmt.Sprintf("router: %s is managed, platform %s; the tunnel's key was made there", node.Name, node.Router.Platform), nil
}

// publishedShown proves what the internet reaches: a server of the demo listens on 80, 443 and one more port of the services VM.
func (s *Site) publishedShown(ctx context.Context) (string, error) {
	if err := s.serveGreetings(ctx, s.Lab.VM(services), "80", "443", "8080"); err != nil {
		return "", err
	}
	var doors []string
	for port := 1; port <= 1024; port++ {
		doors = append(doors, fmt.Sprint(outsideAddress, " ", port))
	}
	for _, port := range []int{3000, 7443, 7444, 8080, 9090, 9093, 9100, 9323, 9443} {
		doors = append(doors, fmt.Sprint(outsideAddress, " ", port))
	}
	// Its plain route to the inside makes the VM a neighbour that goes past the translation.
	for _, n := range s.inside() {
		for _, port := range []int{22, 202, 8080, 9100} {
			doors = append(doors, fmt.Sprint(n.address, " ", port))
		}
	}
	world := s.Lab.VM(Internet)
	open, err := knockAt(ctx, world, world, doors)
	if err != nil {
		return "", err
	}
	want := []string{outsideAddress + " 443 " + services, outsideAddress + " 80 " + services}
	if slices.Sort(open); !slices.Equal(open, want) {
		return "", errs.New(errs.Internal, "from the internet these answer: %q, and not %q", open, want)
	}
	return fmt.Sprintf("internet: 80 and 443 reach %s, and none of %d other ports opens", services, len(doors)-len(want)), nil
}

// insideNode is a node and its address as the lab gave it: infractl is not asked.
type insideNode struct{ name, address string }

func (s *Site) inside() []insideNode {
	var list []insideNode
	for _, vm := range s.Lab.Config().VMs {
		for _, card := range vm.Interfaces {
			if card.Network == "lan" {
				list = append(list, insideNode{vm.Name, card.Addresses[0].Addr().String()})
			}
		}
	}
	return list
}

// namesShown asks for each node's address and name, on the relay and with the resolver that infractl gave it.
func (s *Site) namesShown(ctx context.Context) (string, error) {
	argv := []string{"dig", "+short", "+time=2", "+tries=2"}
	var want []string
	for _, n := range s.inside() {
		argv = append(argv, n.name+".projetpro.lab", "-x", n.address)
		want = append(want, n.address, n.name+".projetpro.lab.")
	}
	out, err := s.Lab.VM(Relay).Must(ctx, argv...)
	if err != nil {
		return "", err
	}
	if got := strings.Fields(out); !slices.Equal(got, want) {
		return "", errs.New(errs.Internal, "the names are %q, and not %q", got, want)
	}
	return fmt.Sprintf("names: dig finds all %d nodes forward and back, asked on %s", len(want)/2, Relay), nil
}

var rolloutForm = regexp.MustCompile(`rollout (\S+) tells the router`)

// tunnelShown lets a machine in that "vpn peer add" made: a ping, a name and a login to the relay, and no other way in.
func (s *Site) tunnelShown(ctx context.Context) (string, error) {
	file := s.file("operator", Peer+".conf")
	r, err := s.Infractl(ctx, "vpn", "peer", "add", Peer, "-f", file)
	if err == nil {
		err = r.OK("infractl", "vpn", "peer", "add")
	}
	if err != nil {
		return "", err
	}
	id := rolloutForm.FindStringSubmatch(r.Stderr)
	if id == nil {
		return "", errs.New(errs.Internal, "vpn peer add names no rollout: %s", r.Stderr)
	}
	// A handshake before the router knows the peer would be repeated after five seconds only.
	if _, err := s.Must(ctx, "operation", "watch", id[1]); err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", errs.Wrap("read the configuration", err)
	}
	l, err := laptop.New(ctx, s.Lab.VM(Internet), "eth0", laptopAddress)
	if err != nil {
		return "", err
	}
	if err := l.Connect(ctx, string(text)); err != nil {
		return "", err
	}
	return "tunnel: " + Peer + ", made by \"vpn peer add\", pings the relay, asks for names and logs in there; nothing else opens", s.throughTunnel(ctx, l)
}

func (s *Site) throughTunnel(ctx context.Context, l *laptop.Laptop) error {
	relay := "10.0.10.4"
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if ok, err := l.Ping(ctx, relay); ok || err != nil {
			break
		}
		if time.Now().After(deadline) {
			return errs.New(errs.Timeout, "nothing comes through the tunnel")
		}
	}
	if got, err := l.Dig(ctx, Relay+".projetpro.lab"); err != nil || got != relay {
		return errs.New(errs.Internal, "through the tunnel %s is %q, %v", Relay, got, err)
	}
	key, err := os.ReadFile(s.SSHKey())
	if err != nil {
		return errs.Wrap("read the operator's key", err)
	}
	if got, err := l.Login(ctx, key, Operator, relay, 202, "hostname"); err != nil || got != Relay {
		return errs.New(errs.Internal, "the login to the relay says %q, %v", got, err)
	}
	var doors []string
	for _, n := range s.inside() {
		doors = append(doors, n.address+" 22", n.address+" 9100")
		if n.name != Relay {
			doors = append(doors, n.address+" 202")
		}
	}
	if open, err := knockAt(ctx, s.Lab.VM(Internet), l, doors); err != nil || len(open) > 0 {
		return errs.New(errs.Internal, "these are open to the tunnel: %q, %v", open, err)
	}
	return nil
}

// proofs are those of the network: each says what it saw in one line.
func (s *Site) proofs() []func(context.Context) (string, error) {
	return []func(context.Context) (string, error){s.routerShown, s.publishedShown, s.namesShown, s.tunnelShown}
}

func (s *Site) prove(ctx context.Context) error {
	for _, proof := range s.proofs() {
		begun := time.Now()
		line, err := proof(ctx)
		if err != nil {
			return err
		}
		s.Say("%s, %.1f s", line, time.Since(begun).Seconds())
	}
	return nil
}
