// Package revision keeps the numbered revisions of the site and derives from them what each host must be.
//
// A revision is appended with compare-and-set on the newest one, so that two operators never overwrite each other unseen.
// What a host must be is a function of a site revision and of the resources; resources are the keys with
// which agents prove logins and what sources add, and they have a revision number of their own.
package revision

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// The kinds of records that this package owns.
const (
	// KindRevision describes a revision, KindFiles holds its files; both are named by its number.
	KindRevision store.Kind = "revision"
	KindFiles    store.Kind = "revision.files"
	// KindResources holds the resources that host specs depend on.
	KindResources store.Kind = "resources"
)

// Limits of a site source.
const (
	MaxFile         = 1 << 20 // bytes of the site file, and of the overlay
	MaxName         = 1024    // bytes of a file's name
	MaxPresentFiles = 10000
)

// Nodes are the enrolled identities; *fleet.Fleet is it.
type Nodes interface {
	Nodes(ctx context.Context) ([]fleet.Node, error)
}

// Config is what Revisions need.
type Config struct {
	Records store.Records
	Nodes   Nodes
	Clock   clock.Clock
	// Site is the name in the site's certificates: the file of another site is refused. Empty: any is taken.
	Site string
	// Sources add to the resources.
	Sources []Source
	// Zones keeps the serials of zones; nil leaves them 0.
	Zones Zones
	// AlwaysRead makes every derivation read the fleet anew, for tests; otherwise what was read is trusted for a moment.
	AlwaysRead bool
	// Load replaces site.Load in tests.
	Load func(site.Source) (*site.Site, []*v1.Finding)
}

// Revisions are the stored revisions of the site. Its methods may be called from many goroutines.
type Revisions struct {
	cfg   Config
	table *store.Table[record]
	keys  *store.Table[resources]

	mu    sync.Mutex
	sites map[uint64]*site.Site
	cache map[cacheKey]*Derived

	reading sync.Mutex
	last    resources
	trusted time.Time
}

// record is a stored revision without its files.
type record struct {
	Number     uint64    `json:"number"`
	Time       time.Time `json:"time"`
	Operator   string    `json:"operator"`
	Digest     string    `json:"digest"`
	RollbackOf uint64    `json:"rollback_of,omitempty"`
	Nodes      uint32    `json:"nodes"`
	// Server identifies the server section: it may not change.
	Server string `json:"server"`
}

func (r record) toProto() *v1.Revision {
	return &v1.Revision{
		Number: r.Number, Time: timestamppb.New(r.Time), Operator: r.Operator, Digest: r.Digest,
		RollbackOf: r.RollbackOf, Nodes: r.Nodes,
	}
}

// New returns the revisions kept in cfg.Records.
func New(cfg Config) *Revisions {
	if cfg.Load == nil {
		cfg.Load = site.Load
	}
	return &Revisions{
		cfg:   cfg,
		table: store.NewTable(cfg.Records, KindRevision, store.JSON[record]()),
		keys:  store.NewTable(cfg.Records, KindResources, store.JSON[resources]()),
		sites: map[uint64]*site.Site{},
		cache: map[cacheKey]*Derived{},
	}
}

// recordName is a number's record name; names sort as numbers do.
func recordName(number uint64) string { return fmt.Sprintf("%010d", number) }

// Check parses and validates a source. The error is Invalid when it breaks a limit; faults of the content are findings, and
// the site is nil when one of them is an error.
func (r *Revisions) Check(source *v1.SiteSource) (*site.Site, []*v1.Finding, error) {
	if err := checkSource(source); err != nil {
		return nil, nil, err
	}
	src := site.SourceFromProto(source)
	src.Site = r.cfg.Site
	s, findings := r.cfg.Load(src)
	return s, findings, nil
}

