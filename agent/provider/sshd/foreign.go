package sshd

import (
	"path"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

const (
	takenOver   = "# infractl took this over: "
	includeLine = "Include " + dropIns
	includeNote = "# Written by infractl: this line must come before all others.\n"
)

// addsUp are the keywords whose values add up over all files instead of the first one winning. Port and the others have to
// stand in our drop-in alone.
func addsUp(keyword string) bool {
	switch keyword {
	case "port", "listenaddress", "hostkey", "allowusers", "allowgroups":
		return true
	}
	return false
}

// keyword splits a line of sshd_config as sshd does: "Port 22", "port=22", "  Port\t22".
func keyword(line string) (key, rest string) {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "#") {
		return "", ""
	}
	i := strings.IndexAny(line, " \t=")
	if i < 0 {
		return strings.ToLower(line), ""
	}
	return strings.ToLower(line[:i]), strings.TrimLeft(line[i:], " \t=")
}

// includesDropIns reports whether an Include line brings in the folder of our drop-in.
func includesDropIns(rest string) bool {
	for _, pattern := range strings.Fields(rest) {
		pattern = strings.Trim(pattern, `"`)
		if pattern == dropIns || "/etc/ssh/"+pattern == dropIns {
			return true
		}
	}
	return false
}

// quieten comments out the lines of a file that would add to our drop-in. Match blocks are left alone.
func quieten(text string) string {
	var b strings.Builder
	global := true
	for line := range strings.Lines(text) {
		key, _ := keyword(line)
		if key == "match" {
			global = false
		}
		if global && addsUp(key) {
			b.WriteString(takenOver)
		}
		b.WriteString(line)
	}
	return b.String()
}

// managed is the main file as it must be: quiet, and with the Include before all else.
func managed(text string) string {
	text = quieten(text)
	var b strings.Builder
	first, global := true, true
	for line := range strings.Lines(text) {
		key, rest := keyword(line)
		switch {
		case key == "":
		case key == "match":
			global = false
		case key == "include" && includesDropIns(rest) && first:
			return text // as Debian and Ubuntu ship it
		case key == "include" && includesDropIns(rest) && global:
			b.WriteString(takenOver)
		}
		first = first && key == ""
		b.WriteString(line)
	}
	return includeNote + includeLine + "\n" + b.String()
}

// withoutIncludes is a main file that leaves the folder of our drop-in out.
func withoutIncludes(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if key, rest := keyword(line); key != "include" || !includesDropIns(rest) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// hasMatch reports whether a file treats some connections differently.
func hasMatch(text string) bool {
	for line := range strings.Lines(text) {
		if key, _ := keyword(line); key == "match" {
			return true
		}
	}
	return false
}

// foreignFiles returns the files of others as they must be, those that are so already included, and whether one of them
// has a Match block.
func (p *Provider) foreignFiles() (want []host.File, match bool, err error) {
	paths, err := p.host.Glob(dropIns)
	if err != nil {
		return nil, false, errs.Wrap("list the files of sshd", err)
	}
	for _, file := range append([]string{mainFile}, paths...) {
		if file == dropIn {
			continue
		}
		f, err := p.regular(file)
		if err != nil {
			return nil, false, err
		}
		if f.Absent {
			return nil, false, errs.New(errs.Precondition, "there is no %s", file).
				WithHint("apt-get install --reinstall openssh-server, with -o DPkg::Options::=--force-confmiss")
		}
		text := string(f.Data)
		match = match || hasMatch(text)
		if file == mainFile {
			text = managed(text)
		} else {
			text = quieten(text)
		}
		f.Data = []byte(text)
		want = append(want, f)
	}
	return want, match, nil
}

// regular reads a file; where it is a symbolic link, what it leads to. Such a file then is written in place of the link.
func (p *Provider) regular(file string) (host.File, error) {
	f, err := p.host.Stat(file)
	if err != nil || f.Absent || f.Mode.IsRegular() {
		return f, err
	}
	data, err := p.host.ReadFile(file)
	if err != nil {
		return f, errs.Wrap("read "+path.Base(file), err)
	}
	return p.file(file, string(data), 0o644), nil
}
