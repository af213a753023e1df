package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// transaction returns the input of iptables-restore --noflush that turns what is ours in k into want, in one step of the
// kernel. Chains of others are not named, but for our jumps in them and a DOCKER-USER that is not there yet.
// dropDockerUser removes DOCKER-USER again where nothing of anybody else is in it and nothing leads to it.
func transaction(k kernel, want table, dropDockerUser bool) string {
	var b strings.Builder
	b.WriteString("*filter\n")
	for _, c := range want.Chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c.Name)
	}
	if want.DockerUser && !k.hasDockerUser() {
		fmt.Fprintf(&b, ":%s - [0:0]\n", dockerUser)
	}
	for _, c := range want.Chains {
		for _, rule := range c.Rules {
			fmt.Fprintf(&b, "-A %s %s\n", c.Name, rule)
		}
	}
	have := k.ours()
	writeJumps(&b, have.Jumps, want.Jumps)
	var stale []string
	for _, c := range have.Chains {
		if _, ok := want.chain(c.Name); !ok {
			stale = append(stale, c.Name)
		}
	}
	if dropDockerUser && k.dockerUserIsOurs() {
		stale = append(stale, dockerUser)
	}
	for _, name := range stale {
		fmt.Fprintf(&b, "-F %s\n", name)
	}
	for _, name := range stale {
		fmt.Fprintf(&b, "-X %s\n", name)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// writeJumps takes our jumps out and puts them back in their places, unless they stand there.
func writeJumps(b *strings.Builder, have, want []jump) {
	if slices.Equal(jumpLines(have), jumpLines(want)) {
		return
	}
	for _, j := range have {
		for range j.At {
			fmt.Fprintf(b, "-D %s %s\n", j.Parent, j.Rule)
		}
	}
	type place struct {
		at   int
		line string
	}
	var places []place
	for _, j := range want {
		for _, at := range j.At {
			places = append(places, place{at, fmt.Sprintf("-I %s %d %s\n", j.Parent, at, j.Rule)})
		}
	}
	slices.SortStableFunc(places, func(x, y place) int { return x.at - y.at })
	for _, p := range places {
		b.WriteString(p.line)
	}
}

// dockerUserIsOurs reports whether DOCKER-USER holds at most our jump and no rule leads to it.
func (k kernel) dockerUserIsOurs() bool {
	if !k.hasDockerUser() {
		return false
	}
	for _, rule := range k.rules[dockerUser] {
		if !isOurs(rule) {
			return false
		}
	}
	for _, rules := range k.rules {
		for _, rule := range rules {
			words := split(rule)
			if i := slices.IndexFunc(words, func(w string) bool { return w == "-j" || w == "-g" }); i >= 0 &&
				i+1 < len(words) && words[i+1] == dockerUser {
				return false
			}
		}
	}
	return true
}

// repair returns the input that puts back chains of ours that are gone or empty, and jumps that are gone or not first, or ""
// when nothing is amiss. It removes nothing: during a commit more may stand than was kept.
func repair(k kernel, kept table) string {
	var chains []chain
	for _, c := range kept.Chains {
		if len(k.rules[c.Name]) == 0 && len(c.Rules) > 0 {
			chains = kept.Chains // they lead to each other: all of them
			break
		}
	}
	have := k.ours().Jumps
	var gone, put []jump
	for _, j := range kept.Jumps {
		i := slices.IndexFunc(have, func(h jump) bool { return h.Parent == j.Parent && h.Rule == j.Rule })
		if i >= 0 && slices.Equal(have[i].At, j.At) {
			continue
		}
		put = append(put, j)
		if i >= 0 {
			gone = append(gone, have[i])
		}
	}
	if len(chains)+len(put) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("*filter\n")
	for _, c := range chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c.Name)
	}
	if kept.DockerUser && !k.hasDockerUser() {
		fmt.Fprintf(&b, ":%s - [0:0]\n", dockerUser)
	}
	for _, c := range chains {
		for _, rule := range c.Rules {
			fmt.Fprintf(&b, "-A %s %s\n", c.Name, rule)
		}
	}
	writeJumps(&b, gone, put)
	b.WriteString("COMMIT\n")
	return b.String()
}
