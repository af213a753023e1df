package rollout

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// The kinds of records that this package owns.
const (
	// KindRollout holds headers by rollout id, which sort by age.
	KindRollout store.Kind = "rollout"
	// KindNode holds the nodes of rollouts: "<rollout>/<node>".
	KindNode store.Kind = "rollout.node"
	// KindCommit holds commits by id, which begins with the rollout's.
	KindCommit store.Kind = "commit"
	// KindStanding says with which laggards a node was last narrowed.
	KindStanding store.Kind = "rollout.standing"
)

const leaseName = "rollout"

// header is a rollout without its nodes.
type header struct {
	ID       string          `json:"id"`
	Revision uint64          `json:"revision"`
	State    v1.RolloutState `json:"state"`
	Waves    []wave          `json:"waves"`
	// Scope are the nodes that the operator limited it to; empty means all.
	Scope     []string  `json:"scope,omitempty"`
	Started   time.Time `json:"started"`
	Ended     time.Time `json:"ended"`
	Operator  string    `json:"operator"`
	Reason    string    `json:"reason,omitempty"`
	AtConsole string    `json:"at_console,omitempty"`
	// Automatic says that the server began it, for late nodes.
	Automatic bool `json:"automatic,omitempty"`
	// Surveyed says that the look at all hosts before the first wave is done.
	Surveyed bool `json:"surveyed,omitempty"`
	// CancelBy is who canceled it, empty for nobody.
	CancelBy string `json:"cancel_by,omitempty"`
	// PausedBy is who paused it, empty while it may go on.
	PausedBy string `json:"paused_by,omitempty"`
	// HaltAfter is how many nodes may fail before it halts; 0 means 1.
	HaltAfter uint32 `json:"halt_after,omitempty"`
	// Soaked is the last wave that was watched, SoakUntil when the watch over the next one ends; zero before it begins.
	Soaked    uint32    `json:"soaked,omitempty"`
	SoakUntil time.Time `json:"soak_until"`
	// Delivery is set for a rollout that brings changed resources.
	Delivery *delivery `json:"delivery,omitempty"`
}

type wave struct {
	Number         uint32   `json:"number"`
	Nodes          []string `json:"nodes"`
	MaxUnavailable uint32   `json:"max_unavailable"`
	Reason         string   `json:"reason,omitempty"`
	// Soak is how long it is watched, Budgets how many nodes of a role change at once.
	Soak    time.Duration     `json:"soak,omitempty"`
	Budgets map[string]uint32 `json:"budgets,omitempty"`
}

func wavesFrom(list []site.Wave) []wave {
	out := make([]wave, 0, len(list))
	for i, w := range list {
		budgets := make(map[string]uint32, len(w.Budgets))
		for role, most := range w.Budgets {
			budgets[role] = uint32(max(1, most))
		}
		out = append(out, wave{
			Number: uint32(i + 1), Nodes: w.Nodes, MaxUnavailable: uint32(max(1, w.MaxUnavailable)), Reason: w.Reason,
			Soak: w.Soak, Budgets: budgets,
		})
	}
	return out
}

func (w *wave) toProto() *v1.Wave {
	out := &v1.Wave{Number: w.Number, Nodes: w.Nodes, MaxUnavailable: w.MaxUnavailable, Reason: w.Reason, Budgets: w.Budgets}
	if w.Soak > 0 {
		out.Soak = durationpb.New(w.Soak)
	}
	return out
}

// WavesToProto returns the waves that a rollout will have.
func WavesToProto(list []site.Wave) []*v1.Wave {
	var out []*v1.Wave
	for _, w := range wavesFrom(list) {
		out = append(out, w.toProto())
	}
	return out
}

// nodeRecord is one node of a rollout.
type nodeRecord struct {
	Node     string              `json:"node"`
	State    v1.NodeRolloutState `json:"state"`
	Wave     uint32              `json:"wave"`
	Message  string              `json:"message,omitempty"`
	Changes  uint32              `json:"changes,omitempty"`
	Error    *taskError          `json:"error,omitempty"`
	Widened  []string            `json:"widened,omitempty"`
	Degraded string              `json:"degraded,omitempty"`
	// WidenDigest and NarrowDigest are the digests for which the passes are done.
	WidenDigest  string `json:"widen_digest,omitempty"`
	NarrowDigest string `json:"narrow_digest,omitempty"`
	// Laggards are those that it was narrowed with.
	Laggards []string `json:"laggards,omitempty"`
	// Attempts counts tries of the present pass; Tasks counts all, for ids.
	Attempts uint32 `json:"attempts,omitempty"`
	Tasks    uint32 `json:"tasks,omitempty"`
	// Retried is what Tasks was when the rollout was last retried.
	Retried uint32 `json:"retried,omitempty"`
	// Picture identifies what differed from its wish when its soak began, Unsteady what went wrong in it.
	Picture  string    `json:"picture,omitempty"`
	Unsteady string    `json:"unsteady,omitempty"`
	RetryAt  time.Time `json:"retry_at"`
	// Task is the task under way.
	Task *taskRef `json:"task,omitempty"`

	// phase is what the agent last said, and is not stored.
	phase v1.Phase
}

