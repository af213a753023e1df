package session

import (
	"sync"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// queue holds what is to be sent, in lanes: control first (accepted, results, heartbeats), then the report, then progress.
// Of reports and of each task's progress only the latest waits, so that a slow connection never makes a long queue.
type queue struct {
	wake chan struct{}

	mu        sync.Mutex
	control   []*v1.ConnectRequest
	heartbeat bool
	report    bool
	progress  []*v1.TaskProgress
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) change(f func()) {
	q.mu.Lock()
	f()
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) putAccepted(id string) {
	m := &v1.ConnectRequest{Message: &v1.ConnectRequest_Accepted{Accepted: &v1.TaskAccepted{TaskId: id}}}
	q.change(func() { q.control = append(q.control, m) })
}

// putResult queues a result. Progress of the task that still waits is worth nothing any more.
func (q *queue) putResult(r *v1.TaskResult) {
	m := &v1.ConnectRequest{Message: &v1.ConnectRequest_Result{Result: r}}
	q.change(func() {
		q.control = append(q.control, m)
		for i, p := range q.progress {
			if p.GetTaskId() == r.GetTaskId() {
				q.progress = append(q.progress[:i], q.progress[i+1:]...)
				break
			}
		}
	})
}

func (q *queue) putHeartbeat() { q.change(func() { q.heartbeat = true }) }
func (q *queue) putReport()    { q.change(func() { q.report = true }) }

func (q *queue) putProgress(p *v1.TaskProgress) {
	q.change(func() {
		for i, old := range q.progress {
			if old.GetTaskId() == p.GetTaskId() {
				q.progress[i] = p
				return
			}
		}
		q.progress = append(q.progress, p)
	})
}

// next returns what to send next, nil when there is nothing. heartbeat and report are made at the moment they are sent.
func (q *queue) next(heartbeat, report func() *v1.ConnectRequest) *v1.ConnectRequest {
	for {
		q.mu.Lock()
		switch {
		case len(q.control) > 0:
			m := q.control[0]
			q.control[0] = nil
			q.control = q.control[1:]
			q.mu.Unlock()
			return m
		case q.heartbeat:
			q.heartbeat = false
			q.mu.Unlock()
			return heartbeat()
		case q.report:
			q.report = false
			q.mu.Unlock()
			if m := report(); m != nil {
				return m
			}
		case len(q.progress) > 0:
			p := q.progress[0]
			q.progress = q.progress[1:]
			q.mu.Unlock()
			return &v1.ConnectRequest{Message: &v1.ConnectRequest_Progress{Progress: p}}
		default:
			q.mu.Unlock()
			return nil
		}
	}
}
