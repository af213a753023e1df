// Package secret keeps secrets: named values with versions, encrypted in the store under a key that lies apart from it.
//
// No call returns a value to people. Host specs name versions; the agents whose specs name them fetch the values over mTLS.
package secret

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// The kinds of records that this package owns.
const (
	// KindSecret describes a secret, under its name.
	KindSecret store.Kind = "secret"
	// KindValue holds an encrypted value, under "name/version".
	KindValue store.Kind = "secret.value"
	// KindProof is one record that only the right store key opens.
	KindProof store.Kind = "secret.proof"
)

const (
	// grace is how long a version that was replaced may still be fetched: an apply of the former spec may be under way.
	grace = 15 * time.Minute
	// maxVersions bounds the versions of one secret; the oldest goes first, whoever may be behind.
	maxVersions = 20
	// maxSecrets bounds the secrets of a site.
	maxSecrets = 1000
)

// Wanted tells what the current revision wants; package app makes it from the revisions.
type Wanted interface {
	// Specs returns what each node must be, by node; nil while there is no revision. The specs must not be changed.
	Specs(ctx context.Context) (map[string]Spec, error)
	// Changed says that there are new versions.
	Changed()
}

// Spec is what one node must be.
type Spec struct {
	// Spec is the wish, Digest its digest.
	Spec   *v1.HostSpec
	Digest string
}

// Deliverer starts a rollout of the current revision to the nodes whose wanted spec changed.
type Deliverer interface {
	// Deliver returns the rollout's id, "" when no node is concerned.
	Deliver(ctx context.Context, operator, reason string) (id string, err error)
}

// Config is what a Vault needs.
type Config struct {
	Store store.Records
	Nodes Nodes
	// KeyFile is the store key's file.
	KeyFile string
	Clock   clock.Clock
	Log     hclog.Logger
}

// Nodes are the enrolled identities; *fleet.Fleet is it.
type Nodes interface {
	Nodes(ctx context.Context) ([]fleet.Node, error)
}

// Vault keeps the secrets. Its methods may be called from many goroutines. It implements revision.Source.
type Vault struct {
	cfg   Config
	table *store.Table[record]
	key   *Key
	// locked is why there is no key.
	locked error

	mu     sync.Mutex
	wanted Wanted
}

// record describes a secret. The last version is the current one.
type record struct {
	Name     string    `json:"name"`
	Versions []version `json:"versions"`
}

type version struct {
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	Operator  string    `json:"operator"`
	Generated bool      `json:"generated,omitempty"`
	// Replaced is when a newer one came; zero for the current one.
	Replaced time.Time `json:"replaced"`
}

func (r *record) current() *version { return &r.Versions[len(r.Versions)-1] }

// Open opens the vault. A server that has no store key yet gets one. Where the key of a store that has secrets is missing or wrong
// the vault is locked: what is known stays known, and each call that needs a value says what to do.
func Open(ctx context.Context, cfg Config) (*Vault, error) {
	v := &Vault{cfg: cfg, table: store.NewTable(cfg.Store, KindSecret, store.JSON[record]())}
	key, err := v.unlock(ctx)
	if err != nil && !errs.Is(err, errs.Precondition) && !errs.Is(err, errs.Invalid) {
		return nil, errs.Wrap("open secrets", err)
	}
	if err != nil {
		cfg.Log.Error("secrets cannot be opened", "error", err, "hint", errs.HintOf(err))
	}
	v.key, v.locked = key, err
	return v, nil
}

// unlock reads the store key and proves that it is this store's.
func (v *Vault) unlock(ctx context.Context) (*Key, error) {
	const proof = "store-key"
	stored, err := v.cfg.Store.Get(ctx, KindProof, proof)
	used := err == nil
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	key, err := OpenKey(v.cfg.KeyFile)
	if errs.Is(err, errs.NotFound) {
		if used {
			return nil, errs.New(errs.Precondition, "the store key is missing, and the store holds secrets that only it opens").At(v.cfg.KeyFile).
				WithHint("put the file back from a backup of this server and start it again")
		}
		if err := CreateKey(v.cfg.KeyFile); err != nil {
			return nil, err
		}
		v.cfg.Log.Info("store key made", "file", v.cfg.KeyFile)
		key, err = OpenKey(v.cfg.KeyFile)
	}
	if err != nil {
		return nil, err
	}
	if used {
		if _, err := key.open(proof, "", stored.Data); err != nil {
			return nil, errs.New(errs.Precondition, "the store key is not the one that this store's secrets were encrypted with").At(v.cfg.KeyFile).
				WithHint("put the file back from a backup of this server and start it again")
		}
		return key, nil
	}
	_, err = v.cfg.Store.Write(ctx, store.Put{Kind: KindProof, Name: proof, Data: key.seal(proof, "", secret.New([]byte(proof)))})
	return key, err
}

