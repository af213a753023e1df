package accounts

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	shell       = "/bin/bash"
	noShell     = "/usr/sbin/nologin"
	lockedSince = 1 // usermod -e 1: expired since the second day of 1970
	firstUID    = 1000
	lastUID     = 60000
	maxAccounts = 1000
	maxKeys     = 100
)

// work is the difference between host and wish, in the form in which it is carried out.
type work struct {
	stage   provider.Stage
	users   []userWork
	keys    []fileWork
	sudoers fileWork
	kept    fileWork
	// folder says that the key folder's mode keeps readers out.
	folder bool
}

type userWork struct {
	name    string
	create  bool
	useradd []string
	// usermod are the arguments that change the account; empty for none.
	usermod       []string
	before, after []string
}

// fileWork is a file as it is and should be, with the lines that people see.
type fileWork struct {
	want        host.File
	same        bool
	subject     string
	had         bool
	gone, comes []string
}

func (f fileWork) differs() bool { return f.want.Path != "" && !f.same }

// work compares host and wish.
func (p *Provider) work(w wish) (work, error) {
	todo := work{stage: w.Stage}
	if err := check(w.Spec); err != nil {
		return todo, err
	}
	have, err := p.look()
	if err != nil {
		return todo, err
	}
	for _, a := range w.Spec.GetAccounts() {
		u, err := p.userWork(have, a)
		if err != nil {
			return todo, err
		}
		todo.users = append(todo.users, u)
	}
	if w.Stage == provider.Narrowing {
		for _, name := range have.kept {
			if u, ok := have.users[name]; ok && u.person() && !wanted(w.Spec, name) {
				todo.users = append(todo.users, lock(u))
			}
		}
	}
	if todo.keys, err = p.keyWork(have, w); err != nil {
		return todo, err
	}
	if todo.sudoers, err = p.sudoWork(have, w); err != nil {
		return todo, err
	}
	if todo.kept, err = p.keptWork(have, w); err != nil {
		return todo, err
	}
	folder, err := p.host.Stat(KeysDir)
	todo.folder = !folder.Absent && folder.Mode.Perm() != 0o755
	return todo, err
}