func checkSource(source *v1.SiteSource) error {
	switch {
	case source == nil:
		return errs.New(errs.Invalid, "the request has no site file")
	case len(source.GetContent()) > MaxFile, len(source.GetOverlayContent()) > MaxFile:
		return errs.New(errs.Invalid, "the site file or its overlay is larger than %d bytes", MaxFile).
			At(source.GetFile()).WithHint("name large content by path instead of writing it into the site file")
	case len(source.GetFile()) > MaxName, len(source.GetOverlayFile()) > MaxName:
		return errs.New(errs.Invalid, "the name of the site file is longer than %d bytes", MaxName)
	case len(source.GetPresentFiles()) > MaxPresentFiles:
		return errs.New(errs.Invalid, "more than %d files stand beside the site file", MaxPresentFiles)
	}
	for _, f := range source.GetPresentFiles() {
		if len(f) > MaxName {
			return errs.New(errs.Invalid, "the name of a file beside the site file is longer than %d bytes", MaxName)
		}
	}
	return site.CheckFiles(source.GetFiles())
}

// Refusal is the Invalid error that a source with error findings gets: it names the first fault's place and what to do.
func Refusal(findings []*v1.Finding) error {
	var faults []*v1.Finding
	for _, f := range findings {
		if f.GetSeverity() == v1.Severity_SEVERITY_ERROR {
			faults = append(faults, f)
		}
	}
	if len(faults) == 0 {
		return errs.New(errs.Invalid, "the site file is not valid")
	}
	message := faults[0].GetMessage()
	if n := len(faults) - 1; n > 0 {
		message = fmt.Sprintf("%s (and %d more)", message, n)
	}
	return errs.New(errs.Invalid, "%s", message).At(faults[0].GetWhere()).WithHint("%s", faults[0].GetHint())
}

// Digest returns the digest of a source's files: "sha256:" and hexadecimal digits. The names under which the operator knows
// the files are no part of it.
func Digest(source *v1.SiteSource) string {
	h := sha256.New()
	add := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	add(source.GetContent())
	add(source.GetOverlayContent())
	present := slices.Clone(source.GetPresentFiles())
	slices.Sort(present)
	for _, f := range slices.Compact(present) {
		add([]byte(f))
	}
	addFiles(add, source.GetFiles())
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// addFiles adds the files of stacks. Without any nothing is added: digests of revisions from before there were any stay.
func addFiles(add func([]byte), files []*v1.SourceFile) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b *v1.SourceFile) int { return strings.Compare(a.GetPath(), b.GetPath()) })
	for _, f := range files {
		mode := "file"
		if f.GetExecutable() {
			mode = "program"
		}
		add([]byte(mode))
		add([]byte(f.GetPath()))
		add(f.GetContent())
	}
}

// AppendRequest is a new revision.
type AppendRequest struct {
	Source *v1.SiteSource
	// Base is the newest revision that the operator saw, 0 for none.
	Base uint64
	// Operator is who wants it.
	Operator string
	// RollbackOf is the revision whose files it repeats, 0 for none.
	RollbackOf uint64
}

// Append validates and stores a revision. When the files are those of the newest revision, that one is returned and nothing
// is stored. Errors: Invalid for a wrong site file, Conflict when there is a newer revision than Base, Precondition when the
// server section differs.
func (r *Revisions) Append(ctx context.Context, req AppendRequest) (*v1.Revision, error) {
	loaded, findings, err := r.Check(req.Source)
	if err != nil {
		return nil, err
	}
	if loaded == nil {
		return nil, Refusal(findings)
	}
	newest, err := r.newest(ctx)
	if err != nil {
		return nil, err
	}
	if newest.Number != req.Base {
		return nil, conflict(newest)
	}
	digest, server := Digest(req.Source), serverSection(loaded)
	if newest.Number > 0 && newest.Digest == digest {
		return newest.toProto(), nil
	}
	if newest.Number > 0 && newest.Server != server {
		return nil, errs.New(errs.Precondition, "the server section differs from revision %d (%s, now %s)", newest.Number, newest.Server, server).
			At(req.Source.GetFile()).WithHint("put the server section back; moving the server is an operation of its own, not an apply")
	}
	rec := record{
		Number: newest.Number + 1, Time: r.cfg.Clock.Now().UTC(), Operator: req.Operator, Digest: digest,
		RollbackOf: req.RollbackOf, Nodes: uint32(len(loaded.Nodes)), Server: server,
	}
	if err := r.write(ctx, rec, req.Source); err != nil {
		if errs.Is(err, errs.Exists) || errs.Is(err, errs.Conflict) {
			if newest, nerr := r.newest(ctx); nerr == nil {
				return nil, conflict(newest)
			}
		}
		return nil, errs.Wrap("store revision", err)
	}
	return rec.toProto(), nil
}

