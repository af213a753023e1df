package lab

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

const (
	stateFile = "lab.json"
	lockFile  = runDir + "/lock"
	labsDir   = runDir + "/labs"
	lockWait  = 15 * time.Minute // the first lab builds its images meanwhile
)

// state is what Open needs to find a lab again, in <Dir>/lab.json. Contents of files are left out: they may be secret,
// and the VMs have them.
type state struct {
	Config Config
	// Image is the VM image that the VMs were made from.
	Image string
	// Busybox is the tag of the image that nested engines hold.
	Busybox string
	// Cut lists the cables that are out, "vm/card".
	Cut []string `json:",omitempty"`
}

func (l *Lab) statePath() string { return filepath.Join(l.cfg.Dir, stateFile) }

// saveState writes the state file; the caller holds l.mu or is the only user.
func (l *Lab) saveState() error {
	s := state{Config: l.cfg, Image: l.image, Busybox: l.images.busybox}
	s.Config.VMs = nil
	for _, vm := range l.cfg.VMs {
		files := make([]File, 0, len(vm.Files))
		for _, f := range vm.Files {
			files = append(files, File{Guest: f.Guest, Mode: f.Mode})
		}
		vm.Files = files
		s.Config.VMs = append(s.Config.VMs, vm)
	}
	for cable := range l.cut {
		s.Cut = append(s.Cut, cable)
	}
	return writeJSON(l.statePath(), s)
}

func loadState(dir string) (state, error) {
	var s state
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if os.IsNotExist(err) {
		return s, errs.New(errs.NotFound, "there is no lab").At(dir).WithHint("infractl-lab up")
	}
	if err != nil {
		return s, errs.Wrap("read the lab's state", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, errs.New(errs.Internal, "the lab's state is damaged: %w", err).At(filepath.Join(dir, stateFile))
	}
	s.Config.Dir = dir
	return s, s.Config.Validate()
}

func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return errs.Wrap("write "+path, err)
	}
	return errs.Wrap("write "+path, renameio.WriteFile(path, append(data, '\n'), 0o600))
}

// register notes that a lab exists, so that the engine stays while it does.
func (l *Lab) register() error {
	if err := os.MkdirAll(labsDir, 0o755); err != nil {
		return errs.Wrap("register the lab", err)
	}
	return writeJSON(filepath.Join(labsDir, l.cfg.Name+".json"), map[string]string{"Dir": l.cfg.Dir})
}

// registered returns the folder of the registered lab of that name, "" if there is none.
func registered(name string) string {
	data, err := os.ReadFile(filepath.Join(labsDir, name+".json"))
	if err != nil {
		return ""
	}
	var entry struct{ Dir string }
	_ = json.Unmarshal(data, &entry)
	return entry.Dir
}

// unregister removes the lab's note and those of labs that no longer exist, and returns how many are left.
func (l *Lab) unregister() int {
	_ = os.Remove(filepath.Join(labsDir, l.cfg.Name+".json"))
	entries, _ := os.ReadDir(labsDir)
	left := 0
	for _, e := range entries {
		name := e.Name()[:len(e.Name())-len(filepath.Ext(e.Name()))]
		// A lab whose state file or namespace is gone was removed by hand or ended with the machine.
		_, err := os.Stat(filepath.Join(registered(name), stateFile))
		if err != nil && !netnsExists(siteNetns(name)) {
			_ = os.Remove(filepath.Join(labsDir, e.Name()))
			continue
		}
		left++
	}
	return left
}

// lockRun holds the one lock that serialises starting and stopping of the engine and building of images over all labs of
// the machine. The returned function releases it.
func lockRun(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, errs.Wrap("lock the lab", err)
	}
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, errs.Wrap("lock the lab", err)
	}
	for end := time.Now().Add(lockWait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			_ = f.Close()
			return nil, errs.New(errs.Timeout, "another lab command holds the lock: %w", err).At(lockFile)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
