package engine

import (
	"errors"
	"io/fs"
	"path"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (e *Engine) stateFile() string { return path.Join(e.dir, "state.json") }
func (e *Engine) specFile() string  { return path.Join(e.dir, "spec.bin") }
func commitsDir(dir string) string  { return path.Join(dir, "commits") }

// State returns a copy of how far the host is.
func (e *Engine) State() *v1.HostState {
	e.stateMu.Lock()
	defer e.stateMu.Unlock()
	state := proto.Clone(e.state).(*v1.HostState)
	if ids, err := e.records.in(unfinished[:]...); err == nil && len(ids) > 0 {
		state.ArmedCommit = ids[0]
	}
	return state
}

// Spec returns the spec that the host last worked on, nil when there is none or it can't be read.
func (e *Engine) Spec() *v1.HostSpec {
	content, err := e.host.ReadFile(e.specFile())
	if err != nil {
		return nil
	}
	spec, err := hostspec.Decode(content, hostspec.Digest(content))
	if err != nil {
		return nil
	}
	return spec
}

// update changes the state and writes it when that changed anything.
func (e *Engine) update(change func(*v1.HostState)) {
	e.stateMu.Lock()
	defer e.stateMu.Unlock()
	before := proto.Clone(e.state)
	change(e.state)
	if proto.Equal(before, e.state) {
		return
	}
	data, err := protojson.Marshal(e.state)
	if err == nil {
		_, err = e.host.WriteFile(e.stateFile(), data, 0o600)
	}
	if err != nil {
		// The state can be told again from the next apply; losing it must not stop a commit.
		e.log.Error("could not store the host's state", "error", err)
	}
}

func (e *Engine) loadState() error {
	data, err := e.host.ReadFile(e.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.Wrap("read host state", err)
	}
	if err := protojson.Unmarshal(data, e.state); err != nil {
		e.log.Warn("the stored host state is damaged; starting without it", "error", err)
		e.state = &v1.HostState{}
	}
	return nil
}

// setDrift stores what a look at the host found.
func (e *Engine) setDrift(changes []*v1.Change) {
	e.update(func(s *v1.HostState) {
		if slices.EqualFunc(s.Drift, changes, func(a, b *v1.Change) bool { return proto.Equal(a, b) }) && s.DriftTime != nil {
			return
		}
		s.Drift = changes
		s.DriftTime = timestamppb.New(e.clock.Now())
	})
}