// Use tells the vault who knows what is wanted. It must be called before the first call of an operator or a node.
func (v *Vault) Use(w Wanted) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wanted = w
}

func (v *Vault) want() Wanted {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.wanted
}

// Resources implements revision.Source: the ids of the newest versions, by name.
func (v *Vault) Resources(ctx context.Context, into *site.Resources) error {
	items, err := v.table.List(ctx, store.ListOptions{})
	if err != nil {
		return errs.Wrap("read secrets", err)
	}
	for i := range items {
		if managed(items[i].Name) {
			continue // its owner says which version a host is to have
		}
		if into.Secrets == nil {
			into.Secrets = make(map[string]string, len(items))
		}
		into.Secrets[items[i].Name] = items[i].Value.current().ID
	}
	return nil
}

func valueName(name, id string) string { return name + "/" + id }

// newVersion returns an id that is never used twice, not even by a server that was put back from a backup.
func newVersion(r *record) string {
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // it never fails
	number := 1
	if len(r.Versions) > 0 {
		_, _ = fmt.Sscanf(r.current().ID, "%d-", &number)
		number++
	}
	return fmt.Sprintf("%d-%s", number, hex.EncodeToString(raw))
}

// put stores a new version.
func (v *Vault) put(ctx context.Context, name string, value secret.Value, next version, onlyNew bool) (record, error) {
	const op = "store secret"
	if v.locked != nil {
		return record{}, v.locked
	}
	next.Time = v.cfg.Clock.Now().UTC()
	for {
		it, err := v.table.Get(ctx, name)
		rec, expect := it.Value, it.Revision
		switch {
		case errs.Is(err, errs.NotFound):
			rec, expect = record{Name: name}, store.Absent
			if err := v.room(ctx, name); err != nil {
				return record{}, err
			}
		case err != nil:
			return record{}, errs.Wrap(op, err)
		case onlyNew:
			return record{}, errs.New(errs.Exists, "there is a secret %s already", name).WithHint("infractl secret set %s without --only-new gives it a new value", name)
		default:
			rec.current().Replaced = next.Time
		}
		next.ID = newVersion(&rec)
		rec.Versions = append(slices.Clone(rec.Versions), next)
		ops := []store.Op{store.Put{Kind: KindValue, Name: valueName(name, next.ID), Data: v.key.seal(name, next.ID, value)}}
		for len(rec.Versions) > maxVersions {
			ops = append(ops, store.Delete{Kind: KindValue, Name: valueName(name, rec.Versions[0].ID), Expect: store.Any})
			rec.Versions = rec.Versions[1:]
		}
		head, err := v.table.PutOp(name, rec, expect)
		if err != nil {
			return record{}, errs.Wrap(op, err)
		}
		_, err = v.cfg.Store.Write(ctx, append(ops, head)...)
		if err == nil {
			return rec, nil
		}
		if !errs.Is(err, errs.Conflict) && !errs.Is(err, errs.Exists) {
			return record{}, errs.Wrap(op, err)
		}
	}
}

func (v *Vault) room(ctx context.Context, name string) error {
	if managed(name) {
		return nil // bounded by what owns them
	}
	list, err := v.table.List(ctx, store.ListOptions{NamesOnly: true})
	if err != nil {
		return errs.Wrap("store secret", err)
	}
	list = slices.DeleteFunc(list, func(it store.Item[record]) bool { return managed(it.Name) })
	if len(list) >= maxSecrets {
		return errs.New(errs.Exhausted, "there are %d secrets already", len(list)).WithHint("infractl secret remove NAME")
	}
	return nil
}