// check refuses what must not be tried on a host.
func check(spec *v1.AccountsSpec) error {
	seen := map[string]bool{}
	if len(spec.GetAccounts()) > maxAccounts {
		return errs.New(errs.Invalid, "more than %d accounts", maxAccounts).WithHint("name fewer accounts in the site")
	}
	for _, a := range spec.GetAccounts() {
		bad := func(format string, args ...any) *errs.Error {
			return errs.New(errs.Invalid, format, args...).At("account " + a.GetName())
		}
		switch {
		case !regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`).MatchString(a.GetName()):
			return bad("not a login name").WithHint("use up to 31 lower-case letters, digits, _ and -")
		case a.GetName() == "root":
			return bad("root is not an account of the site").WithHint("name a person and give it sudo")
		case seen[a.GetName()]:
			return bad("it is there twice").WithHint("name it once")
		case len(a.GetFullName()) > 200 || strings.ContainsAny(a.GetFullName(), ":,=\n\r\x00"):
			return bad("its full name has a colon, a comma, an equals sign or a line end").WithHint("take it out")
		case len(a.GetSshKeys()) > maxKeys:
			return bad("more than %d SSH keys", maxKeys).WithHint("give each person one or two keys")
		}
		seen[a.GetName()] = true
	}
	return nil
}

func (p *Provider) userWork(have present, a *v1.Account) (userWork, error) {
	name := a.GetName()
	w := userWork{name: name}
	u, ok := have.users[name]
	if !ok {
		w.create = true
		w.useradd = p.useradd(have, a)
		w.after = []string{"full name: " + a.GetFullName(), "shell: " + shell}
		return w, nil
	}
	if !u.person() {
		return w, errs.New(errs.Invalid, "user id %d is a system account's", u.uid).At("account " + name).
			WithHint("choose a name that the system does not use")
	}
	set := func(label, before, after string, args ...string) {
		w.usermod = append(w.usermod, args...)
		w.before = append(w.before, label+before)
		w.after = append(w.after, label+after)
	}
	if u.gecos != a.GetFullName() {
		set("full name: ", u.gecos, a.GetFullName(), "-c", a.GetFullName())
	}
	if u.noShell() {
		set("shell: ", u.shell, shell, "-s", shell)
	}
	if u.expired() {
		set("expires: ", "day "+u.expire, "never", "-e", "")
		if u.locked {
			set("password: ", "locked", "as before the lock", "-U")
		}
	}
	return w, nil
}

// useradd makes an account without a password. "*" and not "!": an account that is locked by "!" is refused by sshd
// where PAM is off.
func (p *Provider) useradd(have present, a *v1.Account) []string {
	name := a.GetName()
	argv := []string{"useradd", "-m", "-s", shell, "-p", "*", "-c", a.GetFullName()}
	switch gid, taken := have.groups[name]; {
	case !taken:
		argv = append(argv, "-U")
	case gid >= firstUID:
		argv = append(argv, "-N", "-g", name)
	default:
		// Debian has system groups with names that people have too, such as operator.
		argv = append(argv, "-N", "-g", "users")
	}
	// A home folder that an earlier account of this name left keeps its owner.
	if home, err := p.host.Stat("/home/" + name); err == nil && home.Mode.IsDir() && home.UID >= firstUID &&
		home.UID <= lastUID && have.uidFree(home.UID) {
		argv = append(argv, "-u", strconv.Itoa(home.UID))
	}
	return append(argv, "--", name)
}

func lock(u user) userWork {
	w := userWork{name: u.name}
	if !u.expired() {
		w.usermod = append(w.usermod, "-e", strconv.Itoa(lockedSince))
		if !u.locked {
			w.usermod = append(w.usermod, "-L")
		}
	}
	if !u.noShell() {
		w.usermod = append(w.usermod, "-s", noShell)
	}
	if len(w.usermod) > 0 {
		w.before, w.after = []string{"open, shell " + u.shell}, []string{"locked, shell " + noShell}
	}
	return w
}

func (p *Provider) keyWork(have present, w wish) ([]fileWork, error) {
	var witnesses []string
	for _, k := range w.Spec.GetWitnessKeys() {
		line, err := witnessLine(k)
		if err != nil {
			return nil, err
		}
		witnesses = append(witnesses, line)
	}
	var files []fileWork
	for _, a := range w.Spec.GetAccounts() {
		var lines []string
		for _, k := range a.GetSshKeys() {
			line, err := personKey(a.GetName(), k)
			if err != nil {
				return nil, err
			}
			lines = append(lines, line)
		}
		if a.GetSshLogin() {
			lines = append(lines, witnesses...)
		}
		lines = union(lines, keptLines(have.keys[a.GetName()], w))
		f, err := p.keyFileWork(have, a.GetName(), lines)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if w.Stage != provider.Narrowing {
		return files, nil
	}
	for name := range have.keys {
		if wanted(w.Spec, name) {
			continue
		}
		f, err := p.keyFileWork(have, name, nil)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b fileWork) int { return strings.Compare(a.want.Path, b.want.Path) })
	return files, nil
}

// keptLines are the old lines that stay: all of them before the narrowing, then those of witnesses that lag behind.
func keptLines(old []string, w wish) []string {
	if w.Stage != provider.Narrowing {
		return old
	}
	var stay []string
	for _, line := range old {
		if node, ok := witnessOf(line); ok && slices.Contains(w.Laggards, node) {
			stay = append(stay, line)
		}
	}
	return stay
}

// union appends the lines of more that are not in lines yet.
func union(lines, more []string) []string {
	for _, m := range more {
		if !slices.ContainsFunc(lines, func(l string) bool { return sameKey(l, m) }) {
			lines = append(lines, m)
		}
	}
	return lines
}

func (p *Provider) keyFileWork(have present, name string, lines []string) (fileWork, error) {
	f := p.file(KeysDir+"/"+name, keyFile(lines), 0o644)
	if lines == nil && have.keys[name] != nil {
		f = host.File{Path: f.Path, Absent: true}
	}
	old, had := have.keys[name]
	return p.fileWork(f, "SSH keys of "+name, had, minus(old, lines), minus(lines, old))
}

func minus(lines, without []string) []string {
	var left []string
	for _, l := range lines {
		if !slices.Contains(without, l) {
			left = append(left, shown(l))
		}
	}
	return left
}

func (p *Provider) sudoWork(have present, w wish) (fileWork, error) {
	var names []string
	for _, a := range w.Spec.GetAccounts() {
		if a.GetSudo() {
			names = append(names, a.GetName())
		}
	}
	if len(names) > 0 && !p.host.Has("visudo") {
		return fileWork{}, errs.New(errs.Precondition, "sudo is not installed").WithHint("apt-get install sudo")
	}
	if w.Stage != provider.Narrowing {
		names = append(names, have.sudo...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	want := host.File{Path: sudoersFile, Absent: true}
	if len(names) > 0 {
		text := "# Written by infractl; changes here are undone. The accounts have no password, so none is asked for.\n"
		for _, name := range names {
			text += name + sudoRule + "\n"
		}
		want = p.file(sudoersFile, []byte(text), 0o440)
	}
	var gone, comes []string
	for _, name := range have.sudo {
		if !slices.Contains(names, name) {
			gone = append(gone, name)
		}
	}
	for _, name := range names {
		if !slices.Contains(have.sudo, name) {
			comes = append(comes, name)
		}
	}
	return p.fileWork(want, "sudo", len(have.sudo) > 0, gone, comes)
}

// keptWork says who is ours: whoever was, as long as the account exists, and whoever is wanted.
func (p *Provider) keptWork(have present, w wish) (fileWork, error) {
	var names []string
	for _, name := range have.kept {
		if _, ok := have.users[name]; ok {
			names = append(names, name)
		}
	}
	for _, a := range w.Spec.GetAccounts() {
		names = append(names, a.GetName())
	}
	return p.fileWork(p.file(keptFile, encodeKept(names), 0o600), "list of infractl's accounts", have.kept != nil, nil, nil)
}

func (p *Provider) file(path string, data []byte, mode os.FileMode) host.File {
	return host.File{Path: path, Data: data, Mode: mode, UID: os.Geteuid(), GID: os.Getegid()}
}

func (p *Provider) fileWork(want host.File, subject string, had bool, gone, comes []string) (fileWork, error) {
	same, err := p.host.InSync(want)
	return fileWork{want: want, same: same, subject: subject, had: had, gone: gone, comes: comes}, err
}

// changes is the work for people.
func (w work) changes(name string) []*v1.Change {
	risk := v1.Risk_RISK_NONE
	if w.stage == provider.Narrowing {
		risk = v1.Risk_RISK_LOCKOUT
	}
	var list []*v1.Change
	add := func(subject string, action v1.ChangeAction, before, after []string) {
		list = append(list, &v1.Change{Provider: name, Subject: subject, Action: action, Before: before, After: after, Risk: risk})
	}
	for _, u := range w.users {
		switch {
		case u.create:
			add("account "+u.name, v1.ChangeAction_CHANGE_ACTION_CREATE, nil, u.after)
		case len(u.usermod) > 0:
			add("account "+u.name, v1.ChangeAction_CHANGE_ACTION_UPDATE, u.before, u.after)
		}
	}
	if w.folder {
		add(KeysDir, v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{"closed to its readers"}, []string{"mode 0755"})
	}
	for _, f := range append(slices.Clone(w.keys), w.sudoers, w.kept) {
		action := v1.ChangeAction_CHANGE_ACTION_UPDATE
		switch {
		case !f.differs():
			continue
		case f.want.Absent:
			action = v1.ChangeAction_CHANGE_ACTION_DELETE
		case !f.had:
			action = v1.ChangeAction_CHANGE_ACTION_CREATE
		}
		add(f.subject, action, f.gone, f.comes)
	}
	return list
}
