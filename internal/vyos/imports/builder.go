package imports

import (
	"net/netip"
	"slices"
	"strings"
)

// builder collects what the commands say. Its maps keep the order of the input in the slices beside them.
type builder struct {
	commands []*command
	notes    []string

	router, domain, timezone string
	ntp                      []string
	sshPort                  string
	cards                    []*card
	gateway                  netip.Addr
	tunnel                   *card
	tunnelPort               string
	accounts                 []*account
	hosts                    []host
	flows                    []flow
	later                    bool // words that 1.3 does not know were seen
	local                    bool // words of 1.5
	rules                    map[string]*rule
	order                    []string
	bound                    map[string]string // rule set -> card it filters
}

type card struct {
	name, description string
	address           netip.Prefix
	network           string
	outside           bool
}

type account struct {
	name string
	keys map[string]*[2]string // id -> type, key
	ids  []string
}

type host struct {
	name    string
	address netip.Addr
}

type flow struct {
	name, from, to string
	ports          []string
}

// rule is one rule of the firewall or of NAT, with the commands that it is made of.
type rule struct {
	values map[string]string
	lines  []*command
}

func newBuilder(commands []*command) *builder {
	return &builder{commands: commands, rules: map[string]*rule{}, bound: map[string]string{}}
}

func (b *builder) note(text string) {
	if !slices.Contains(b.notes, text) {
		b.notes = append(b.notes, text)
	}
}

// build reads all commands, then decides what depends on more than one.
func (b *builder) build() {
	for _, c := range b.commands {
		b.read(c)
	}
	b.networks()
	b.routes()
	b.tunnels()
	b.translations()
	b.filters()
	b.opened()
}

// match matches the words of a command with a pattern and returns what stands for its stars; nil when it does not fit.
func match(words []string, pattern string) []string {
	want := strings.Fields(pattern)
	if len(words) != len(want) {
		return nil
	}
	out := []string{}
	for i, w := range want {
		switch {
		case w == "*":
			out = append(out, words[i])
		case w != words[i]:
			return nil
		}
	}
	return out
}

func under(words []string, prefix string) bool {
	want := strings.Fields(prefix)
	return len(words) >= len(want) && slices.Equal(words[:len(want)], want)
}

// always are switches and settings that infractl sets on every router.
func always() map[string]string {
	return map[string]string{"all-ping": "enable", "broadcast-ping": "disable", "receive-redirects": "disable", "send-redirects": "disable",
		"source-validation": "loose", "syn-cookies": "enable", "twa-hazards-protection": "enable"}
}

// read takes what a command says by itself.
func (b *builder) read(c *command) {
	w := c.words
	b.later = b.later || under(w, "firewall ipv4") || under(w, "service ntp") || under(w, "firewall global-options")
	b.local = b.local || under(w, "system syslog local")
	for _, group := range []func(*command) bool{b.system, b.services, b.login, b.interfaces, b.switches, b.ruleOf, b.purpose} {
		if group(c) {
			return
		}
	}
}

func (b *builder) system(c *command) bool {
	w := c.words
	if m := match(w, "system domain-name *"); m != nil {
		b.domain = m[0]
		c.say(Used, "domain")
	} else if m := match(w, "system host-name *"); m != nil {
		b.router = strings.ToLower(m[0])
		c.say(Used, "the router's name")
		if b.router != m[0] {
			c.say(Corrected, "names of nodes are lower case: "+b.router)
		}
	} else if m := match(w, "system time-zone *"); m != nil {
		b.timezone = m[0]
		c.say(Used, "timezone")
	} else if under(w, "system name-server") {
		c.say(Dropped, "the router asks the site's own DNS")
	} else if under(w, "system config-management commit-revisions") {
		c.say(Used, "infractl always keeps 100 revisions on the router")
	} else if under(w, "system syslog global facility all") || under(w, "system syslog local facility all") {
		c.say(Used, "infractl always logs what is informative")
	} else if under(w, "system syslog global facility protocols") {
		c.say(Dropped, "the facility protocols exists in 1.3 only, for routing protocols that are not used")
	} else {
		return false
	}
	return true
}

func (b *builder) services(c *command) bool {
	w := c.words
	for _, pattern := range []string{"system ntp server *", "service ntp server *"} {
		if m := match(w, pattern); m != nil {
			b.ntp = append(b.ntp, m[0])
			c.say(Used, "ntp")
			return true
		}
	}
	if m := match(w, "service ssh port *"); m != nil {
		b.sshPort = m[0]
		c.say(Used, "ssh.port")
	} else if under(w, "service ssh listen-address") || under(w, "service ntp allow-client") || under(w, "service ssh access-control") {
		c.say(Used, "derived from networks, flows and ssh.users")
	} else if under(w, "service ssh disable-password-authentication") {
		c.say(Used, "it is always so")
	} else if under(w, "service ssh client-keepalive-interval") {
		c.say(Used, "ssh.client_alive_interval: its default is 30s")
	} else {
		return false
	}
	return true
}

func (b *builder) login(c *command) bool {
	w := c.words
	if !under(w, "system login user") {
		return false
	}
	if m := match(w, "system login user * authentication public-keys * *  *"); m != nil {
		at := slices.IndexFunc(b.accounts, func(a *account) bool { return a.name == m[0] })
		if at < 0 {
			b.accounts = append(b.accounts, &account{name: m[0], keys: map[string]*[2]string{}})
			at = len(b.accounts) - 1
		}
		a := b.accounts[at]
		if a.keys[m[1]] == nil {
			a.keys[m[1]] = &[2]string{}
			a.ids = append(a.ids, m[1])
		}
		switch m[2] {
		case "type":
			a.keys[m[1]][0] = m[3]
		case "key":
			a.keys[m[1]][1] = m[3]
		default:
			return true // options of keys are not understood
		}
		c.say(Used, "accounts."+m[0]+".ssh_keys")
		return true
	}
	switch {
	case slices.Contains(w, "level"):
		c.say(Dropped, "no release since 1.2 knows levels: whoever logs in on VyOS may do everything")
	case slices.Contains(w, "encrypted-password"), slices.Contains(w, "plaintext-password"):
		c.say(Dropped, "passwords are not taken over: people log in with keys; the console keeps what the router has")
	case slices.Contains(w, "full-name"):
		c.say(Dropped, "write it as accounts.NAME.name")
	}
	return true
}

// purpose are things that are left out on purpose.
func (b *builder) purpose(c *command) bool {
	switch w := c.words; {
	case under(w, "service snmp"):
		c.say(Dropped, "SNMP is dropped on purpose: the router is watched by its agent")
	case under(w, "service https"):
		c.say(Dropped, "the API of VyOS is not used: the agent on the router dials out")
	case under(w, "system console"), under(w, "interfaces loopback"):
		c.say(Dropped, "left to the router: infractl does not touch it")
	default:
		return false
	}
	return true
}

func (b *builder) switches(c *command) bool {
	for _, pattern := range []string{"firewall * *", "firewall global-options * *"} {
		m := match(c.words, pattern)
		if m == nil {
			continue
		}
		want, ok := always()[m[0]]
		if !ok {
			continue
		}
		if want == m[1] {
			c.say(Used, "it is always so")
		} else {
			c.say(Corrected, "infractl sets "+m[0]+" "+want)
		}
		return true
	}
	return false
}
