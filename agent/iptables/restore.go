package iptables

import (
	"fmt"
	"slices"
	"strings"
)

// Transaction returns the input of iptables-restore --noflush that turns what is ours in k into want, in one step of the
// kernel. Chains of others are not named, but for our jumps in them and a DOCKER-USER that is not there yet.
// dropDockerUser removes DOCKER-USER again where nothing of anybody else is in it and nothing leads to it.
func Transaction(k Kernel, want Table, dropDockerUser bool) string {
	var b strings.Builder
	b.WriteString("*" + k.layout().Name + "\n")
	for _, c := range want.Chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c.Name)
	}
	if want.DockerUser && !k.HasDockerUser() {
		fmt.Fprintf(&b, ":%s - [0:0]\n", DockerUser)
	}
	for _, c := range want.Chains {
		for _, rule := range c.Rules {
			fmt.Fprintf(&b, "-A %s %s\n", c.Name, rule)
		}
	}
	have := k.Ours()
	writeJumps(&b, have.Jumps, want.Jumps)
	var stale []string
	for _, c := range have.Chains {
		if _, ok := want.Chain(c.Name); !ok {
			stale = append(stale, c.Name)
		}
	}
	if dropDockerUser && k.DockerUserIsOurs() {
		stale = append(stale, DockerUser)
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
func writeJumps(b *strings.Builder, have, want []Jump) {
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

// DockerUserIsOurs reports whether DOCKER-USER holds at most our jump and no rule leads to it.
func (k Kernel) DockerUserIsOurs() bool {
	if !k.HasDockerUser() {
		return false
	}
	for _, rule := range k.Rules[DockerUser] {
		if !IsOurs(rule) {
			return false
		}
	}
	for _, rules := range k.Rules {
		for _, rule := range rules {
			words := Split(rule)
			if i := slices.IndexFunc(words, func(w string) bool { return w == "-j" || w == "-g" }); i >= 0 &&
				i+1 < len(words) && words[i+1] == DockerUser {
				return false
			}
		}
	}
	return true
}

// Repair returns the input that puts back chains of ours that are gone or empty, and jumps that are gone or not first, or ""
// when nothing is amiss. It removes nothing: during a commit more may stand than was kept.
func Repair(k Kernel, kept Table) string {
	var chains []Chain
	for _, c := range kept.Chains {
		if len(k.Rules[c.Name]) == 0 && len(c.Rules) > 0 {
			chains = kept.Chains // they lead to each other: all of them
			break
		}
	}
	have := k.Ours().Jumps
	var gone, put []Jump
	for _, j := range kept.Jumps {
		i := slices.IndexFunc(have, func(h Jump) bool { return h.Parent == j.Parent && h.Rule == j.Rule })
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
	b.WriteString("*" + k.layout().Name + "\n")
	for _, c := range chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c.Name)
	}
	if kept.DockerUser && !k.HasDockerUser() {
		fmt.Fprintf(&b, ":%s - [0:0]\n", DockerUser)
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
