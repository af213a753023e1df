package site

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// FrontPort is the TCP port on which the front of an instance's host listens for the proxy.
const FrontPort = 80

// nodeRef checks a reference to a node.
func (l *loader) nodeRef(path, name string) bool {
	if name == "" && !l.pos.Has(path) {
		return false
	}
	if _, ok := l.site.Node(name); ok {
		return true
	}
	l.fail(path, l.among(name, l.site.NodeNames()), "there is no node %q", name)
	return false
}

func (l *loader) server() {
	f := l.file.Server
	s := &l.site.Server
	s.Nodes, s.Port, s.EnrolPort = f.Nodes, uint16(f.Port), uint16(f.EnrolPort)
	if !l.pos.Has("server/port") {
		s.Port = 7443
	}
	if !l.pos.Has("server/enrol_port") {
		s.EnrolPort = 7444
	}
	for i, n := range f.Nodes {
		path := yamltree.Join("server/nodes", strconv.Itoa(i))
		if l.nodeRef(path, n) {
			if node, _ := l.site.Node(n); !node.Linux() {
				l.fail(path, "the server needs a Linux host", "the server cannot run on %s, whose platform is %s", n, node.Platform)
			}
		}
		if i > 0 {
			l.fail(path, "keep one node", "more than one server is not supported yet")
		}
	}
	if l.pos.Has("server/nodes") && len(f.Nodes) == 0 {
		l.fail("server/nodes", "", "the server has no node")
	}
	if s.Port == s.EnrolPort && s.Port != 0 {
		l.fail("server/enrol_port", "", "port and enrol_port are both %d", s.Port)
	}
}

func (l *loader) ssh() {
	f := l.file.SSH
	s := &l.site.SSH
	*s = SSHSpec{
		Port: uint16(f.Port), Users: f.Users, MaxAuthTries: f.MaxAuthTries, MaxSessions: f.MaxSessions,
		ClientAliveInterval: time.Duration(f.ClientAliveInterval),
	}
	if !l.pos.Has("ssh/port") {
		s.Port = 22
	}
	if !l.pos.Has("ssh/max_auth_tries") {
		s.MaxAuthTries = 4
	}
	if !l.pos.Has("ssh/max_sessions") {
		s.MaxSessions = 10
	}
	if !l.pos.Has("ssh/client_alive_interval") {
		s.ClientAliveInterval = 30 * time.Second
	}
	l.within("ssh/max_auth_tries", uint64(s.MaxAuthTries), 2, 10)
	l.within("ssh/max_sessions", uint64(s.MaxSessions), 1, 100)
	l.lasts("ssh/client_alive_interval", s.ClientAliveInterval, 5*time.Second, time.Hour)
	taken := map[uint16]string{
		l.site.Server.Port: "the server's port", l.site.Server.EnrolPort: "the server's enrolment port",
		9100: "the port of the agents' metrics", 9323: "the port of Docker's metrics", 53: "the port of DNS",
		FrontPort: "the port of web servers", 443: "the port of web servers",
	}
	if what, ok := taken[s.Port]; ok && s.Port != 0 {
		l.fail("ssh/port", "choose another port", "ssh.port %d is %s", s.Port, what)
	}
	if l.pos.Has("ssh/users") && len(f.Users) == 0 && !l.failedAt("ssh/users") {
		l.fail("ssh/users", "", "nobody may log in")
	}
}

func (l *loader) within(path string, v, least, most uint64) {
	// A value that could not be read is reported already and is zero here.
	if l.hasPath(path) && (v < least || v > most) && !l.failedAt(path) {
		l.fail(path, "", "%s is %d; it goes from %d to %d", strings.ReplaceAll(path, "/", "."), v, least, most)
	}
}

func (l *loader) lasts(path string, v, least, most time.Duration) {
	if l.hasPath(path) && (v < least || v > most) && !l.failedAt(path) {
		l.fail(path, "", "%s is %s; it goes from %s to %s", strings.ReplaceAll(path, "/", "."), sitefile.Duration(v), sitefile.Duration(least), sitefile.Duration(most))
	}
}

func (l *loader) failedAt(path string) bool {
	overlay, pos := l.place(path, false)
	return slices.ContainsFunc(l.findings, func(f finding) bool {
		return f.severity == v1.Severity_SEVERITY_ERROR && f.overlay == overlay && f.pos == pos
	})
}

// accountForm is what every useradd takes and the agent too; a record of utmp has room for 31 bytes and their end.
var accountForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)

// systemAccounts are names of Debian and Ubuntu that are no people, and our own.
func systemAccounts() []string {
	return strings.Fields(`root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody
		_apt messagebus sshd systemd-network systemd-resolve systemd-timesync syslog uuidd tcpdump landscape pollinate bind
		_chrony chrony docker infractl postgres mysql prometheus grafana caddy`)
}

func (l *loader) accounts() {
	seen := map[string]string{}
	for _, p := range l.file.Accounts {
		path := yamltree.Join("accounts", p.Key)
		switch {
		case !accountForm.MatchString(p.Key):
			l.failKey(path, "small letters, digits, _ and -, at most 31, a letter or _ first", "%q is no login name", p.Key)
			continue
		case slices.Contains(systemAccounts(), p.Key):
			l.failKey(path, "choose another name", "%s is an account of the system", p.Key)
			continue
		}
		a := Account{Name: p.Key, FullName: p.Value.Name, Sudo: p.Value.Sudo}
		if strings.ContainsAny(a.FullName, ":,=\\\"") || strings.ContainsFunc(a.FullName, func(r rune) bool { return r < ' ' }) || len(a.FullName) > 100 {
			l.fail(path+"/name", "", "accounts.%s.name: a name has no colon, comma, equals sign, quote or backslash, and 100 bytes at most", p.Key)
		}
		for i, k := range p.Value.SSHKeys {
			if k == "" {
				continue
			}
			at := yamltree.Join(path, "ssh_keys", strconv.Itoa(i))
			if other := seen[k.Fingerprint()]; other != "" {
				l.fail(at, "every person has keys of their own", "this key belongs to %s already", other)
			}
			seen[k.Fingerprint()] = p.Key
			a.SSHKeys = append(a.SSHKeys, string(k))
		}
		l.site.Accounts = append(l.site.Accounts, a)
	}
	l.users()
}

func (l *loader) users() {
	sudo := false
	var names []string
	for _, a := range l.site.Accounts {
		names = append(names, a.Name)
	}
	for i, u := range l.site.SSH.Users {
		path := yamltree.Join("ssh/users", strconv.Itoa(i))
		if slices.Index(l.site.SSH.Users, u) != i {
			l.fail(path, "", "ssh.users: %s is given twice", u)
		}
		at := slices.Index(names, u)
		if at < 0 {
			if !l.pos.Has(yamltree.Join("accounts", u)) {
				l.fail(path, l.among(u, names), "ssh.users: there is no account %q", u)
			}
			continue
		}
		a := l.site.Accounts[at]
		if len(a.SSHKeys) == 0 && !l.failed() {
			l.fail(path, "add a line to accounts."+u+".ssh_keys", "ssh.users: %s has no SSH key", u)
		}
		sudo = sudo || a.Sudo
	}
	if l.pos.Has("ssh/users") && l.pos.Has("accounts") && !sudo && !l.failed() {
		l.fail("ssh/users", "set sudo: true for one of them", "none of ssh.users may use sudo: nobody could repair a host")
	}
}
