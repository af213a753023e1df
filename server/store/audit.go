package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/infractl/infractl/internal/errs"
)

// MaxAuditField is how many bytes of a text of an audit entry are kept; the rest is cut off and marked with "...", since an
// entry must never be lost because it is too long.
const MaxAuditField = 2048

// AuditEntry says who did what, when, and how it ended. No field may hold a secret.
type AuditEntry struct {
	// Seq, Prev and Hash are set by the store: the entry's number (from 1, without gaps), and the links of the chain.
	Seq int64
	// Time is set by the store when it is zero.
	Time time.Time
	// Actor is an identity as certs.Identity.String writes it ("operator/jane"), or "system" for the server itself.
	Actor string
	// Role is the actor's role, "" for nodes and the server.
	Role string
	// Source is the address that the call came from.
	Source string
	// Action is what was done: the full name of an RPC, or a word of the server's own.
	Action string
	// Target is what it was done to ("node/web1", "site").
	Target string
	// Node is the node concerned, for filters; "" for none.
	Node string
	// Request is a digest or a summary of the request.
	Request string
	// Result is "ok" or an errs.Code.
	Result string
	// Message is the error's text, or what else is worth knowing.
	Message string
	// Prev is the hash of the entry before, Hash that of this one, in hex.
	Prev string
	Hash string
}

// AuditFilter selects entries; the zero value is all of them. Texts match as a whole.
type AuditFilter struct {
	// After selects entries with a larger sequence number: give the last one seen to follow the log.
	After int64
	// Limit is the largest number of entries; 0 is no limit.
	Limit int
	// Reverse lists the latest first; After still means larger sequence numbers only.
	Reverse bool
	Actor   string
	Action  string
	Node    string
	// Since and Until select entries from Since on and before Until.
	Since time.Time
	Until time.Time
}

// AuditHead is the end of the chain. Whoever keeps a copy elsewhere can later show that nothing before it was changed.
type AuditHead struct {
	// First and Last are the sequence numbers of the oldest and the latest entry; both 0 when there never was one, and
	// First is Last+1 when all were pruned.
	First int64
	Last  int64
	// Hash is the hash of the latest entry.
	Hash string
}

// Audit keeps the audit log.
type Audit interface {
	// AppendAudit adds an entry and returns its sequence number; it is durable then.
	AppendAudit(ctx context.Context, entry AuditEntry) (int64, error)
	// ListAudit returns entries in the order of their sequence numbers.
	ListAudit(ctx context.Context, filter AuditFilter) ([]AuditEntry, error)
	// VerifyAudit walks the whole chain. An entry that was changed, removed or put in is Precondition and named.
	VerifyAudit(ctx context.Context) (AuditHead, error)
	// PruneAudit removes the oldest entries up to the first one that is not older than before, in batches that do not hold
	// up writers, and returns how many. The chain stays verifiable from the oldest entry left.
	PruneAudit(ctx context.Context, before time.Time) (int, error)
}

// PruneBatch is how many entries PruneAudit removes in one transaction.
const PruneBatch = 1000

// Clean returns the entry as a store keeps it: texts valid and cut to MaxAuditField, time in UTC microseconds.
func (e AuditEntry) Clean() AuditEntry {
	for _, f := range e.texts() {
		*f = cut(*f)
	}
	e.Time = Stamp(e.Time)
	return e
}

// Stamp rounds t to what a store keeps: UTC, whole microseconds, no monotonic reading.
func Stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func cut(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	if len(s) <= MaxAuditField {
		return s
	}
	end := MaxAuditField - len("...")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}

func (e *AuditEntry) texts() []*string {
	return []*string{&e.Actor, &e.Role, &e.Source, &e.Action, &e.Target, &e.Node, &e.Request, &e.Result, &e.Message}
}

// Seal returns the entry with its place in the chain: number seq, after the entry with the hash prev.
func (e AuditEntry) Seal(seq int64, prev string) AuditEntry {
	e.Seq, e.Prev = seq, prev
	e.Hash = e.sum()
	return e
}

// Follows reports whether the entry is intact and stands right behind the entry with number seq and hash prev.
func (e AuditEntry) Follows(seq int64, prev string) bool {
	return e.Seq == seq+1 && e.Prev == prev && e.Hash == e.sum()
}

// sum hashes all fields with their lengths, so that no two entries share an encoding.
func (e AuditEntry) sum() string {
	buf := []byte("infractl audit v1")
	add := func(s string) {
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(s)))
		buf = append(buf, s...)
	}
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.Seq))
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.Time.UnixMicro()))
	add(e.Prev)
	for _, f := range e.texts() {
		add(*f)
	}
	sum := sha256.Sum256(buf)
	return hex.EncodeToString(sum[:])
}

// BrokenAudit is the error of VerifyAudit for the entry with this number.
func BrokenAudit(seq int64, why string) error {
	return errs.New(errs.Precondition, "the audit log was tampered with or damaged: %s", why).
		At("audit entry " + itoa(seq)).
		WithHint("compare with the last backup of the server, whose copy of the log ends before or behind that entry")
}
