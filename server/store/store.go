// Package store is the interface behind which the server keeps all that it must not lose: records of any kind with
// compare-and-set, an audit log whose entries are chained by hashes, and leases.
//
// A record is bytes under a kind and a name; the kinds belong to the packages that use them (see Table for typed access).
// No SQL shows through, so that another database is one more folder: server/store/sqlite is the embedded default, and
// server/store/storetest is the conformance suite that every implementation passes.
package store

import (
	"context"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// Limits that every implementation enforces; what exceeds them is Invalid.
const (
	MaxKind = 64       // bytes of a kind
	MaxName = 200      // bytes of a name
	MaxData = 8 << 20  // bytes of a record's data
	MaxOps  = 1000     // operations of one Write
	MaxSum  = 32 << 20 // bytes of data of one Write
)

// Kind is a set of records, for example "node". Kinds are lower-case letters, digits, '-', '_' and '.', and begin with a
// letter.
type Kind string

// AuditKind is the kind that Watch takes for new audit entries; Event.Revision is then the entry's sequence number. No
// record has it.
const AuditKind Kind = "_audit"

// Revision numbers writes: each Write that changes something gets the next one, across all kinds, and all records that it
// puts carry it. Revisions grow, and are never used twice.
type Revision int64

// Expectations that are not a revision.
const (
	Absent Revision = 0  // the record must not exist
	Any    Revision = -1 // whatever is there
)

// Record is a stored record.
type Record struct {
	Kind     Kind
	Name     string
	Revision Revision
	// Created and Updated are the store's times of the first and the last Put, in UTC with microseconds.
	Created time.Time
	Updated time.Time
	// Data belongs to the caller; it is nil for a deleted record and where ListOptions.NamesOnly left it out.
	Data []byte
}

// Op is one operation of a Write: Put, Delete or Check.
type Op interface{ op() }

// Put creates or replaces a record. The zero Expect means that it must not exist.
type Put struct {
	Kind   Kind
	Name   string
	Data   []byte
	Expect Revision
}

// Delete removes a record. Expect is a revision (Conflict if it is another, or none), or Any (an absent record is no
// error). Absent is Invalid.
type Delete struct {
	Kind   Kind
	Name   string
	Expect Revision
}

// Check changes nothing; the Write happens only if its expectation holds: a revision, Absent, or Any for "exists at all".
type Check struct {
	Kind   Kind
	Name   string
	Expect Revision
}

func (Put) op()    {}
func (Delete) op() {}
func (Check) op()  {}

// ListOptions selects records of one kind. The zero value is all of them.
type ListOptions struct {
	// Prefix selects the names that begin with it.
	Prefix string
	// After continues behind this name (before it, when Reverse is set).
	After string
	// Limit is the largest number of records; 0 is no limit.
	Limit int
	// Reverse lists from the last name to the first.
	Reverse bool
	// NamesOnly leaves Data out.
	NamesOnly bool
}

// Records keeps records.
type Records interface {
	// Get returns a record, or NotFound.
	Get(ctx context.Context, kind Kind, name string) (Record, error)
	// List returns records in the order of their names' bytes.
	List(ctx context.Context, kind Kind, opts ListOptions) ([]Record, error)
	// Write does all operations or none, and is durable when it returns. It returns one record per operation, in order,
	// with the new revision for Put and Delete. A failed expectation is Conflict, or Exists for a Put with Absent; two
	// operations on one record are Invalid. When ctx ends while a Write is under way the error is Timeout or Canceled and
	// the outcome is unknown.
	Write(ctx context.Context, ops ...Op) ([]Record, error)
}

// Event says that a record changed (or an audit entry was added).
type Event struct {
	Kind Kind
	// Name is the record, or "" for "any of this kind": the watcher fell behind, or the store lost sight of others'
	// writes, and the watcher must list again.
	Name string
	// Revision is that of the last change that the event stands for.
	Revision Revision
}

// Watcher tells of changes.
type Watcher interface {
	// Watch sends an event for every record of these kinds that changes after Watch returned, after the change is durable.
	// Changes of one record that were not received yet become one event. A slow receiver never holds up a Write. The
	// channel is closed when ctx ends or the store closes. No kinds at all is Invalid.
	Watch(ctx context.Context, kinds ...Kind) (<-chan Event, error)
}

// Lease is the right to do something that only one may do at a time.
type Lease struct {
	Name string
	// Holder is who has it.
	Holder string
	// Token grows each time that the lease goes to somebody anew; work done under an older one can be told apart.
	Token int64
	// Expires is when it ends unless renewed, by the store's clock.
	Expires time.Time
}

// Leases hands out leases. Their time is the store's, not the holder's.
type Leases interface {
	// Acquire takes a lease that is free or has expired. The present holder may acquire again: the lease is extended and
	// keeps its token. Otherwise it is Conflict, and the message names the holder.
	Acquire(ctx context.Context, name, holder string, ttl time.Duration) (Lease, error)
	// Renew extends a lease to ttl from now. It is Conflict when the lease was lost, even to nobody: what it protected may
	// have changed hands.
	Renew(ctx context.Context, lease Lease, ttl time.Duration) (Lease, error)
	// Release gives a lease back. Giving back one that was lost is no error and changes nothing.
	Release(ctx context.Context, lease Lease) error
}

// Store is all of it.
type Store interface {
	Records
	Watcher
	Leases
	Audit
	// Backup writes a consistent copy to path while the store works. A file that exists is not overwritten: Exists.
	Backup(ctx context.Context, path string) error
	// Close waits for the writes under way. Calls after it are Unavailable.
	Close() error
}

// Closed is the error of every call on a closed store.
func Closed() error { return errs.New(errs.Unavailable, "the store is closed") }
