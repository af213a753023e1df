package iptables

import (
	"slices"
	"strings"
)

// Normal brings a rule into one form, since versions of iptables print the same rule in different ways.
func Normal(rule string) string {
	words := Split(rule)
	var options []string
	for i := 0; i < len(words); i++ {
		option, values, not := words[i], []string{}, ""
		if option == "!" && i+1 < len(words) {
			i++
			option, not = words[i], "! "
		}
		for i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") && words[i+1] != "!" {
			i++
			values = append(values, words[i])
		}
		if option == "-m" && len(values) == 1 && slices.Contains([]string{"tcp", "udp", "conntrack", "comment"}, values[0]) {
			continue // implied by what follows
		}
		for v := range values {
			values[v] = strings.TrimSuffix(strings.TrimSuffix(values[v], "/32"), "/128")
			switch option {
			case "-p":
				values[v] = protocolName(values[v])
			case "--ctstate":
				values[v] = strings.Join(sorted(strings.Split(values[v], ",")), ",")
			case "--dport", "--ctorigdstport":
				if first, last, ok := strings.Cut(values[v], ":"); ok && first == last {
					values[v] = first
				}
			}
		}
		options = append(options, strings.Join(append([]string{not + option}, values...), " "))
	}
	slices.Sort(options)
	return strings.Join(options, " ")
}

func protocolName(s string) string {
	switch s {
	case "1":
		return "icmp"
	case "6":
		return "tcp"
	case "17":
		return "udp"
	case "58", "icmpv6", "ipv6-icmp":
		return "ipv6-icmp"
	}
	return s
}

// Split cuts a rule into words; quotes hold a word with spaces together.
func Split(rule string) []string {
	var words []string
	var word strings.Builder
	quoted, open := false, false
	for i := 0; i < len(rule); i++ {
		c := rule[i]
		switch {
		case c == '\\' && quoted && i+1 < len(rule):
			i++
			word.WriteByte(rule[i])
		case c == '"':
			quoted, open = !quoted, true
		case c == ' ' && !quoted:
			if open || word.Len() > 0 {
				words = append(words, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteByte(c)
		}
	}
	if open || word.Len() > 0 {
		words = append(words, word.String())
	}
	return words
}

// Without returns the lines of a that are not in b.
func Without(a, b []string) []string {
	var list []string
	for _, s := range a {
		if !slices.Contains(b, s) {
			list = append(list, s)
		}
	}
	return list
}

// Clean keeps of a name what can stand in an iptables comment and in a log line; the rest becomes "_".
func Clean(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-_.:/@+", r):
			return r
		}
		return '_'
	}, s)
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}
