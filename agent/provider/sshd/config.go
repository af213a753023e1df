package sshd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// directive is one keyword of sshd_config with its values. Several values stand on a line each.
type directive struct {
	key    string
	values []string
}

// config is what our drop-in says, in order.
type config struct {
	directives []directive
	// old are the listeners that the next narrowing closes.
	old []listener
}

const (
	header    = "# Written by infractl; changes here are undone.\n"
	oldMarker = "# The old way in: it closes when every peer has taken up the new one."
)

func (c config) text() []byte {
	var b strings.Builder
	b.WriteString(header)
	for _, d := range c.directives {
		var old []string
		for _, v := range d.values {
			if d.key == "ListenAddress" && slices.ContainsFunc(c.old, func(l listener) bool { return l.String() == v }) {
				old = append(old, v)
				continue
			}
			fmt.Fprintf(&b, "%s %s\n", d.key, v)
		}
		if len(old) > 0 {
			b.WriteString(oldMarker + "\n")
		}
		for _, v := range old {
			fmt.Fprintf(&b, "%s %s\n", d.key, v)
		}
	}
	return []byte(b.String())
}

// mismatches compares what sshd has in effect with what the drop-in says.
func (c config) mismatches(now effective) []string {
	var wrong []string
	differ := func(key string, got, want []string) {
		got, want = slices.Clone(got), slices.Clone(want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, want %q", key, strings.Join(got, " "), strings.Join(want, " ")))
		}
	}
	for _, d := range c.directives {
		differ(d.key, now[strings.ToLower(d.key)], d.values)
	}
	if !slices.ContainsFunc(c.directives, func(d directive) bool { return d.key == "AllowUsers" }) {
		differ("AllowUsers", now["allowusers"], nil)
	}
	differ("AllowGroups", now["allowgroups"], nil)
	return wrong
}

// inputs are what the drop-in is made of.
type inputs struct {
	spec      *v1.SshdSpec
	widening  bool
	now       effective
	listeners []listener
	old       []listener
	hostKeys  []string // of the kinds that we want
	oldKeys   []string // those in use that exist
	known     algorithms
	oldUsers  []string // who may log in now; nil means everybody
	caKeys    bool     // certificates of some authority let in
}

// build makes the drop-in.
func build(in inputs) config {
	c := config{old: in.old}
	add := func(key string, values ...string) {
		// A keyword that this sshd does not have (RequiredRSASize before 9.1) would be an error in the file.
		if len(values) > 0 && (in.now.knows(strings.ToLower(key)) || key == "AllowUsers") {
			c.directives = append(c.directives, directive{key, values})
		}
	}
	// closes adds a value that shuts something: while widening, what was open stays open.
	closes := func(key, value string) {
		if was := in.now.first(strings.ToLower(key)); in.widening && was != "" {
			value = was
		}
		add(key, value)
	}
	list := func(key string, wanted, old []string, separator string) {
		if in.widening {
			wanted = merge(wanted, old)
		}
		add(key, strings.Join(wanted, separator))
	}
	var ports, addresses []string
	for _, l := range in.listeners {
		ports = merge(ports, []string{strconv.Itoa(int(l.Port()))})
		addresses = append(addresses, l.String())
	}
	add("Port", ports...)
	add("AddressFamily", "any")
	add("ListenAddress", addresses...)
	hostKeys := in.hostKeys
	if in.widening {
		hostKeys = merge(hostKeys, in.oldKeys)
	}
	add("HostKey", hostKeys...)

	add("PubkeyAuthentication", "yes")
	list("AuthorizedKeysFile", []string{keysFile}, strings.Fields(in.now.first("authorizedkeysfile")), " ")
	if old := strings.Fields(in.now.first("authenticationmethods")); slices.Contains(old, "any") {
		closes("AuthenticationMethods", "publickey")
	} else {
		list("AuthenticationMethods", []string{"publickey"}, old, " ")
	}
	closes("PermitRootLogin", "no")
	for _, key := range []string{"PasswordAuthentication", "KbdInteractiveAuthentication", "HostbasedAuthentication",
		"GSSAPIAuthentication", "KerberosAuthentication", "PermitEmptyPasswords"} {
		closes(key, "no")
	}
	closes("AuthorizedKeysCommand", "none")
	if in.caKeys {
		add("TrustedUserCAKeys", caFile)
	} else {
		add("TrustedUserCAKeys", "none")
	}
	// A certificate is good for the account that it names.
	closes("AuthorizedPrincipalsFile", "none")
	closes("AuthorizedPrincipalsCommand", "none")
	add("UsePAM", "yes")
	users := allowed(in.spec)
	switch {
	case !in.widening:
		add("AllowUsers", users...)
	case in.oldUsers != nil:
		add("AllowUsers", merge(users, in.oldUsers)...)
	}

	number := func(key string, value, standard uint32) {
		if value == 0 {
			value = standard
		}
		if was, err := strconv.ParseUint(in.now.first(strings.ToLower(key)), 10, 32); in.widening && err == nil {
			value = max(value, uint32(was))
		}
		add(key, strconv.FormatUint(uint64(value), 10))
	}
	number("MaxAuthTries", in.spec.GetMaxAuthTries(), 4)
	number("MaxSessions", in.spec.GetMaxSessions(), 10)
	closes("LoginGraceTime", "30")
	closes("MaxStartups", "10:30:60")
	interval := in.spec.GetClientAliveIntervalSeconds()
	if interval == 0 {
		interval = 30
	}
	add("ClientAliveInterval", strconv.FormatUint(uint64(interval), 10))
	add("ClientAliveCountMax", "3")

	forwarding := "local"
	if was := in.now.first("allowtcpforwarding"); in.widening && (was == "yes" || was == "all" || was == "remote") {
		forwarding = "yes"
	}
	add("AllowTcpForwarding", forwarding)
	for _, key := range []string{"AllowAgentForwarding", "AllowStreamLocalForwarding", "GatewayPorts", "PermitTunnel",
		"PermitUserEnvironment", "X11Forwarding"} {
		closes(key, "no")
	}
	for _, key := range []string{"KexAlgorithms", "Ciphers", "MACs", "HostKeyAlgorithms"} {
		list(key, in.known[key], strings.Split(in.now.first(strings.ToLower(key)), ","), ",")
	}
	closes("RequiredRSASize", "3072")
	add("LogLevel", "VERBOSE")
	return c
}

// allowed is the list of AllowUsers: each user from each prefix.
func allowed(spec *v1.SshdSpec) []string {
	var list []string
	for _, user := range spec.GetAllowUsers() {
		if len(spec.GetAllowFrom()) == 0 {
			list = append(list, user)
		}
		for _, from := range spec.GetAllowFrom() {
			list = append(list, user+"@"+from)
		}
	}
	return list
}

// merge appends what is in more and not yet in list.
func merge(list, more []string) []string {
	result := slices.Clone(list)
	for _, m := range more {
		if m != "" && !slices.Contains(result, m) {
			result = append(result, m)
		}
	}
	return result
}
