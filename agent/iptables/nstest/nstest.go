// Package nstest gives tests network namespaces of their own, in which they run real iptables and open real connections. They need root.
package nstest

import (
	"context"
	"crypto/rand"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/agent/host"
)

// New makes a network namespace with a unique name and removes it at the end of the test. kind says in its name what it stands for.
func New(t testing.TB, kind string) string {
	t.Helper()
	name := "ins-" + rand.Text()[:12] + "-" + kind
	MustRun(t, "ip", "netns", "add", name)
	t.Cleanup(func() { MustRun(t, "ip", "netns", "del", name) })
	MustRun(t, "ip", "-n", name, "link", "set", "lo", "up")
	return name
}

// MustRun runs a command of the machine, which has to succeed, and returns its standard output.
func MustRun(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := Command(nil, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Command runs a command of the machine, 20 seconds at most, and returns its standard output. The error has the command and what it
// complained about.
func Command(stdin []byte, argv ...string) (string, error) {
	out, err := host.New(host.Config{}).RunCmd(context.Background(), host.Cmd{Argv: argv, Stdin: stdin, Timeout: 20 * time.Second})
	return string(out.Stdout), err
}

// Inside is a command that runs another one with a namespace's network.
func Inside(ns string, argv ...string) []string {
	return append([]string{"nsenter", "--net=/run/netns/" + ns}, argv...)
}

// Within runs fn on a thread that is in the namespace. Sockets that fn makes stay there.
func Within(ns string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, so that no other code runs in there
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// Runner runs a provider's commands in a namespace, with the legacy backend of iptables where told so. It implements host.Runner.
type Runner struct {
	NS     string
	Legacy bool
}

// Run implements host.Runner.
func (r Runner) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	argv := make([]string, 0, len(cmd.Argv))
	for _, word := range cmd.Argv {
		argv = append(argv, r.Program(word))
	}
	cmd.Argv = Inside(r.NS, argv...)
	return host.New(host.Config{}).RunCmd(ctx, cmd)
}

// Program is the name of a program of iptables in the runner's backend; other words stay.
func (r Runner) Program(name string) string {
	if r.Legacy && (strings.HasSuffix(name, "tables-save") || strings.HasSuffix(name, "tables-restore")) {
		return strings.Replace(name, "tables-", "tables-legacy-", 1)
	}
	return name
}

var noise = regexp.MustCompile(`(?m)^#.*\n| \[\d+:\d+\]`)

// Save is what one of iptables' -save programs prints in the namespace, without times and counters.
func (r Runner) Save(program string, args ...string) (string, error) {
	out, err := Command(nil, Inside(r.NS, append([]string{r.Program(program)}, args...)...)...)
	return noise.ReplaceAllString(out, ""), err
}
