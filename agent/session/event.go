package session

import (
	"context"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// event is a HostEvent on its way to the stream.
type event struct {
	msg  *v1.ConnectRequest
	sent chan error // of one
}

// Event hands something that happened on the host to the server. It waits for a session if there is none, and returns when the
// message is on its way, which is no proof that it arrived.
func (s *Session) Event(ctx context.Context, ev *v1.HostEvent) error {
	validText(ev)
	e := event{msg: &v1.ConnectRequest{Message: &v1.ConnectRequest_Event{Event: ev}}, sent: make(chan error, 1)}
	for {
		select {
		case s.events <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := <-e.sent; err == nil { // otherwise the stream broke, and there will be another
			return nil
		}
	}
}
