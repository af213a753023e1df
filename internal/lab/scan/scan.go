// Package scan looks for secret values where none may be: in the arguments and the environment of processes, in journals and log
// files, in what server and agents keep, in what the container engine tells of containers, and in texts such as plans, audit and
// the output of benchmarks.
package scan

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// minValue is the shortest value that is looked for, in bytes: a shorter one is found everywhere by chance.
const minValue = 12

// Machine is a VM, or what stands for one in a test.
type Machine interface {
	// Name is its name in leaks.
	Name() string
	// ExecIn runs a command there, with standard input.
	ExecIn(ctx context.Context, stdin io.Reader, argv ...string) (lab.Result, error)
}

// Target says what to look for, and where.
type Target struct {
	// Values are the secrets; 12 bytes at least, in one line.
	Values []string
	// Folders are those on the machines whose files must hold none; nil means DefaultFolders.
	Folders []string
	// Spare are paths on the machines (patterns of find -path) that may hold values: the files that containers mount.
	Spare []string
	// Texts are what was printed, by a name for it: plans, audit, the output of benchmarks.
	Texts map[string]string
	// Local are files and folders of this machine.
	Local []string
}

// DefaultFolders are where logs and the state of server and agent are.
func DefaultFolders() []string {
	return []string{"/var/log", "/var/lib/infractl", "/var/lib/infractl-server", "/var/lib/infractl-server-keys", "/etc/infractl",
		"/etc/systemd/system", "/run/infractl", "/run/infractl-server", "/tmp", "/var/tmp", "/root"}
}

// DefaultSpare are where the agent puts secrets for the containers that use them.
func DefaultSpare() []string {
	return []string{"/var/lib/infractl/stacks/*/secrets/*", "/run/infractl/secrets/*"}
}

// Leak is a place where a value was found. It never holds the value.
type Leak struct {
	// Where is the machine, "local", or "text".
	Where string
	// Kind is what was looked at, such as "process arguments" or "journal".
	Kind string
	// What is the process, file, unit, container or text.
	What string
}

// String says it in one line.
func (l Leak) String() string { return fmt.Sprintf("%s: %s: %s", l.Where, l.Kind, l.What) }

// Lab looks at all VMs of a lab.
func Lab(ctx context.Context, l *lab.Lab, t Target) ([]Leak, error) {
	var machines []Machine
	cfg := l.Config()
	for _, name := range cfg.VMNames() {
		machines = append(machines, l.VM(name))
	}
	return Scan(ctx, machines, t)
}

// Scan looks at machines, texts and local files.
func Scan(ctx context.Context, machines []Machine, t Target) ([]Leak, error) {
	if len(t.Values) == 0 {
		return nil, errs.New(errs.Invalid, "there is no value to look for")
	}
	for _, v := range t.Values {
		if len(v) < minValue || strings.Contains(v, "\n") {
			return nil, errs.New(errs.Invalid, "a value to look for has at least %d bytes and one line", minValue)
		}
	}
	if t.Folders == nil {
		t.Folders = DefaultFolders()
	}
	forms := formsOf(t.Values)
	var out []Leak
	for _, m := range machines {
		found, err := look(ctx, m, t, forms)
		if err != nil {
			return nil, errs.Wrap("scan "+m.Name(), err)
		}
		out = append(out, found...)
	}
	for name, text := range t.Texts {
		if holds([]byte(text), forms) {
			out = append(out, Leak{"text", "text", name})
		}
	}
	for _, path := range t.Local {
		found, err := local(path, forms)
		if err != nil {
			return nil, errs.Wrap("scan", err)
		}
		out = append(out, found...)
	}
	slices.SortFunc(out, func(a, b Leak) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

// formsOf are the forms in which a value can stand in a text: as it is, in base64 and in hexadecimal digits.
func formsOf(values []string) []string {
	var out []string
	for _, v := range values {
		raw := []byte(v)
		out = append(out, v, hex.EncodeToString(raw), strings.TrimRight(base64.StdEncoding.EncodeToString(raw), "="),
			strings.TrimRight(base64.URLEncoding.EncodeToString(raw), "="))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func holds(data []byte, forms []string) bool {
	return slices.ContainsFunc(forms, func(f string) bool { return bytes.Contains(data, []byte(f)) })
}

func local(path string, forms []string) ([]Leak, error) {
	var out []Leak
	err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(file)
		if holds(data, forms) {
			out = append(out, Leak{"local", "file", file})
		}
		return err
	})
	return out, err
}

// script prints a line for each leak: kind, tab, place; its last line is "done". The forms come by stdin, so that they stand in no
// process's arguments, and lie in a file outside of all folders while it works. The arguments are those of a find.
const script = `set -u
export LC_ALL=C
umask 077
p=$(mktemp /dev/shm/scan.XXXXXX) || exit 9
trap 'rm -f "$p"' EXIT
cat > "$p"
test -s "$p" || exit 9
for kind in cmdline environ; do
  for f in /proc/[0-9]*/$kind; do
    if grep -aqFf "$p" "$f" 2>/dev/null; then
      printf 'process %s\t%s\n' "$kind" "$(cat "${f%/*}/comm" 2>/dev/null)"
    fi
  done
done
if command -v journalctl >/dev/null; then
  if [ "$(journalctl --no-pager --quiet --output=export 2>/dev/null | grep -acFf "$p")" != 0 ]; then
    printf 'journal\t%s\n' "$(journalctl --no-pager --quiet --output=short 2>/dev/null | grep -aFf "$p" | awk '{print $5}' | sort -u | head -n 5 | tr '\n' ' ')"
  fi
fi
if command -v docker >/dev/null; then
  for id in $(timeout 20 docker ps -aq 2>/dev/null); do
    if [ "$(timeout 20 docker inspect "$id" 2>/dev/null | grep -acFf "$p")" != 0 ]; then printf 'docker inspect\t%s\n' "$id"; fi
    if [ "$(timeout 20 docker logs --tail 5000 "$id" 2>&1 | grep -acFf "$p")" != 0 ]; then printf 'docker logs\t%s\n' "$id"; fi
  done
fi
find "$@" -exec grep -alFf "$p" {} + 2>/dev/null | while IFS= read -r f; do printf 'file\t%s\n' "$f"; done
echo done
`

// look runs the script on one machine.
func look(ctx context.Context, m Machine, t Target, forms []string) ([]Leak, error) {
	argv := append([]string{"sh", "-c", script, "scan"}, t.Folders...)
	argv = append(argv, "-xdev", "-type", "f", "-size", "-262144k")
	for _, path := range t.Spare {
		argv = append(argv, "!", "-path", path)
	}
	r, err := m.ExecIn(ctx, strings.NewReader(strings.Join(forms, "\n")+"\n"), argv...)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(r.Stdout, "\n"), "\n")
	if r.Code != 0 || lines[len(lines)-1] != "done" {
		return nil, errs.New(errs.Internal, "the scan did not end well: code %d: %.500s", r.Code, r.Stderr)
	}
	var out []Leak
	for _, line := range lines[:len(lines)-1] {
		kind, what, _ := strings.Cut(line, "\t")
		out = append(out, Leak{m.Name(), kind, what})
	}
	return out, nil
}
