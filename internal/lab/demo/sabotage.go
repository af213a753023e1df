package demo

import (
	"context"
	"os"
	"path/filepath"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// The saboteurs' programs act once, and only while a commit is armed. A commit may be kept while they wait: what they did after
// that is no fault of a commit but somebody's hand, so they take it back, and have not struck.
const (
	restorePath   = "/usr/local/sbin/iptables-restore"
	systemctlPath = "/usr/local/sbin/systemctl"

	whileArmed = `armed() { for f in /var/lib/infractl/commits/*/armed.json; do [ -e "$f" ] && return 0; done; return 1; }
`
	// dropEverything lets the rules be loaded and verified, and then drops everything in our own chains.
	dropEverything = "#!/bin/sh\n" + whileArmed + `/usr/sbin/iptables-restore "$@"
rc=$?
if armed && [ ! -e /run/sabotaged ] && [ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/1/ns/net)" ]; then
  : > /run/sabotaged
  setsid sh -c '` + whileArmed + `sleep 0.12; iptables -w 2 -I INFRACTL-IN 1 -j DROP; iptables -w 2 -I INFRACTL-OUT 1 -j DROP
    if armed; then : > /run/struck; exit; fi
    for c in INFRACTL-IN INFRACTL-OUT; do
      [ "$(iptables -w 2 -S $c 1)" = "-A $c -j DROP" ] && iptables -w 2 -D $c 1
    done' >/dev/null 2>&1 </dev/null &
fi
exit $rc
`
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
	// cutOff drops what the relay sends to its fleet by SSH.
	cutOff = "#!/bin/sh\n" + whileArmed + `/usr/sbin/iptables-restore "$@"
rc=$?
if armed && [ ! -e /run/sabotaged ] && [ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/1/ns/net)" ]; then
  : > /run/sabotaged
  setsid sh -c '` + whileArmed + `sleep 0.12; iptables -w 2 -I INFRACTL-OUT 1 -p tcp -d 10.0.10.0/24 --dport 202 -j DROP
    if armed; then : > /run/struck; else iptables -w 2 -D INFRACTL-OUT -p tcp -d 10.0.10.0/24 --dport 202 -j DROP; fi' >/dev/null 2>&1 </dev/null &
fi
exit $rc
`
)

// Saboteur is a program that stands before a real one on the agent's PATH, and makes one commit go wrong in a way that no
// check before it has seen. The zero value does nothing.
type Saboteur struct {
	path, script string
}

// DropEverything makes the firewall drop everything once it was loaded and verified.
func DropEverything() Saboteur { return Saboteur{restorePath, dropEverything} }

// DeadSshd makes sshd stop and unable to start.
func DeadSshd() Saboteur { return Saboteur{systemctlPath, deadSshd} }

// RefusingSshd makes sshd refuse every login.
func RefusingSshd() Saboteur { return Saboteur{systemctlPath, refusingSshd} }

// CutOff makes the relay's firewall drop its logins to the fleet.
func CutOff() Saboteur { return Saboteur{restorePath, cutOff} }

// Install puts the saboteur into a VM.
func (s Saboteur) Install(ctx context.Context, vm *lab.VM) error {
	if s.path == "" {
		return nil
	}
	if _, err := vm.Must(ctx, "rm", "-f", "/run/sabotaged", "/run/struck"); err != nil {
		return errs.Wrap("install a saboteur", err)
	}
	return errs.Wrap("install a saboteur", vm.WriteFile(ctx, s.path, 0o755, []byte(s.script)))
}

// Struck says whether it made its fault while a commit was armed. The zero value, which makes none, always has.
func (s Saboteur) Struck(vm *lab.VM) bool {
	if s.path == "" {
		return true
	}
	_, err := os.Stat(filepath.Join(vm.Root(), "run/struck"))
	return err == nil
}

// Remove takes it away.
func (s Saboteur) Remove(ctx context.Context, vm *lab.VM) error {
	if s.path == "" {
		return nil
	}
	_, err := vm.Must(ctx, "rm", "-f", s.path, "/run/sabotaged", "/run/struck")
	return errs.Wrap("remove a saboteur", err)
}
