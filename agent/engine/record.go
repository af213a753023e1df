package engine

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"sort"
	"strings"
	"syscall"
	"time"

	"os"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
)

// recordState is where a commit stands. It is the name of the record's file, so that one atomic rename decides between
// keeping and reverting, and whoever loses the rename knows it.
type recordState string

const (
	armed     recordState = "armed"     // applied or being applied; reverts unless confirmed
	kept      recordState = "kept"      // confirmed; making it survive a reboot is not finished
	done      recordState = "done"      // confirmed and durable
	reverting recordState = "reverting" // the former state is coming back
	reverted  recordState = "reverted"  // the former state is back
)

// unfinished are the states in which no other commit may start.
var unfinished = [...]recordState{armed, reverting}

// record is all that is needed to revert or to finish a commit, without the server and without the agent that began it.
type record struct {
	ID               string         `json:"id"`
	TaskID           string         `json:"task_id"`
	Stage            provider.Stage `json:"stage"`
	SpecDigest       string         `json:"spec_digest"`
	Spec             []byte         `json:"spec"`
	SiteRevision     uint64         `json:"site_revision"`
	ResourceRevision uint64         `json:"resource_revision"`
	Laggards         []string       `json:"laggards,omitempty"`
	Started          time.Time      `json:"started"`
	Window           time.Duration  `json:"window"`
	Steps            []stepRecord   `json:"steps"`
}

type stepRecord struct {
	Provider string `json:"provider"`
	Snapshot []byte `json:"snapshot"`
}

// records is the folder of commit records: <dir>/<id>/<state>.json.
type records struct {
	host *host.Host
	dir  string
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

// keepFinished is how many finished records stay, so that the outcome of a task that was cut short can still be told.
const keepFinished = 10

func (r records) file(id string, s recordState) string {
	return path.Join(r.dir, id, string(s)+".json")
}

// create writes a new record as armed, fsynced.
func (r records) create(rec record) error {
	if !idPattern.MatchString(rec.ID) {
		return errs.New(errs.Invalid, "commit id %q is not usable as a file name", rec.ID)
	}
	if _, err := r.state(rec.ID); err == nil {
		return errs.New(errs.Exists, "commit %s exists already", rec.ID)
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return errs.Wrap("write commit record", err)
	}
	if err := r.host.Mkdir(r.dir, 0o700); err != nil {
		return err
	}
	_, err = r.host.WriteFile(r.file(rec.ID, armed), data, 0o600)
	return err
}

// move renames a record from one state to another. won is false when the record was not in from: somebody else moved it.
func (r records) move(id string, from, to recordState) (won bool, err error) {
	err = r.host.Rename(r.file(id, from), r.file(id, to))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, errs.Wrap("move commit "+id+" from "+string(from)+" to "+string(to), err)
}

// state returns where a commit stands.
func (r records) state(id string) (recordState, error) {
	if !idPattern.MatchString(id) {
		return "", errs.New(errs.Invalid, "commit id %q is not usable as a file name", id)
	}
	for _, s := range [...]recordState{armed, kept, done, reverting, reverted} {
		if r.host.Exists(r.file(id, s)) {
			return s, nil
		}
	}
	return "", errs.New(errs.NotFound, "no commit %s on this host", id)
}

func (r records) load(id string, s recordState) (record, error) {
	var rec record
	data, err := r.host.ReadFile(r.file(id, s))
	if err != nil {
		return rec, errs.Wrap("read commit record "+id, err)
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		return rec, errs.New(errs.Internal, "commit record %s is damaged: %w", id, err)
	}
	return rec, nil
}

// in lists the commits that are in one of the states, oldest name first.
func (r records) in(states ...recordState) ([]string, error) {
	var ids []string
	for _, s := range states {
		files, err := r.host.Glob(path.Join(r.dir, "*", string(s)+".json"))
		if err != nil {
			return nil, errs.Wrap("list commit records", err)
		}
		for _, f := range files {
			ids = append(ids, path.Base(path.Dir(f)))
		}
	}
	sort.Strings(ids)
	return ids, nil
}

// prune removes finished records but the newest few.
func (r records) prune() {
	ids, err := r.in(done, reverted)
	if err != nil || len(ids) <= keepFinished {
		return
	}
	sort.Slice(ids, func(i, j int) bool { return r.finished(ids[i]).Before(r.finished(ids[j])) })
	for _, id := range ids[:len(ids)-keepFinished] {
		_ = r.host.RemoveAll(path.Join(r.dir, id))
	}
}

func (r records) finished(id string) time.Time {
	info, err := os.Stat(r.host.Path(path.Join(r.dir, id)))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// lock serialises reverts of one commit between processes: the agent, the timer's and the boot unit's. The kernel frees it
// when its holder dies.
func (r records) lock(id string) (unlock func(), err error) {
	f, err := os.OpenFile(r.host.Path(path.Join(r.dir, id, "lock")), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errs.Wrap("lock commit "+id, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, errs.Wrap("lock commit "+id, err)
	}
	return func() { f.Close() }, nil
}

func providerNames(rec record) string {
	names := make([]string, 0, len(rec.Steps))
	for _, s := range rec.Steps {
		names = append(names, s.Provider)
	}
	return strings.Join(names, ", ")
}