func (r *Revisions) write(ctx context.Context, rec record, source *v1.SiteSource) error {
	files, err := proto.MarshalOptions{Deterministic: true}.Marshal(source)
	if err != nil {
		return errs.Wrap("encode site source", err)
	}
	op, err := r.table.PutOp(recordName(rec.Number), rec, store.Absent)
	if err != nil {
		return err
	}
	_, err = r.cfg.Records.Write(ctx, op, store.Put{Kind: KindFiles, Name: recordName(rec.Number), Data: files})
	return err
}

func conflict(newest record) error {
	if newest.Number == 0 {
		return errs.New(errs.Conflict, "the site has no revision yet").WithHint("infractl plan")
	}
	return errs.New(errs.Conflict, "revision %d by %s is newer than the one that was planned from", newest.Number, newest.Operator).
		WithHint("infractl plan, then apply again")
}

// serverSection writes the server section in one form, so that two files can be compared.
func serverSection(s *site.Site) string {
	return fmt.Sprintf("%s:%d,%d", strings.Join(s.Server.Nodes, "+"), s.Server.Port, s.Server.EnrolPort)
}

// newest returns the newest record, the zero record when there is none.
func (r *Revisions) newest(ctx context.Context) (record, error) {
	items, err := r.table.List(ctx, store.ListOptions{Reverse: true, Limit: 1})
	if err != nil || len(items) == 0 {
		return record{}, errs.Wrap("read newest revision", err)
	}
	return items[0].Value, nil
}

// Current returns the number of the newest revision, 0 when there is none.
func (r *Revisions) Current(ctx context.Context) (uint64, error) {
	rec, err := r.newest(ctx)
	return rec.Number, err
}

// List returns at most limit revisions, newest first.
func (r *Revisions) List(ctx context.Context, limit int) ([]*v1.Revision, error) {
	items, err := r.table.List(ctx, store.ListOptions{Reverse: true, Limit: limit})
	if err != nil {
		return nil, errs.Wrap("list revisions", err)
	}
	out := make([]*v1.Revision, 0, len(items))
	for _, it := range items {
		out = append(out, it.Value.toProto())
	}
	return out, nil
}

// Get returns a revision and its files; number 0 is the newest. NotFound when it does not exist.
func (r *Revisions) Get(ctx context.Context, number uint64) (*v1.Revision, *v1.SiteSource, error) {
	if number == 0 {
		newest, err := r.Current(ctx)
		if err != nil {
			return nil, nil, err
		}
		if newest == 0 {
			return nil, nil, errs.New(errs.NotFound, "the site has no revision yet").WithHint("infractl apply -f site.yaml")
		}
		number = newest
	}
	it, err := r.table.Get(ctx, recordName(number))
	if errs.Is(err, errs.NotFound) {
		return nil, nil, errs.New(errs.NotFound, "the site has no revision %d", number).WithHint("infractl site history")
	}
	if err != nil {
		return nil, nil, errs.Wrap("read revision", err)
	}
	files, err := r.cfg.Records.Get(ctx, KindFiles, recordName(number))
	if err != nil {
		return nil, nil, errs.Wrap("read files of revision", err)
	}
	source := &v1.SiteSource{}
	if err := proto.Unmarshal(files.Data, source); err != nil {
		return nil, nil, errs.New(errs.Internal, "the files of revision %d are damaged: %w", number, err)
	}
	return it.Value.toProto(), source, nil
}
