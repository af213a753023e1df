// Package enrol gives an agent its identity: it finds the join token, enrols, keeps key and certificate on disk, notices
// that it runs on a cloned disk, follows the server's clock, and comes back when its certificate has expired.
package enrol

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Identity is a credential with all that is needed to use it.
type Identity struct {
	*mtls.Credential
	// Candidate says that it was never used yet: the one before it is kept until it has been.
	Candidate bool
	// Servers are host:port of the session listeners.
	Servers []string
	// Enrol are host:port of the enrolment listeners, for recovery.
	Enrol []string
}

// Serial returns the certificate's serial number.
func (i *Identity) Serial() string { return i.Identity.Serial }

// ClonedError says that the identity on disk belongs to another machine.
type ClonedError struct {
	// Why is what differs.
	Why string
}

// Error implements error.
func (e *ClonedError) Error() string {
	return "this machine is a copy of the one that was enrolled: " + e.Why
}

// Store is the folder in which the agent keeps who it is.
type Store struct {
	host  *host.Host
	dir   string
	clock *Clock
	creds *mtls.Credentials

	mu         sync.Mutex
	savedClock time.Duration
}

// meta is what belongs to the credentials and is no secret.
type meta struct {
	JoinCounter uint64             `json:"join_counter"`
	Addresses   map[string]address `json:"addresses"` // by the certificate's serial number
}

type address struct {
	Servers []string `json:"servers"`
	Enrol   []string `json:"enrol"`
}

type savedOffset struct {
	Milliseconds int64 `json:"milliseconds"`
}

const (
	metaFile        = "meta.json"
	fingerprintFile = "fingerprint.json"
	maxUsed         = 64 // used token ids that are remembered
)

// NewStore returns the store in the folder dir of h, and sets clk as it was last known to be right.
func NewStore(h *host.Host, dir string, clk *Clock) *Store {
	s := &Store{host: h, dir: dir, clock: clk, creds: mtls.NewCredentials(h.Path(path.Join(dir, "identity")))}
	var saved savedOffset
	if s.readJSON(path.Join(dir, "clock.json"), &saved) == nil {
		s.savedClock = time.Duration(saved.Milliseconds) * time.Millisecond
		clk.SetOffset(s.savedClock)
	}
	return s
}

// Clock returns the corrected clock.
func (s *Store) Clock() *Clock { return s.clock }

// SaveClock writes the clock's correction to disk if it changed by a second or more.
func (s *Store) SaveClock() error {
	offset := s.clock.Offset()
	s.mu.Lock()
	defer s.mu.Unlock()
	if (offset - s.savedClock).Abs() < time.Second {
		return nil
	}
	if err := s.writeJSON(path.Join(s.dir, "clock.json"), savedOffset{offset.Milliseconds()}, 0o644); err != nil {
		return err
	}
	s.savedClock = offset
	return nil
}

// Identities returns the candidate, if there is one, and then the present identity: the order in which they are tried.
// Without any it is NotFound. A damaged candidate is passed over while there is another.
func (s *Store) Identities() ([]*Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.meta()
	if err != nil {
		return nil, err
	}
	var list []*Identity
	var failed error
	for _, get := range []func() (*mtls.Credential, error){s.creds.Candidate, s.creds.Current} {
		cred, err := get()
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			failed = err
			continue
		}
		at := m.Addresses[cred.Identity.Serial]
		list = append(list, &Identity{Credential: cred, Servers: at.Servers, Enrol: at.Enrol})
	}
	if len(list) == 0 {
		if failed != nil {
			return nil, failed
		}
		return nil, errs.New(errs.NotFound, "this machine has no identity")
	}
	if _, err := s.creds.Candidate(); err == nil {
		list[0].Candidate = true
	}
	return list, nil
}

// JoinCounter returns how often the identity was issued, as far as is known here.
func (s *Store) JoinCounter() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.meta()
	if err != nil {
		return 0
	}
	return m.JoinCounter
}

// KeepCounter stores the counter that the server gave. It never goes back: a lower one comes from a server that was
// restored, and showing it later would make this machine look like a copy.
func (s *Store) KeepCounter(counter uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.meta()
	if err != nil || counter <= m.JoinCounter {
		return err
	}
	m.JoinCounter = counter
	return s.writeJSON(s.path(metaFile), m, 0o600)
}

