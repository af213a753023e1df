package session

import (
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// entry is a task as the journal holds it. The work itself is not kept: what a restarted agent must know of an apply is
// the commit that it could have armed.
type entry struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	CommitID string    `json:"commit_id,omitempty"`
	Pass     v1.Pass   `json:"pass,omitempty"`
	Accepted time.Time `json:"accepted"`
	NotAfter time.Time `json:"not_after"`
	// Result is the serialised TaskResult once there is one.
	Result []byte `json:"result,omitempty"`
	// Acknowledged says that the server has the result. The entry stays until NotAfter is past, so that the id is known.
	Acknowledged bool `json:"acknowledged,omitempty"`

	sent time.Time // when the result was last sent
}

// journal keeps tasks on disk: accepted before anything is done, the result until the server has it.
type journal struct {
	host *host.Host
	dir  string
	log  hclog.Logger

	mu      sync.Mutex
	entries map[string]*entry
}

// keepKnown is how long after NotAfter an id is still remembered: clocks differ.
const keepKnown = 10 * time.Minute

const (
	// maxKnown bounds how long an id is remembered, whatever NotAfter says.
	maxKnown = 30 * 24 * time.Hour
	// maxEntries bounds the journal.
	maxEntries = 4096
)

// validID reports whether an id is fit to name a file.
func validID(id string) bool {
	ok, err := regexp.MatchString(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$`, id)
	return ok && err == nil
}

func openJournal(h *host.Host, dir string, log hclog.Logger) (*journal, error) {
	j := &journal{host: h, dir: dir, log: log, entries: map[string]*entry{}}
	if err := h.Mkdir(dir, 0o700); err != nil {
		return nil, errs.Wrap("open task journal", err)
	}
	files, err := h.Glob(dir + "/*.json")
	if err != nil {
		return nil, errs.Wrap("open task journal", err)
	}
	for _, file := range files {
		data, err := h.ReadFile(file)
		if err != nil {
			return nil, errs.Wrap("open task journal", err)
		}
		e := &entry{}
		if err := json.Unmarshal(data, e); err != nil || e.ID != strings.TrimSuffix(path.Base(file), ".json") {
			log.Error("a task of the journal cannot be read and is passed over", "file", file, "error", err)
			continue
		}
		j.entries[e.ID] = e
	}
	return j, nil
}

func (j *journal) write(e *entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return errs.Wrap("write task journal", err)
	}
	_, err = j.host.WriteFile(path.Join(j.dir, e.ID+".json"), append(data, '\n'), 0o600)
	return errs.Wrap("write task journal", err)
}

// accept puts a task on disk. A task whose id is known already is returned as it is, with known set.
func (j *journal) accept(e *entry) (have entry, known bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if old := j.entries[e.ID]; old != nil {
		return *old, true, nil
	}
	if len(j.entries) >= maxEntries {
		return *e, false, errs.New(errs.Exhausted, "the task journal holds %d tasks already", maxEntries)
	}
	if err := j.write(e); err != nil {
		return *e, false, err
	}
	j.entries[e.ID] = e
	return *e, false, nil
}

// finish stores a task's result. Without room on the disk it is kept in memory, and a restart makes it an unknown outcome.
func (j *journal) finish(result *v1.TaskResult) {
	data, err := proto.Marshal(result)
	if err != nil {
		j.log.Error("cannot store a result", "task", result.GetTaskId(), "error", err)
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.entries[result.GetTaskId()]
	if e == nil {
		return
	}
	e.Result = data
	if err := j.write(e); err != nil {
		j.log.Error("cannot store a result", "task", e.ID, "error", err)
	}
}

// acknowledge notes that the server has the result.
func (j *journal) acknowledge(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.entries[id]
	if e == nil || e.Acknowledged || e.Result == nil {
		return
	}
	e.Acknowledged = true
	if err := j.write(e); err != nil {
		j.log.Error("cannot note an acknowledgement", "task", id, "error", err)
	}
}

// prune forgets acknowledged tasks that could not be started any more even if they came again, and whatever is very old.
func (j *journal) prune(now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for id, e := range j.entries {
		old := now.After(e.Accepted.Add(maxKnown))
		if !old && (!e.Acknowledged || now.Before(e.NotAfter.Add(keepKnown))) || e.Result == nil {
			continue
		}
		if err := j.host.Remove(path.Join(j.dir, id+".json")); err != nil {
			j.log.Error("cannot remove a finished task", "task", id, "error", err)
			continue
		}
		delete(j.entries, id)
	}
}

// unfinished lists accepted tasks without a result, oldest first.
func (j *journal) unfinished() []entry {
	return j.list(func(e *entry) bool { return e.Result == nil })
}

// unsent lists tasks whose result the server does not have and was not sent since before, and notes them as sent now.
func (j *journal) unsent(before, now time.Time) []entry {
	list := j.list(func(e *entry) bool {
		return e.Result != nil && !e.Acknowledged && !e.sent.After(before)
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range list {
		if own := j.entries[e.ID]; own != nil {
			own.sent = now
		}
	}
	return list
}

func (j *journal) list(match func(*entry) bool) []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []entry
	for _, e := range j.entries {
		if match(e) {
			list = append(list, *e)
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return a.Accepted.Compare(b.Accepted) })
	return list
}

// result reads the stored result.
func (e *entry) result() *v1.TaskResult {
	r := &v1.TaskResult{}
	if err := proto.Unmarshal(e.Result, r); err != nil {
		return &v1.TaskResult{TaskId: e.ID, Error: taskError(errs.New(errs.Internal, "the stored result cannot be read"))}
	}
	return r
}

// taskError turns an error into the form in which it travels.
func taskError(err error) *v1.TaskError {
	return &v1.TaskError{Code: string(errs.CodeOf(err)), Message: err.Error(), Hint: errs.HintOf(err)}
}
