package vyos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/vyos"
)

// Places on a VyOS router.
const (
	versionJSON = "/usr/share/vyos/version.json"
	versionText = "/opt/vyatta/etc/version"
	releaseFile = "/etc/vyos-release"
	vyattaDir   = "/opt/vyatta"
	// scripts hold keys and are in memory: they are gone with the power.
	scriptFolder = "/run/infractl/vyos"
	commitTime   = 3 * time.Minute
	maxVersion   = 64 << 10
)

// Is reports whether a host is a VyOS router.
func Is(h *host.Host) bool {
	return h.Exists(releaseFile) || h.Exists(versionJSON) || h.Exists(vyattaDir)
}

// Version returns the router's release line and what the router itself calls it. Errors: NotFound for a release that is not
// known here, or none.
func (p *Provider) Version() (vyos.Version, string, error) {
	text := ""
	if data, err := p.host.ReadFile(versionJSON); err == nil && len(data) <= maxVersion {
		var v struct {
			Version string `json:"version"`
		}
		if json.Unmarshal(data, &v) == nil {
			text = v.Version
		}
	}
	if text == "" {
		data, err := p.host.ReadFile(versionText)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, "", errs.Wrap("read the release of VyOS", err)
		}
		if m := regexp.MustCompile(`(?m)^Version:\s*(?:VyOS\s+)?(\S+)`).FindSubmatch(data); m != nil {
			text = string(m[1])
		}
	}
	if text == "" {
		return 0, "", errs.New(errs.NotFound, "this router does not say which VyOS it runs").WithHint("looked into %s and %s", versionJSON, versionText)
	}
	v, err := vyos.ParseVersion(text)
	return v, text, err
}

// running reads the running configuration as set commands. A line that cannot be read is nobody's: it is left alone.
func (p *Provider) running(ctx context.Context) ([]vyos.Line, error) {
	tree, err := p.host.Run(ctx, "cli-shell-api", "showCfg", "--show-active-only")
	if err != nil {
		return nil, errs.Wrap("read the running configuration", err)
	}
	out, err := p.host.RunCmd(ctx, host.Cmd{Argv: []string{"vyos-config-to-commands"}, Stdin: tree.Stdout})
	if err != nil {
		return nil, errs.New(errs.Precondition, "read the running configuration: %s", "vyos-config-to-commands cannot read it")
	}
	var lines []vyos.Line
	for text := range bytes.Lines(out.Stdout) {
		l, err := vyos.ParseLine(strings.TrimSpace(string(text)))
		if err != nil {
			p.log.Warn("a line of the running configuration cannot be read and is left alone")
			continue
		}
		if l != nil {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		// Everything would look new. A router without any line does not exist.
		return nil, errs.New(errs.Unavailable, "the router shows no running configuration").WithHint("wait until its configuration is loaded")
	}
	return lines, nil
}

// commit carries a difference out. Nothing to do is no commit.
func (p *Provider) commit(ctx context.Context, d vyos.Difference) error {
	if d.Empty() {
		return p.host.Remove(scriptFolder + "/commit.vbash") // what a crash may have left
	}
	var commands []string
	for _, l := range d.Delete {
		if err := l.Writable(); err != nil {
			return err
		}
		commands = append(commands, "delete "+strings.TrimPrefix(l.String(), "set "))
	}
	for _, l := range d.Set {
		if err := l.Writable(); err != nil {
			return err
		}
		commands = append(commands, l.String())
	}
	return p.script(ctx, "commit", append(commands, "commit"))
}

// script runs commands in one session of the configuration. The text is in a file that only root reads; keys never stand in an
// argument. The group matters: without it VyOS spoils the files of its sessions until the next reboot.
func (p *Provider) script(ctx context.Context, name string, commands []string) error {
	var b strings.Builder
	b.WriteString("#!/bin/vbash\n# Written by infractl; removed after its run.\nsource /opt/vyatta/etc/functions/script-template\n" +
		"refused() {\n  echo \"infractl: command $1 was refused\" >&2\n  exit discard\n  builtin exit 1\n}\nconfigure\n")
	for i, c := range commands {
		fmt.Fprintf(&b, "%s || refused %d\n", c, i+1)
	}
	b.WriteString("exit\nbuiltin exit 0\n")
	path := scriptFolder + "/" + name + ".vbash"
	if err := p.host.Mkdir(scriptFolder, 0o700); err != nil {
		return err
	}
	if _, err := p.host.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return err
	}
	out, err := p.host.RunCmd(ctx, host.Cmd{Argv: []string{"sg", "vyattacfg", "-c", "/bin/vbash " + path}, Timeout: commitTime})
	if removeErr := p.host.Remove(path); err == nil {
		return removeErr
	}
	return refusal(err, string(out.Stdout), commands)
}

// refusal says in plain words why VyOS did not commit. What it printed may repeat a value, so secret ones are hidden.
func refusal(err error, stdout string, commands []string) error {
	var exit *host.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	said := stdout + " " + exit.Stderr // which of the two VyOS uses depends on the release
	for _, c := range commands {
		l, parseErr := vyos.ParseLine(c)
		if parseErr != nil || l == nil || l.Redacted() == l.String() {
			continue
		}
		said = strings.ReplaceAll(said, l[len(l)-1], "(hidden)")
	}
	at := ""
	if m := regexp.MustCompile(`infractl: command (\d+) was refused`).FindStringSubmatch(said); m != nil {
		said = strings.ReplaceAll(said, m[0], "")
		if n, _ := strconv.Atoi(m[1]); n >= 1 && n < len(commands) {
			at = redacted(commands[n-1])
		}
	}
	said = strings.Join(strings.Fields(said), " ")
	if len(said) > 600 {
		said = said[:600] + "..."
	}
	if at != "" {
		return errs.New(errs.Precondition, "VyOS refuses %q: %s", at, said).WithHint("the former configuration holds; nothing was saved")
	}
	return errs.New(errs.Precondition, "VyOS refuses the commit: %s", said).WithHint("the former configuration holds; nothing was saved")
}

func redacted(command string) string {
	verb, rest, _ := strings.Cut(command, " ")
	l, err := vyos.ParseLine("set " + rest)
	if err != nil || l == nil {
		return verb
	}
	return verb + strings.TrimPrefix(l.Redacted(), "set")
}

// listens waits until something listens on a TCP port.
func (p *Provider) listens(ctx context.Context, port uint32) error {
	ctx, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	suffix := fmt.Sprintf(":%04X", port)
	for {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			data, err := p.host.ReadFile(table)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], suffix) && f[3] == "0A" {
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return errs.New(errs.Unavailable, "no SSH server listens on port %d", port)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
