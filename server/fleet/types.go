package fleet

import (
	"bytes"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/certs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// MaxKnownBad is how many known-bad contents are kept per node; the oldest go first.
const MaxKnownBad = 100

// Msg puts a protobuf message into a JSON record. M may be nil.
type Msg[T proto.Message] struct{ M T }

// MarshalJSON implements json.Marshaler.
func (m Msg[T]) MarshalJSON() ([]byte, error) {
	if !m.M.ProtoReflect().IsValid() {
		return []byte("null"), nil
	}
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(m.M)
}

// UnmarshalJSON implements json.Unmarshaler. Unknown fields are errors, as in the record around it.
func (m *Msg[T]) UnmarshalJSON(data []byte) error {
	var zero T
	m.M = zero
	if bytes.Equal(data, []byte("null")) {
		return nil
	}
	m.M = zero.ProtoReflect().New().Interface().(T)
	return protojson.Unmarshal(data, m.M)
}

var _ json.Unmarshaler = (*Msg[*v1.HostFacts])(nil)

// Node is one enrolled machine: a host of the site or a probe. Its name is the record's name.
type Node struct {
	Name string `json:"name"`
	// Probe says that it manages nothing and only opens connections.
	Probe bool `json:"probe,omitempty"`
	// KeyHash is the key that the identity is bound to, as KeyHash writes it.
	KeyHash string `json:"key_hash"`
	// Serial and NotAfter are those of the certificate issued last.
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	// Fingerprint is the machine that the identity belongs to.
	Fingerprint Msg[*v1.HostFingerprint] `json:"fingerprint"`
	// JoinCounter is how often the identity was issued; KnownCounter is the newest count that the agent has shown.
	JoinCounter  uint64 `json:"join_counter"`
	KnownCounter uint64 `json:"known_counter"`
	// JumpEpoch is the restore (see ServerState.Restores) after which the counter has jumped forward; -1 for never.
	JumpEpoch int `json:"jump_epoch"`
	// Recoveries counts returns after an expiry that was the node's own doing; Recovering is set until the first session
	// after one.
	Recovering bool      `json:"recovering,omitempty"`
	Recoveries int       `json:"recoveries,omitempty"`
	Enrolled   time.Time `json:"enrolled"`
	// EnrolmentID is the enrolment that the identity came from.
	EnrolmentID string `json:"enrolment_id,omitempty"`

	// What its agent last said of itself; LastSeen is behind by minutes (see session.Hub.LastSeen).
	AgentVersion string    `json:"agent_version,omitempty"`
	Address      string    `json:"address,omitempty"`
	LastSeen     time.Time `json:"last_seen"`
	BootID       string    `json:"boot_id,omitempty"`
	// FormerBoots are boot ids before BootID, newest first: one that comes back shows two machines with one identity.
	FormerBoots []string `json:"former_boots,omitempty"`
	// Skew is how far its clock is ahead.
	Skew time.Duration `json:"skew,omitempty"`
	// WitnessKey is the public key with which its agent proves logins, in authorized_keys form.
	WitnessKey string             `json:"witness_key,omitempty"`
	Facts      Msg[*v1.HostFacts] `json:"facts"`
	State      Msg[*v1.HostState] `json:"state"`
	// Containers are those of its stacks.
	Containers Msg[*v1.ContainersReport] `json:"containers"`
	// Clock is how well it keeps time; ClockSince is when it began to be synchronised, or not to be.
	Clock      Msg[*v1.ClockReport] `json:"clock"`
	ClockSince time.Time            `json:"clock_since,omitzero"`
	// Router is how the router is; empty for others.
	Router   Msg[*v1.RouterReport] `json:"router"`
	KnownBad []KnownBad            `json:"known_bad,omitempty"`
	// Revoked is when its identity was withdrawn, zero while it is good.
	Revoked       time.Time `json:"revoked"`
	RevokedReason string    `json:"revoked_reason,omitempty"`
	// Alarm is what a person should know of this identity, until the node is cleared.
	Alarm string `json:"alarm,omitempty"`
	// Awaited is when the server was restored, until the node is heard; Paused is why nothing is applied to it since (see
	// Restore.Heard).
	Awaited time.Time `json:"awaited,omitzero"`
	Paused  string    `json:"paused,omitempty"`
}

// IsRevoked reports whether the identity was withdrawn.
func (n *Node) IsRevoked() bool { return !n.Revoked.IsZero() }

// IsKnownBad reports whether content with this hash failed on the node.
func (n *Node) IsKnownBad(hash string) bool {
	for i := range n.KnownBad {
		if n.KnownBad[i].Hash == hash {
			return true
		}
	}
	return false
}

// KnownBad is content that failed on a node and is not tried again until it is cleared.
type KnownBad struct {
	Hash         string    `json:"hash"`
	Phase        string    `json:"phase"`
	Reason       string    `json:"reason"`
	Time         time.Time `json:"time"`
	SiteRevision uint64    `json:"site_revision"`
}

// MaxTokenLife is the longest life of a join token.
const MaxTokenLife = 7 * 24 * time.Hour

// Token is a join token. Its secret is kept as a hash only.
type Token struct {
	ID         string    `json:"id"`
	SecretHash string    `json:"secret_hash"`
	Node       string    `json:"node,omitempty"`
	Role       string    `json:"role,omitempty"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	Operator   string    `json:"operator"`
	Revoked    bool      `json:"revoked,omitempty"`
	// Enrolment and KeyHash are who used it, or waits for approval with it; nobody else can any more.
	Enrolment string `json:"enrolment,omitempty"`
	KeyHash   string `json:"key_hash,omitempty"`
	// UsedBy is the node that got its identity with it.
	UsedBy string `json:"used_by,omitempty"`
}

// EnrolmentState is where an enrolment stands.
type EnrolmentState string

// The states of an enrolment.
const (
	EnrolmentPending  EnrolmentState = "pending"
	EnrolmentApproved EnrolmentState = "approved"
	EnrolmentIssued   EnrolmentState = "issued"
)

// Enrolment is one machine's wish for an identity, by the id that the machine made.
type Enrolment struct {
	ID          string                   `json:"id"`
	State       EnrolmentState           `json:"state"`
	KeyHash     string                   `json:"key_hash"`
	Fingerprint Msg[*v1.HostFingerprint] `json:"fingerprint"`
	// Asked is the name that the machine believes to have, Node the one that it gets.
	Asked        string        `json:"asked"`
	Node         string        `json:"node,omitempty"`
	Token        string        `json:"token,omitempty"`
	Address      string        `json:"address"`
	AgentVersion string        `json:"agent_version,omitempty"`
	Skew         time.Duration `json:"skew,omitempty"`
	Created      time.Time     `json:"created"`
	// LastSeen is behind by minutes.
	LastSeen time.Time `json:"last_seen"`
	// Note says why it waits, or what a person should think of before approving it.
	Note string `json:"note,omitempty"`
	// Chain is the answer once issued, for an agent that lost it.
	Chain []byte `json:"chain,omitempty"`
}

// Operator is a person. Key, serial and NotAfter are empty before the first login.
type Operator struct {
	Name     string     `json:"name"`
	Role     certs.Role `json:"role"`
	KeyHash  string     `json:"key_hash"`
	Serial   string     `json:"serial"`
	NotAfter time.Time  `json:"not_after"`
	Created  time.Time  `json:"created"`
	Revoked  time.Time  `json:"revoked"`
	// CreatedBy is who added the person, as audit names callers; "" for an older record.
	CreatedBy string `json:"created_by,omitempty"`
	// LastSeen is behind by minutes.
	LastSeen time.Time `json:"last_seen,omitzero"`
}

// MaxLoginLife is the longest life of an operator's login code.
const MaxLoginLife = 24 * time.Hour

// LoginCode is an operator's one-use code. Its secret is kept as a hash only.
type LoginCode struct {
	ID         string    `json:"id"`
	SecretHash string    `json:"secret_hash"`
	Operator   string    `json:"operator"`
	Created    time.Time `json:"created"`
	CreatedBy  string    `json:"created_by"`
	Expires    time.Time `json:"expires"`
	// KeyHash, Used and Chain are set by the login: the same key gets the same answer again for a while.
	KeyHash string    `json:"key_hash,omitempty"`
	Used    time.Time `json:"used,omitzero"`
	Chain   []byte    `json:"chain,omitempty"`
}

// Revocation says that a key was withdrawn for good; it stands under the key's hash, so that it holds for every
// certificate of that key.
type Revocation struct {
	// Identity is whose it was: "node/web1".
	Identity string    `json:"identity"`
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason,omitempty"`
}

// SetAside is a second machine that showed up under a node's identity.
type SetAside struct {
	ID          string                   `json:"id"`
	Node        string                   `json:"node"`
	Fingerprint Msg[*v1.HostFingerprint] `json:"fingerprint"`
	BootID      string                   `json:"boot_id,omitempty"`
	Address     string                   `json:"address"`
	// Counter is the join counter that it showed.
	Counter uint64    `json:"counter,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Reason  string    `json:"reason"`
}
