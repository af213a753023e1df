// Package session is what agents call: enrolment, the session stream, confirmation of commits, renewal.
//
// A Hub holds the live sessions and the tasks sent over them. Tasks and their results are stored, so that they survive a
// reconnect of the agent and a restart of the server.
package session

import (
	"context"
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// LiveSession describes a live session.
type LiveSession struct {
	// ID names it in logs.
	ID string
	// Node is the node.
	Node string
	// Since is when it began.
	Since time.Time
	// Hello is how the agent introduced itself; it must not be changed.
	Hello *v1.Hello
	// Address is the IP address that the agent connects from.
	Address string
}

// NodeEvent says what happened to a node since the last event about it; several things that were not received yet become
// one event.
type NodeEvent struct {
	// Node is the node.
	Node string
	// Connected says that a session began, Disconnected that one ended; with both, Hub.Live tells how it stands.
	Connected, Disconnected bool
	// Reported says that a new report is in the node's record.
	Reported bool
}

// Confirmer decides on commits, from stored state alone; package rollout implements it.
type Confirmer interface {
	// Confirm answers for the node in the caller's certificate.
	Confirm(ctx context.Context, node string, req *v1.ConfirmRequest) (*v1.ConfirmResponse, error)
}