// Propose checks an identity that the server gave and stores it as the candidate. The root must be the one with the given
// fingerprint and the key the one that was asked for.
func (s *Store) Propose(key signer, given *v1.NodeIdentity, root string, counter uint64) (*Identity, error) {
	cred, at, err := checkGiven(key, given, root)
	if err != nil {
		return nil, errs.Wrap("take the new certificate", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.meta()
	if err != nil {
		return nil, err
	}
	m.JoinCounter = max(m.JoinCounter, counter)
	m.Addresses[cred.Identity.Serial] = at
	if err := s.mkdir(); err != nil {
		return nil, err
	}
	if err := s.writeJSON(s.path(metaFile), m, 0o600); err != nil {
		return nil, err
	}
	if err := s.creds.WriteCandidate(cred); err != nil {
		return nil, err
	}
	return &Identity{Credential: cred, Candidate: true, Servers: at.Servers, Enrol: at.Enrol}, nil
}

func checkGiven(key signer, given *v1.NodeIdentity, root string) (*mtls.Credential, address, error) {
	at := address{Servers: given.GetServerAddresses(), Enrol: given.GetEnrolAddresses()}
	if n := len(at.Servers); n == 0 || n > jointoken.MaxAddresses || len(at.Enrol) > jointoken.MaxAddresses {
		return nil, at, errs.New(errs.Invalid, "the server named %d addresses", n)
	}
	for _, a := range slices.Concat(at.Servers, at.Enrol) {
		if err := jointoken.CheckAddress(a); err != nil {
			return nil, at, err
		}
	}
	cred, err := mtls.NewCredential(key, given.GetCertificatePem(), given.GetRootPem())
	if err != nil {
		return nil, at, err
	}
	roots, err := certs.DecodeCerts(cred.RootPEM)
	if err != nil || certs.FingerprintOf(roots[0]) != root {
		return nil, at, errs.New(errs.Unauthenticated, "the root certificate is not the pinned one")
	}
	if id := cred.Identity; id.Site != given.GetSite() || !id.IsNode(given.GetNode()) {
		return nil, at, errs.New(errs.Invalid, "the certificate is for %s", id.URI())
	}
	return cred, at, nil
}

// Promote makes the candidate the present identity, after the first connection that succeeded with it.
func (s *Store) Promote() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.creds.Promote(); err != nil {
		return err
	}
	m, err := s.meta()
	if err != nil {
		return err
	}
	cred, err := s.creds.Current()
	if err != nil {
		return err
	}
	serial := cred.Identity.Serial
	m.Addresses = map[string]address{serial: m.Addresses[serial]}
	return s.writeJSON(s.path(metaFile), m, 0o600)
}

// DropCandidate forgets a candidate that the server refused.
func (s *Store) DropCandidate() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.creds.DropCandidate()
}

// CheckMachine compares the machine with the one that was enrolled. On a clone it returns *ClonedError.
func (s *Store) CheckMachine(present *v1.HostFingerprint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := s.host.ReadFile(s.path(fingerprintFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s.writeFingerprint(present)
	}
	if err != nil {
		return errs.Wrap("read fingerprint", err)
	}
	stored := &v1.HostFingerprint{}
	if err := protojson.Unmarshal(data, stored); err != nil {
		return errs.New(errs.Invalid, "the stored fingerprint cannot be read: %w", err)
	}
	if why := difference(stored, present); why != "" {
		return &ClonedError{Why: why}
	}
	if present.GetProductSerial() == "" && stored.GetProductSerial() != "" {
		return nil // do not forget a serial that could not be read this time
	}
	return s.writeFingerprint(present)
}

func (s *Store) writeFingerprint(f *v1.HostFingerprint) error {
	if err := s.mkdir(); err != nil {
		return err
	}
	data, err := protojson.Marshal(f)
	if err != nil {
		return errs.Wrap("write fingerprint", err)
	}
	compact, err := json.Marshal(json.RawMessage(data)) // protojson spaces at random; a file that is the same stays
	if err != nil {
		return errs.Wrap("write fingerprint", err)
	}
	_, err = s.host.WriteFile(s.path(fingerprintFile), compact, 0o600)
	return errs.Wrap("write fingerprint", err)
}

// SetAside moves the identity out of the way, so that it is never used again and can still be looked at. reason becomes
// part of the folder's name: "revoked", "cloned", "damaged".
func (s *Store) SetAside(reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := path.Join(s.dir, "identity")
	if !s.host.Exists(from) {
		return nil
	}
	to := from + "." + reason + "-" + s.clock.Machine().UTC().Format("20060102T150405.000Z")
	return errs.Wrap("set identity aside", s.host.Rename(from, to))
}

// UsedTokens returns the ids of tokens that were used on this machine.
func (s *Store) UsedTokens() []string {
	var used []string
	if s.readJSON(path.Join(s.dir, "used-tokens.json"), &used) != nil {
		return nil
	}
	return used
}

func (s *Store) addUsedToken(id string) error {
	used := s.UsedTokens()
	if id == "" || slices.Contains(used, id) {
		return nil
	}
	used = append(used, id)
	return s.writeJSON(path.Join(s.dir, "used-tokens.json"), used[max(0, len(used)-maxUsed):], 0o600)
}

func (s *Store) meta() (meta, error) {
	m := meta{}
	err := s.readJSON(s.path(metaFile), &m)
	if m.Addresses == nil {
		m.Addresses = map[string]address{}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	return m, err
}

func (s *Store) path(file string) string { return path.Join(s.dir, "identity", file) }

func (s *Store) mkdir() error { return s.host.Mkdir(path.Join(s.dir, "identity"), 0o700) }

func (s *Store) readJSON(file string, into any) error {
	data, err := s.host.ReadFile(file)
	if err != nil {
		return errs.Wrap("read "+file, err)
	}
	return errs.Wrap("read "+file, json.Unmarshal(data, into))
}

func (s *Store) writeJSON(file string, value any, mode fs.FileMode) error {
	data, err := json.Marshal(value)
	if err != nil {
		return errs.Wrap("write "+file, err)
	}
	_, err = s.host.WriteFile(file, append(data, '\n'), mode)
	return errs.Wrap("write "+file, err)
}
