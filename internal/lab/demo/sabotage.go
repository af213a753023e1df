package demo

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// The saboteurs' programs act once, and only while a commit is armed.
const (
	load4Path     = "/usr/local/sbin/iptables-restore"
	load6Path     = "/usr/local/sbin/ip6tables-restore"
	savePath      = "/usr/local/sbin/ip6tables-save"
	systemctlPath = "/usr/local/sbin/systemctl"

	whileArmed = `armed() { for f in /var/lib/infractl/commits/*/armed.json; do [ -e "$f" ] && return 0; done; return 1; }
`
	// loaded remembers that a commit has loaded rules, of whichever family changed.
	loaded = "#!/bin/sh\n" + whileArmed + `/usr/sbin/"${0##*/}" "$@"
rc=$?
armed && [ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/1/ns/net)" ] && : > /run/loaded
exit $rc
`
	// verified, completed by what a saboteur does, strikes when the agent has read the rules back, IPv6 last: its own check finds them right, and
	// the witnesses, who come after it, find what is left.
	verified = "#!/bin/sh\n" + whileArmed + `/usr/sbin/ip6tables-save "$@"
rc=$?
if armed && [ -e /run/loaded ] && [ ! -e /run/sabotaged ]; then
  : > /run/sabotaged
  (strike) >/dev/null 2>&1 </dev/null && : > /run/struck
fi
exit $rc
`
	// dropEverything drops everything in our own chains.
	dropEverything = `iptables -w 2 -I INFRACTL-IN 1 -j DROP; iptables -w 2 -I INFRACTL-OUT 1 -j DROP`
	// cutOff drops what the relay sends to its fleet by SSH.
	cutOff = `iptables -w 2 -I INFRACTL-OUT 1 -p tcp -d 10.0.10.0/24 --dport 202 -j DROP`
	// deadSshd makes sshd's configuration unusable and ends it when it is reloaded.
	deadSshd = "#!/bin/sh\n" + whileArmed + `case "$*" in *reload*ssh*|*restart*ssh*)
  if armed && [ ! -e /run/sabotaged ]; then
    : > /run/sabotaged
    : > /run/struck
    echo 'NoSuchKeyword yes' >> /etc/ssh/sshd_config.d/00-infractl.conf
    /usr/bin/systemctl stop ssh.service
    exit 0
  fi;;
esac
exec /usr/bin/systemctl "$@"
`
	// refusingSshd lets sshd start, listen and greet, and ends every login: only a real one shows it.
	refusingSshd = "#!/bin/sh\n" + whileArmed + `case "$*" in *reload*ssh*|*restart*ssh*)
  if armed && [ ! -e /run/sabotaged ]; then
    : > /run/sabotaged
    : > /run/struck
    echo 'ChrootDirectory /nonexistent' >> /etc/ssh/sshd_config.d/00-infractl.conf
  fi;;
esac
exec /usr/bin/systemctl "$@"
`
)

// Saboteur is some programs that stand before real ones on the agent's PATH, and make one commit go wrong in a way that no check
// before it has seen. The zero value does nothing.
type Saboteur struct {
	programs map[string]string
}

func afterVerify(strike string) Saboteur {
	return Saboteur{map[string]string{load4Path: loaded, load6Path: loaded,
		savePath: strings.Replace(verified, "(strike)", "("+strike+")", 1)}}
}

// DropEverything makes the firewall drop everything once it was loaded and verified.
func DropEverything() Saboteur { return afterVerify(dropEverything) }

// DeadSshd makes sshd stop and unable to start.
func DeadSshd() Saboteur { return Saboteur{map[string]string{systemctlPath: deadSshd}} }

// RefusingSshd makes sshd refuse every login.
func RefusingSshd() Saboteur { return Saboteur{map[string]string{systemctlPath: refusingSshd}} }

// CutOff makes the relay's firewall drop its logins to the fleet, once it was loaded and verified.
func CutOff() Saboteur { return afterVerify(cutOff) }

// traces are what the programs leave behind.
func traces() []string { return []string{"/run/loaded", "/run/sabotaged", "/run/struck"} }

// Install puts the saboteur into a VM.
func (s Saboteur) Install(ctx context.Context, vm *lab.VM) error {
	if err := s.Remove(ctx, vm); err != nil {
		return err
	}
	for path, script := range s.programs {
		if err := vm.WriteFile(ctx, path, 0o755, []byte(script)); err != nil {
			return errs.Wrap("install a saboteur", err)
		}
	}
	return nil
}

// Struck says whether it made its fault while a commit was armed. The zero value, which makes none, always has.
func (s Saboteur) Struck(vm *lab.VM) bool {
	if len(s.programs) == 0 {
		return true
	}
	_, err := os.Stat(filepath.Join(vm.Root(), "run/struck"))
	return err == nil
}

// Remove takes it away.
func (s Saboteur) Remove(ctx context.Context, vm *lab.VM) error {
	if len(s.programs) == 0 {
		return nil
	}
	_, err := vm.Must(ctx, slices.Concat([]string{"rm", "-f"}, slices.Collect(maps.Keys(s.programs)), traces())...)
	return errs.Wrap("remove a saboteur", err)
}
