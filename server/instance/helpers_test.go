package instance_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/instance"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/secret"
	"github.com/infractl/infractl/server/store"
)

// create asks for an instance and waits until its operation has ended.
func (s *server) create(name string, change ...func(*v1.CreateInstanceRequest)) *v1.Operation {
	s.t.Helper()
	id, err := s.begin(name, change...)
	if err != nil {
		s.t.Fatalf("create %s: %v", name, err)
	}
	return s.still(id)
}

func (s *server) begin(name string, change ...func(*v1.CreateInstanceRequest)) (string, error) {
	req := &v1.CreateInstanceRequest{Name: name, Version: "19.0.4", Company: "Acme SARL"}
	for _, f := range change {
		f(req)
	}
	res, err := s.service.CreateInstance(context.Background(), req)
	return res.GetOperationId(), err
}

// still waits until an operation moves no further by itself.
func (s *server) still(id string) *v1.Operation {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var last *v1.Operation
	if err := s.engine.Watch(ctx, id, func(o *v1.Operation) error { last = o; return nil }); err != nil {
		s.t.Fatalf("operation %s: %v\n%s", id, err, describe(last))
	}
	return last
}

func (s *server) want(op *v1.Operation, state v1.OperationState) {
	s.t.Helper()
	if op.GetState() != state {
		s.t.Fatalf("operation is %v, want %v\n%s", op.GetState(), state, describe(op))
	}
}

func describe(op *v1.Operation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v: %s (%s)\n", op.GetId(), op.GetState(), op.GetMessage(), op.GetHint())
	for _, s := range op.GetSteps() {
		fmt.Fprintf(&b, "  %s %v attempts %d: %s\n", s.GetName(), s.GetState(), s.GetAttempts(), s.GetMessage())
	}
	return b.String()
}

func (s *server) get(name string) *v1.Instance {
	s.t.Helper()
	res, err := s.service.GetInstance(context.Background(), &v1.GetInstanceRequest{Name: name})
	if err != nil {
		s.t.Fatalf("get %s: %v", name, err)
	}
	return res.GetInstance()
}

// nothingLeft fails when anything of any instance is left anywhere.
func (s *server) nothingLeft() {
	s.t.Helper()
	ctx := context.Background()
	for _, kind := range []store.Kind{instance.KindInstance, instance.KindName, instance.KindSubnet, secret.KindSecret, secret.KindValue, operation.KindTarget} {
		list, err := s.store.List(ctx, kind, store.ListOptions{})
		if err != nil {
			s.t.Fatalf("%v", err)
		}
		for _, rec := range list {
			s.t.Errorf("%s %s is left", kind, rec.Name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, h := range s.hosts {
		if len(h.have) > 0 || len(h.installed) > 0 || len(h.spec.GetDolibarr().GetInstances()) > 0 {
			s.t.Errorf("%s has %v, installed %v", name, h.have, h.installed)
		}
	}
}

const (
	succeeded = v1.OperationState_OPERATION_STATE_SUCCEEDED
	failed    = v1.OperationState_OPERATION_STATE_FAILED
)

func ctx() context.Context { return context.Background() }

// records returns the data of all records of a kind.
func (s *server) records(kind string) []string {
	s.t.Helper()
	list, err := s.store.List(ctx(), store.Kind(kind), store.ListOptions{})
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	var out []string
	for _, rec := range list {
		out = append(out, rec.Name+" "+string(rec.Data))
	}
	return out
}

func (s *server) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("no %s", what)
		}
	}
}

// retract is the publisher's.
func (w *world) retract() error {
	if w.registrarAway.Add(-1) >= 0 {
		return errs.New(errs.Unavailable, "the public name server is away")
	}
	w.retracted.Add(1)
	return nil
}

func (h *host) inventory() []*v1.FoundInstance {
	var found []*v1.FoundInstance
	for _, f := range h.foreign {
		found = append(found, proto.CloneOf(f))
	}
	for id, parts := range h.have {
		for part, there := range parts {
			kind, name, _ := strings.Cut(part, " ")
			if there {
				found = append(found, &v1.FoundInstance{Kind: kind, Name: name, Id: id, Instance: h.names[id], State: "running",
					Details: map[string]string{"subnet": h.subnets[id]}})
			}
		}
	}
	if h.spec.GetDolibarr().GetFront() != nil {
		found = append(found, &v1.FoundInstance{Kind: "front", Name: "infractl-front", State: "running"})
	}
	for version := range h.warm {
		found = append(found, &v1.FoundInstance{Kind: "template", Name: version + "-0123456789abcdef", Version: version})
	}
	return found
}

// host changes a host while the engine is at work.
func (w *world) host(name string, change func(*host)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w.hosts[name])
}
