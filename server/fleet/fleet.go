// Package fleet keeps what the server knows of identities: nodes and probes, join tokens, enrolments, operators, what was
// revoked, and when the server itself was away.
//
// All of it are typed records over the store. Last-seen times change with every heartbeat and are kept in memory by package
// session, which writes them here only now and then.
package fleet

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// The kinds of records that this package owns.
const (
	KindNode      store.Kind = "node"
	KindToken     store.Kind = "token"
	KindEnrolment store.Kind = "enrolment"
	KindOperator  store.Kind = "operator"
	KindLoginCode store.Kind = "login-code"
	KindRevoked   store.Kind = "revoked"
	KindSetAside  store.Kind = "set-aside"
	KindServer    store.Kind = "server"
)

// Fleet is typed access to the records. Its methods may be called from many goroutines.
type Fleet struct {
	store store.Store
	// NodeTable and the others are there for writes that touch several kinds at once.
	NodeTable  *store.Table[Node]
	Tokens     *store.Table[Token]
	Enrolments *store.Table[Enrolment]
	Operators  *store.Table[Operator]
	LoginCodes *store.Table[LoginCode]
	Revoked    *store.Table[Revocation]
	SetAsides  *store.Table[SetAside]
}

// New returns the fleet kept in s.
func New(s store.Store) *Fleet {
	return &Fleet{
		store:      s,
		NodeTable:  store.NewTable(s, KindNode, store.JSON[Node]()),
		Tokens:     store.NewTable(s, KindToken, store.JSON[Token]()),
		Enrolments: store.NewTable(s, KindEnrolment, store.JSON[Enrolment]()),
		Operators:  store.NewTable(s, KindOperator, store.JSON[Operator]()),
		LoginCodes: store.NewTable(s, KindLoginCode, store.JSON[LoginCode]()),
		Revoked:    store.NewTable(s, KindRevoked, store.JSON[Revocation]()),
		SetAsides:  store.NewTable(s, KindSetAside, store.JSON[SetAside]()),
	}
}

// Store returns the store below.
func (f *Fleet) Store() store.Store { return f.store }

// Write does several operations at once, or none.
func (f *Fleet) Write(ctx context.Context, ops ...store.Op) error {
	_, err := f.store.Write(ctx, ops...)
	return err
}

// Node returns an enrolled (or revoked) node, or NotFound.
func (f *Fleet) Node(ctx context.Context, name string) (Node, error) {
	it, err := f.NodeTable.Get(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return Node{}, errs.New(errs.NotFound, "no node %q has enrolled", name).WithHint("infractl node list")
	}
	return it.Value, err
}

// Nodes returns all enrolled and revoked nodes by name.
func (f *Fleet) Nodes(ctx context.Context) ([]Node, error) {
	items, err := f.NodeTable.List(ctx, store.ListOptions{})
	return values(items), err
}

// UpdateNode changes a node; change may be called several times and its error ends the update. NotFound without a record.
func (f *Fleet) UpdateNode(ctx context.Context, name string, change func(*Node) error) (Node, error) {
	it, err := f.NodeTable.Update(ctx, name, change)
	return it.Value, err
}

// AddKnownBad remembers content that failed on a node. The same hash stands there once.
func (f *Fleet) AddKnownBad(ctx context.Context, node string, bad KnownBad) error {
	_, err := f.UpdateNode(ctx, node, func(n *Node) error {
		for i := range n.KnownBad {
			if n.KnownBad[i].Hash == bad.Hash {
				return nil
			}
		}
		n.KnownBad = append(n.KnownBad, bad)
		if len(n.KnownBad) > MaxKnownBad {
			n.KnownBad = n.KnownBad[len(n.KnownBad)-MaxKnownBad:]
		}
		return nil
	})
	return errs.Wrap("remember known-bad content", err)
}

func values[T any](items []store.Item[T]) []T {
	out := make([]T, 0, len(items))
	for _, it := range items {
		out = append(out, it.Value)
	}
	return out
}

// KeyHash returns the hash by which a public key is bound to a node or operator: the lower-case hex SHA-256 of its
// SubjectPublicKeyInfo.
func KeyHash(pub any) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", errs.New(errs.Invalid, "the key cannot be encoded: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}
