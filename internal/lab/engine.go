package lab

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/client"
	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

// runDir holds the lab's own engine while it runs and one file per lab that is up.
const runDir = "/run/infractl-lab"

const (
	engineSocket  = runDir + "/docker.sock"
	engineExec    = runDir + "/exec"
	containerdDir = engineExec + "/containerd"
	enginePidfile = runDir + "/dockerd.pid"
	engineLog     = runDir + "/dockerd.log"
	engineRecord  = runDir + "/engine.json"
	engineWait    = 30 * time.Second
	pingWait      = 2 * time.Second
)

// engineOwner remembers an engine that a lab started. The start time tells a reused process id from ours.
type engineOwner struct {
	Pid      int
	Started  string
	CacheDir string
}

// defaultEngine returns a client if an engine of the machine answers at DOCKER_HOST or the usual socket.
func defaultEngine(ctx context.Context) *client.Client {
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil
	}
	return answering(ctx, c)
}

// ownEngine returns a client if the lab's own engine answers.
func ownEngine(ctx context.Context) *client.Client {
	c, err := client.NewClientWithOpts(client.WithHost("unix://"+engineSocket), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil
	}
	return answering(ctx, c)
}

func answering(ctx context.Context, c *client.Client) *client.Client {
	ctx, cancel := context.WithTimeout(ctx, pingWait)
	defer cancel()
	if _, err := c.Ping(ctx); err != nil {
		_ = c.Close()
		return nil
	}
	return c
}

// runningEngine returns a client of the engine that labs use now, or nil.
func runningEngine(ctx context.Context) *client.Client {
	if c := ownEngine(ctx); c != nil {
		return c
	}
	return defaultEngine(ctx)
}