// taskRef is a task that an agent works on.
type taskRef struct {
	ID        string        `json:"id"`
	Pass      v1.Pass       `json:"pass"`
	Digest    string        `json:"digest"`
	Witnessed bool          `json:"witnessed"`
	Window    time.Duration `json:"window"`
	Laggards  []string      `json:"laggards,omitempty"`
	// Witnesses are held at rest for it.
	Witnesses []string `json:"witnesses,omitempty"`
	// Hashes identify the content of its phases, to be remembered when one fails.
	Hashes map[v1.Phase]string `json:"hashes,omitempty"`
}

type taskError struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *taskError) toProto() *v1.TaskError {
	if e == nil {
		return nil
	}
	return &v1.TaskError{Code: e.Code, Message: e.Message, Hint: e.Hint}
}

func errorFrom(e *v1.TaskError) *taskError {
	if e == nil {
		return nil
	}
	return &taskError{Code: e.GetCode(), Message: e.GetMessage(), Hint: e.GetHint()}
}

// commitRecord is one lockout commit. A confirmation is answered from it alone.
type commitRecord struct {
	ID         string    `json:"id"`
	Node       string    `json:"node"`
	Rollout    string    `json:"rollout"`
	Revision   uint64    `json:"revision"`
	Pass       v1.Pass   `json:"pass"`
	SpecDigest string    `json:"spec_digest"`
	Started    time.Time `json:"started"`
	// Server is the process that began it.
	Server string `json:"server"`
	Needs  []need `json:"needs"`
	// Confirmed says that it was answered so; it is never taken back.
	Confirmed bool `json:"confirmed,omitempty"`
	// Refused says why it may not be kept.
	Refused string `json:"refused,omitempty"`
	// Outcome is what the agent said in the end, empty while it is open.
	Outcome string `json:"outcome,omitempty"`
}

// need is one way that must be seen open before a commit may be kept.
type need struct {
	ID     string       `json:"id"`
	Reason string       `json:"reason"`
	Kind   v1.ProbeKind `json:"kind"`
	// From is the witness, empty when the operator takes its place; Session is its session when the commit began.
	From    string `json:"from,omitempty"`
	Session string `json:"session,omitempty"`
	// To is the node that the way goes to.
	To      string `json:"to,omitempty"`
	Address string `json:"address,omitempty"`
	// Ports are tried in turn, the best first.
	Ports    []uint32 `json:"ports,omitempty"`
	User     string   `json:"user,omitempty"`
	HostKeys []string `json:"host_keys,omitempty"`
	Report   *report  `json:"report,omitempty"`
}

// report says who saw a way open.
type report struct {
	By     string    `json:"by"`
	Detail string    `json:"detail,omitempty"`
	Time   time.Time `json:"time"`
}

func (c *commitRecord) waitingFor() []string {
	var names []string
	for _, n := range c.Needs {
		if n.Report == nil {
			names = append(names, n.who())
		}
	}
	return names
}

func (n *need) who() string {
	if n.From == "" {
		return "operator"
	}
	return n.From
}

// standing says with which laggards a node was last narrowed.
type standing struct {
	Digest   string   `json:"digest"`
	Laggards []string `json:"laggards"`
}

func nodeName(rollout, node string) string { return rollout + "/" + node }

func (h *header) toProto(nodes []*nodeRecord) *v1.Rollout {
	out := &v1.Rollout{
		Id: h.ID, Revision: h.Revision, State: h.State, Started: timestamppb.New(h.Started), Operator: h.Operator, Reason: h.Reason,
		Message: h.message(),
	}
	if h.State == v1.RolloutState_ROLLOUT_STATE_RUNNING && h.PausedBy != "" {
		out.State = v1.RolloutState_ROLLOUT_STATE_PAUSED
	}
	if !h.Ended.IsZero() {
		out.Ended = timestamppb.New(h.Ended)
	}
	for _, w := range h.Waves {
		out.Waves = append(out.Waves, w.toProto())
	}
	for _, n := range nodes {
		out.Nodes = append(out.Nodes, &v1.NodeRollout{
			Node: n.Node, State: n.State, Wave: n.Wave, Phase: n.phase, Message: n.Message, Changes: n.Changes,
			Attempts: n.Attempts, Error: n.Error.toProto(), Widened: n.Widened,
		})
	}
	return out
}

// message says what a rollout brings, and what it waits for.
func (h *header) message() string {
	var parts []string
	if d := h.Delivery; d != nil {
		parts = append(parts, "delivers "+strings.Join(d.Reasons, ", "))
		if !d.Begun && h.State == v1.RolloutState_ROLLOUT_STATE_RUNNING {
			parts = append(parts, "waits for the rollout before it")
		}
	}
	if h.State != v1.RolloutState_ROLLOUT_STATE_RUNNING {
		return strings.Join(parts, "; ")
	}
	if h.PausedBy != "" {
		parts = append(parts, "paused by "+h.PausedBy)
	}
	if !h.SoakUntil.IsZero() {
		parts = append(parts, "the wave soaks until "+h.SoakUntil.Format(time.TimeOnly)+" UTC")
	}
	return strings.Join(parts, "; ")
}
