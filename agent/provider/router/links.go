package router

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// ourRoutes marks routes of ours in the kernel: those of everybody else are never touched. It is a number that iproute2 gives to
// no program.
const ourRoutes = "73"

// links is what the host has of interfaces, addresses and routes.
type links struct {
	addresses map[string][]netip.Prefix // by interface
	up        map[string]bool
	routes    []liveRoute
}

type liveRoute struct {
	prefix   netip.Prefix
	via, dev string
	ours     bool
}

func readLinks(ctx context.Context, h *host.Host) (links, error) {
	l := links{addresses: map[string][]netip.Prefix{}, up: map[string]bool{}}
	out, err := h.Run(ctx, "ip", "-json", "address", "show")
	if err != nil {
		return l, errs.Wrap("read the interfaces", err)
	}
	var cards []struct {
		Name      string   `json:"ifname"`
		Flags     []string `json:"flags"`
		Addresses []struct {
			Local  string `json:"local"`
			Length int    `json:"prefixlen"`
			Scope  string `json:"scope"`
		} `json:"addr_info"`
	}
	if err := decodeList(out.Stdout, &cards); err != nil {
		return l, errs.New(errs.Internal, "the list of interfaces is not understood: %w", err)
	}
	for _, c := range cards {
		l.addresses[c.Name] = nil
		l.up[c.Name] = slices.Contains(c.Flags, "UP")
		for _, a := range c.Addresses {
			if addr, err := netip.ParseAddr(a.Local); err == nil && a.Scope != "link" {
				l.addresses[c.Name] = append(l.addresses[c.Name], netip.PrefixFrom(addr, a.Length))
			}
		}
	}
	for _, family := range []string{"-4", "-6"} {
		if err := l.readRoutes(ctx, h, family); err != nil {
			return l, err
		}
	}
	return l, nil
}

func (l *links) readRoutes(ctx context.Context, h *host.Host, family string) error {
	out, err := h.Run(ctx, "ip", "-json", family, "route", "show")
	if err != nil {
		return errs.Wrap("read the routes", err)
	}
	var routes []struct {
		To       string `json:"dst"`
		Via      string `json:"gateway"`
		Dev      string `json:"dev"`
		Protocol string `json:"protocol"`
	}
	if err := decodeList(out.Stdout, &routes); err != nil {
		return errs.New(errs.Internal, "the list of routes is not understood: %w", err)
	}
	for _, r := range routes {
		prefix, ok := destination(r.To, family)
		if ok {
			l.routes = append(l.routes, liveRoute{prefix: prefix, via: r.Via, dev: r.Dev, ours: r.Protocol == ourRoutes})
		}
	}
	return nil
}

// decodeList decodes a list of which only some keys are known. ip prints nothing at all for an empty one.
func decodeList(data []byte, into any) error {
	if strings.TrimSpace(string(data)) == "" {
		return nil
	}
	return json.Unmarshal(data, into)
}

func destination(text, family string) (netip.Prefix, bool) {
	if text == "default" {
		text = "0.0.0.0/0"
		if family == "-6" {
			text = "::/0"
		}
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), true
	}
	a, err := netip.ParseAddr(text)
	return netip.PrefixFrom(a, a.BitLen()), err == nil
}

func (l links) exists(name string) bool {
	_, ok := l.addresses[name]
	return ok
}

// find returns the routes to a prefix.
func (l links) find(prefix string) []liveRoute {
	var list []liveRoute
	for _, r := range l.routes {
		if r.prefix.String() == prefix {
			list = append(list, r)
		}
	}
	return list
}

// staticRoutes are routes of ours that lead over a next hop, as the kernel has them.
func (l links) staticRoutes() []Route {
	var list []Route
	for _, r := range l.routes {
		if r.ours && r.via != "" {
			list = append(list, Route{Prefix: r.prefix.String(), Via: r.via})
		}
	}
	return list
}

// routePlan says what has to be done so that every wanted route is there: set those that the host has in no form or that are
// ours and lead elsewhere, drop ours that nobody wants.
func (l links) routePlan(want []Route) (set, drop []Route) {
	for _, w := range want {
		have := l.find(w.Prefix)
		if len(have) == 0 || (have[0].ours && have[0].via != w.Via) {
			set = append(set, w)
		}
	}
	for _, r := range l.staticRoutes() {
		if !slices.ContainsFunc(want, func(w Route) bool { return w.Prefix == r.Prefix }) {
			drop = append(drop, r)
		}
	}
	return set, drop
}

func setRoutes(ctx context.Context, h *host.Host, set, drop []Route) error {
	for _, r := range drop {
		if _, err := h.Run(ctx, "ip", "route", "del", r.Prefix, "via", r.Via, "proto", ourRoutes); err != nil {
			return errs.Wrap("drop the route to "+r.Prefix, err)
		}
	}
	for _, r := range set {
		if _, err := h.Run(ctx, "ip", "route", "replace", r.Prefix, "via", r.Via, "proto", ourRoutes); err != nil {
			return errs.Wrap("set the route to "+r.Prefix, err)
		}
	}
	return nil
}