// startEngine returns a client of a running engine and starts the lab's own where there is none. The caller holds the
// run lock.
func (l *Lab) startEngine(ctx context.Context) (*client.Client, error) {
	if c := runningEngine(ctx); c != nil {
		return c, nil
	}
	if err := l.installMissing(ctx); err != nil {
		return nil, err
	}
	if c := runningEngine(ctx); c != nil {
		return c, nil // its package started it
	}
	l.say("starting a Docker engine of our own")
	dataRoot := filepath.Join(l.cfg.CacheDir, "engine")
	for _, dir := range []string{dataRoot, runDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, errs.Wrap("start the engine", err)
		}
	}
	endOrphans("containerd")
	// A dead process that nobody collected counts as alive for dockerd, so its number must not be found.
	for _, stale := range []string{enginePidfile, engineSocket, containerdDir + "/containerd.pid", containerdDir + "/docker-containerd.pid"} {
		_ = os.Remove(stale)
	}
	log, err := os.Create(engineLog)
	if err != nil {
		return nil, errs.Wrap("start the engine", err)
	}
	defer log.Close()
	// Without the first four options the engine would set rules, sysctls and a bridge on the machine; with live-restore the
	// VMs outlive a crash of the engine.
	cmd := exec.Command("dockerd", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none",
		"--userland-proxy=false", "--live-restore", "--data-root", dataRoot, "--exec-root", engineExec, "--pidfile", enginePidfile,
		"-H", "unix://"+engineSocket)
	cmd.Env = hostEnv()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this process
	if err := cmd.Start(); err != nil {
		return nil, errs.Wrap("start the engine", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(ended)
	}()
	owner := engineOwner{Pid: cmd.Process.Pid, Started: startTime(cmd.Process.Pid), CacheDir: l.cfg.CacheDir}
	if err := writeJSON(engineRecord, owner); err != nil {
		_ = cmd.Process.Kill()
		return nil, err
	}
	limit := time.After(engineWait)
	for {
		if c := ownEngine(ctx); c != nil {
			return c, nil
		}
		select {
		case <-ended:
			return nil, errs.New(errs.Unavailable, "dockerd ended: %s", lastLines(engineLog, 5)).WithHint("infractl-lab doctor")
		case <-limit:
			return nil, errs.New(errs.Timeout, "dockerd did not answer within %s: %s", engineWait, lastLines(engineLog, 5))
		case <-ctx.Done():
			return nil, errs.Wrap("start the engine", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stopEngine ends the engine that a lab started, with everything it keeps outside the cache. An engine of the machine is
// left alone. The caller holds the run lock.
func stopEngine() error {
	var owner engineOwner
	if data, err := os.ReadFile(engineRecord); err == nil {
		if err := json.Unmarshal(data, &owner); err != nil {
			return errs.Wrap("read "+engineRecord, err)
		}
	}
	if owner.alive() {
		_ = syscall.Kill(owner.Pid, syscall.SIGTERM)
		if !waitGone(owner.alive, 15*time.Second) {
			_ = syscall.Kill(owner.Pid, syscall.SIGKILL)
			waitGone(owner.alive, 2*time.Second)
		}
	}
	endOrphans("containerd")
	endOrphans("containerd-shim-runc-v2")
	if owner.CacheDir != "" {
		dir := filepath.Join(owner.CacheDir, "engine")
		unmountBelow(dir)
		// An engine that crashed while it made a container does not know it afterwards. With no lab left there is none to keep.
		if err := os.RemoveAll(filepath.Join(dir, "containers")); err != nil {
			return errs.Wrap("stop the engine", err)
		}
	}
	unmountBelow(engineExec)
	removeCgroups("docker")
	for _, name := range []string{engineSocket, enginePidfile, engineLog, engineRecord} {
		_ = os.Remove(name)
	}
	return errs.Wrap("stop the engine", os.RemoveAll(engineExec))
}

// endOrphans kills the engine's helpers of that name that outlived an engine which crashed. They are known by the folder
// of our engine in their arguments. A shim is left to a new engine, which takes its container over.
func endOrphans(program string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		argv := strings.Split(string(line), "\x00")
		if filepath.Base(argv[0]) != program || !strings.Contains(string(line), engineExec+"/") || !sameMounts(e.Name()) {
			continue
		}
		started := startTime(pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
		waitGone(func() bool { return startTime(pid) == started && started != "" }, 2*time.Second)
	}
}

// sameMounts reports whether a process sees the same file systems as this one, so that its paths mean the same.
func sameMounts(pid string) bool {
	own, err := os.Stat("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	other, err := os.Stat("/proc/" + pid + "/ns/mnt")
	return err == nil && os.SameFile(own, other)
}

func (o engineOwner) alive() bool {
	return o.Pid > 0 && o.Started != "" && startTime(o.Pid) == o.Started
}

func waitGone(alive func() bool, limit time.Duration) bool {
	for end := time.Now().Add(limit); alive(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// startTime returns a process's start in clock ticks since boot, "" if it is gone or a zombie.
func startTime(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The name in parentheses may hold blanks; the state is the first field after it, the start time the twentieth.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// unmountBelow unmounts everything mounted at or below dir, the deepest first.
func unmountBelow(dir string) {
	for _, point := range mountsBelow(dir) {
		_ = unix.Unmount(point, unix.MNT_DETACH)
	}
}

// mountsBelow lists the mount points at or below dir, the latest first.
func mountsBelow(dir string) []string {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	var points []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			points = append([]string{fields[4]}, points...)
		}
	}
	return points
}

func lastLines(file string, n int) string {
	data, _ := os.ReadFile(file)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// installMissing installs the Debian packages whose programs are not there.
func (l *Lab) installMissing(ctx context.Context) error {
	packages := missingPackages()
	if len(packages) == 0 {
		return nil
	}
	l.say("installing " + strings.Join(packages, " "))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	env := hostEnv("DEBIAN_FRONTEND=noninteractive")
	for _, argv := range [][]string{
		{"apt-get", "update", "-q"},
		append([]string{"apt-get", "install", "-qy", "--no-install-recommends"}, packages...),
	} {
		result, err := run(ctx, env, nil, argv...)
		if err == nil {
			err = result.OK(argv...)
		}
		if err != nil {
			return errs.Wrap("install what the lab needs", err)
		}
	}
	return nil
}

// missingPackages lists the Debian packages of programs that the lab runs and the machine lacks.
func missingPackages() []string {
	need := []struct{ program, pkg string }{
		{"dockerd", "docker.io"}, {"iptables", "iptables"}, {"ip", "iproute2"}, {"mmdebstrap", "mmdebstrap"},
		{"nsenter", "util-linux"}, {"sysctl", "procps"},
	}
	var missing []string
	for _, n := range need {
		if _, err := exec.LookPath(n.program); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	return missing
}
