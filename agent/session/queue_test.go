package session

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestQueueLanes(t *testing.T) {
	q := newQueue()
	progress := func(id, text string) { q.putProgress(&v1.TaskProgress{TaskId: id, Message: text}) }
	progress("a", "one")
	progress("b", "one")
	progress("a", "two")  // only the latest of a task waits
	progress("c", "gone") // overtaken by its result
	q.putReport()
	q.putReport()
	q.putHeartbeat()
	q.putHeartbeat()
	q.putAccepted("a")
	q.putResult(&v1.TaskResult{TaskId: "c"})
	heartbeat := func() *v1.ConnectRequest {
		return &v1.ConnectRequest{Message: &v1.ConnectRequest_Heartbeat{Heartbeat: &v1.Heartbeat{}}}
	}
	report := func() *v1.ConnectRequest {
		return &v1.ConnectRequest{Message: &v1.ConnectRequest_Report{Report: &v1.Report{}}}
	}
	var got []string
	for m := q.next(heartbeat, report); m != nil; m = q.next(heartbeat, report) {
		switch m := m.GetMessage().(type) {
		case *v1.ConnectRequest_Accepted:
			got = append(got, "accepted "+m.Accepted.GetTaskId())
		case *v1.ConnectRequest_Result:
			got = append(got, "result "+m.Result.GetTaskId())
		case *v1.ConnectRequest_Heartbeat:
			got = append(got, "heartbeat")
		case *v1.ConnectRequest_Report:
			got = append(got, "report")
		case *v1.ConnectRequest_Progress:
			got = append(got, strings.Join([]string{"progress", m.Progress.GetTaskId(), m.Progress.GetMessage()}, " "))
		}
	}
	want := []string{"accepted a", "result c", "heartbeat", "report", "progress a two", "progress b one"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	q.putReport() // a report in which nothing changed is none
	if m := q.next(heartbeat, func() *v1.ConnectRequest { return nil }); m != nil {
		t.Errorf("got %v, want nothing", m)
	}
}
