package instance_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// TestServerThatStopsAnywhereGoesOn stops the server at each thing that it asks of others during an operation in turn, starts another one,
// and looks whether the operation comes to its end, and whether records and reality agree.
func TestServerThatStopsAnywhereGoesOn(t *testing.T) {
	t.Parallel()
	made := func(s *server) { s.want(s.create("acme"), succeeded) }
	is := func(name string, state v1.InstanceState) func(t *testing.T, s *server) {
		return func(t *testing.T, s *server) {
			if got := s.get(name); got.GetState() != state {
				t.Errorf("%s is %v: %s", name, got.GetState(), got.GetProblem())
			}
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(s *server)
		begin   func(s *server) (string, error)
		check   func(t *testing.T, s *server)
		points  int   // at least
		own     int64 // points of the call itself, before anything is accepted
	}{
		{"create", func(*server) {}, func(s *server) (string, error) { return s.begin("acme") },
			is("acme", v1.InstanceState_INSTANCE_STATE_ACTIVE), 9, 0},
		{"restart", made, func(s *server) (string, error) {
			res, err := s.service.RestartInstance(ctx(), &v1.RestartInstanceRequest{Name: "acme"})
			return res.GetOperationId(), err
		}, is("acme", v1.InstanceState_INSTANCE_STATE_ACTIVE), 3, 0},
		{"rename", made, func(s *server) (string, error) {
			res, err := s.service.RenameInstance(ctx(), &v1.RenameInstanceRequest{Name: "acme", NewName: "beta"})
			return res.GetOperationId(), err
		}, is("beta", v1.InstanceState_INSTANCE_STATE_ACTIVE), 2, 0},
		{"configure", made, func(s *server) (string, error) {
			res, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "acme", AddDomains: []string{"erp.acme.example"}})
			return res.GetOperationId(), err
		}, is("acme", v1.InstanceState_INSTANCE_STATE_ACTIVE), 1, 0},
		{"passwords", made, func(s *server) (string, error) {
			res, err := s.service.RotateDatabase(ctx(), &v1.RotateDatabaseRequest{Name: "acme"})
			return res.GetOperationId(), err
		}, func(t *testing.T, s *server) {
			is("acme", v1.InstanceState_INSTANCE_STATE_ACTIVE)(t, s)
			s.onePassword("acme", "")
		}, 5, 0},
		{"purge", func(s *server) { made(s); s.remove("acme", 0) }, func(s *server) (string, error) {
			res, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "acme"})
			return res.GetOperationId(), err
		}, func(t *testing.T, s *server) {
			got, err := s.service.GetInstance(ctx(), &v1.GetInstanceRequest{Name: "acme"})
			if err != nil || got.GetInstance().GetState() != v1.InstanceState_INSTANCE_STATE_PURGED || !strings.Contains(got.GetDestructionCertificate(), "volume infractl-") {
				t.Errorf("%v, %v", got, err)
			}
		}, 4, 0},
		{"import", func(s *server) { s.hosts["srv-prod"].client("dupont"); s.hosts["srv-prod"].client("martin") },
			func(s *server) (string, error) { return s.beginImport("dupont", "martin") }, is("martin", v1.InstanceState_INSTANCE_STATE_ACTIVE), 7, 1},
		{"disown", func(s *server) { s.hosts["srv-prod"].client("dupont"); s.adopt("dupont") }, func(s *server) (string, error) {
			res, err := s.service.DeleteInstance(ctx(), &v1.DeleteInstanceRequest{Name: "dupont", Disown: true})
			return res.GetOperationId(), err
		}, func(t *testing.T, s *server) {
			if n := len(s.hosts["srv-prod"].foreign); n != 5 {
				t.Errorf("%d parts are left of 5", n)
			}
			s.host("srv-prod", func(h *host) { h.foreign = nil }) // they are orphans now
		}, 1, 0},
		{"purge of an adopted one", func(s *server) { s.hosts["srv-prod"].client("dupont"); s.adopt("dupont"); s.remove("dupont", 0) },
			func(s *server) (string, error) {
				res, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "dupont"})
				return res.GetOperationId(), err
			}, func(t *testing.T, s *server) {
				got, err := s.service.GetInstance(ctx(), &v1.GetInstanceRequest{Name: "dupont"})
				if err != nil || len(s.hosts["srv-prod"].foreign) > 0 || !strings.Contains(got.GetDestructionCertificate(), "folder /working_dir/clients/dupont") {
					t.Errorf("%v, %v", got, err)
				}
			}, 4, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for n := 0; ; n++ {
				hit := stopAt(t, n, tt.own, tt.prepare, tt.begin, tt.check)
				if hit == "" {
					if n < tt.points {
						t.Errorf("only %d points were tried", n)
					}
					return
				}
			}
		})
	}
}

// stopAt does it with a server that stops at the nth point of the operation; the result is that point, empty when there are not so many.
func stopAt(t *testing.T, n int, own int64, prepare func(*server), begin func(*server) (string, error), check func(*testing.T, *server)) (hit string) {
	t.Helper()
	w := newWorld(t)
	s := w.serve()
	prepare(s)
	var points atomic.Int64
	w.mu.Lock()
	w.crashed = make(chan struct{})
	w.crash = func(_ int, point string) bool {
		if point == "task Usage" || points.Add(1) != int64(n+1) { // hosts are measured by the call itself, before anything is accepted
			return false
		}
		hit = point
		return true
	}
	w.mu.Unlock()
	points.Store(-own)
	id, err := begin(s)
	if err != nil {
		t.Fatal(err)
	}
	watching, cancel := context.WithCancel(ctx())
	ended, engine := make(chan struct{}), s.engine
	go func() {
		defer close(ended)
		_ = engine.Watch(watching, id, func(*v1.Operation) error { return nil })
	}()
	select {
	case <-w.crashed:
	case <-ended:
	}
	cancel()
	s.stop()
	w.mu.Lock()
	w.crash = nil
	w.mu.Unlock()
	s = w.serve()
	defer s.stop()
	s.want(s.still(id), succeeded)
	check(t, s)
	if got := s.auditOf(); len(got) > 0 {
		t.Errorf("records and reality differ: %q", got)
	}
	if t.Failed() {
		t.Logf("after a stop at %q", hit)
	}
	return hit
}
