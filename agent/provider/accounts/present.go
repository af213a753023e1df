package accounts

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// user is one account as the host has it.
type user struct {
	name, gecos, home, shell string
	uid                      int
	// locked says that the password field starts with "!" before something else.
	locked bool
	// expire is the last field of interest of /etc/shadow: days since 1970, empty for never.
	expire string
}

// person reports whether the user id is one of people's.
func (u user) person() bool { return u.uid >= firstUID && u.uid <= lastUID }

// closed reports whether nobody can log in to the account, whatever key it has.
func (u user) closed() bool { return u.noShell() || u.expired() }

// expired reports whether the account ended the way lock ends it; an end that somebody else set is theirs.
func (u user) expired() bool {
	days, err := strconv.Atoi(u.expire)
	return err == nil && days >= 0 && days <= lockedSince
}

func (u user) noShell() bool {
	base := path.Base(u.shell)
	return base == "nologin" || base == "false" || u.shell == ""
}

// present is what the host has.
type present struct {
	users  map[string]user
	groups map[string]int
	// sudo are the accounts in our sudoers file.
	sudo []string
	// kept are the accounts that infractl made or took over.
	kept []string
	// keys are our key files, by account.
	keys map[string][]string
}

// look reads the host's files themselves: they are the truth that useradd works on, and no process is needed.
func (p *Provider) look() (present, error) {
	have := present{users: map[string]user{}, groups: map[string]int{}, keys: map[string][]string{}}
	passwd, err := p.host.ReadFile("/etc/passwd")
	if err != nil {
		return have, errs.Wrap("read accounts", err)
	}
	shadow, err := p.host.ReadFile("/etc/shadow")
	if err != nil {
		return have, errs.Wrap("read accounts", err)
	}
	group, err := p.host.ReadFile("/etc/group")
	if err != nil {
		return have, errs.Wrap("read groups", err)
	}
	have.parse(string(passwd), string(shadow), string(group))
	sudoers, err := p.readOptional(sudoersFile)
	if err != nil {
		return have, err
	}
	have.sudo = sudoUsers(string(sudoers))
	kept, err := p.readOptional(keptFile)
	if err != nil {
		return have, err
	}
	if have.kept, err = decodeKept(kept); err != nil {
		return have, err
	}
	files, err := p.host.Glob(KeysDir + "/*")
	if err != nil {
		return have, errs.Wrap("list key files", err)
	}
	for _, file := range files {
		f, err := p.host.Stat(file)
		if err != nil {
			return have, err
		}
		if !f.Mode.IsDir() { // no key file, whoever made it
			have.keys[path.Base(file)] = keyLines(string(f.Data))
		}
	}
	return have, nil
}

func (p *Provider) readOptional(file string) ([]byte, error) {
	data, err := p.host.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, errs.Wrap("read "+file, err)
}

func (have present) parse(passwd, shadow, group string) {
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 7 {
			continue
		}
		uid, err := strconv.Atoi(f[2])
		if err != nil {
			continue
		}
		have.users[f[0]] = user{name: f[0], uid: uid, gecos: f[4], home: f[5], shell: f[6]}
	}
	for line := range strings.Lines(shadow) {
		f := strings.Split(strings.TrimSpace(line), ":")
		u, ok := have.users[f[0]]
		if !ok || len(f) < 8 {
			continue
		}
		u.locked = len(f[1]) > 1 && f[1][0] == '!' && strings.Trim(f[1], "!") != ""
		u.expire = f[7]
		have.users[f[0]] = u
	}
	for line := range strings.Lines(group) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 4 {
			continue
		}
		if gid, err := strconv.Atoi(f[2]); err == nil {
			have.groups[f[0]] = gid
		}
	}
}

// uidFree reports whether no account has the id.
func (have present) uidFree(uid int) bool {
	for _, u := range have.users {
		if u.uid == uid {
			return false
		}
	}
	return true
}

const sudoRule = " ALL=(ALL:ALL) NOPASSWD: ALL"

// sudoUsers reads our own sudoers file.
func sudoUsers(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if name, ok := strings.CutSuffix(strings.TrimSpace(line), sudoRule); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

type keptState struct {
	Version  int      `json:"version"`
	Accounts []string `json:"accounts"`
}

func decodeKept(data []byte) ([]string, error) {
	if data == nil {
		return nil, nil
	}
	var kept keptState
	if err := strictjson.Unmarshal(data, &kept); err != nil || kept.Version != 1 {
		return nil, errs.New(errs.Precondition, "the list of accounts that infractl made cannot be read: %v", err).At(keptFile).
			WithHint("move the file away; accounts that the site no longer names then stay as they are")
	}
	return kept.Accounts, nil
}

func encodeKept(names []string) []byte {
	slices.Sort(names)
	data, _ := json.Marshal(keptState{Version: 1, Accounts: slices.Compact(names)}) // strings only: can't fail
	return append(data, '\n')
}
