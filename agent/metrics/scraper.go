package metrics

import (
	"context"
	"crypto/x509"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Files that Prometheus on this host reads, in ScrapeDir of the state folder; compose.ScrapeFolder is what stacks mount.
const (
	ScrapeDir  = "scrape"
	ScrapeCert = "cert.pem"
	ScrapeKey  = "key.pem"
	ScrapeCA   = "ca.pem"
	// ScrapeOwner names the user who reads the key, when it is another one than the rule finds: a file with a name or number.
	ScrapeOwner = "owner"
)

// containerUID is the user of Prometheus' own image: nobody.
const containerUID = 65534

// scraper keeps the files.
type scraper struct {
	cfg  Config
	cert *keeper
	dir  string

	mu      sync.Mutex
	problem string
	present bool
}

func newScraper(cfg Config) *scraper {
	s := &scraper{cfg: cfg, cert: newKeeper(cfg, v1.Purpose_PURPOSE_SCRAPER), dir: path.Join(cfg.StateDir, ScrapeDir)}
	s.present = cfg.Host.Exists(path.Join(s.dir, ScrapeKey))
	return s
}

// follow writes the files when they are wanted and removes them when they are not.
func (s *scraper) follow(ctx context.Context, wanted bool) {
	err := s.try(ctx, wanted)
	s.mu.Lock()
	defer s.mu.Unlock()
	problem := ""
	if err != nil {
		problem = "Prometheus' certificate: " + err.Error()
	}
	if problem != "" && problem != s.problem {
		s.cfg.Log.Warn(problem)
	}
	s.problem = problem
}

func (s *scraper) try(ctx context.Context, wanted bool) error {
	if !wanted {
		return s.remove()
	}
	if s.cert.current() == nil {
		s.load()
	}
	if err := s.cert.follow(ctx, nil); err != nil {
		if m := s.cert.current(); m == nil || m.due(s.cfg.Clock.Now().Add(-renewGrace)) {
			return err
		}
	}
	return s.write(s.cert.current())
}

// renewGrace is how long a renewal may be late before people hear of it.
const renewGrace = 12 * time.Hour

// load takes what an earlier run of the agent has left, so that a restart needs no server.
func (s *scraper) load() {
	read := func(name string) []byte {
		data, _ := s.cfg.Host.ReadFile(path.Join(s.dir, name))
		return data
	}
	key, err := certs.DecodeKey(read(ScrapeKey))
	if err != nil {
		return
	}
	m, err := newMaterial(key, &v1.IssueCertificateResponse{CertificatePem: read(ScrapeCert), RootPem: read(ScrapeCA)})
	if err != nil {
		return
	}
	between := x509.NewCertPool()
	between.AppendCertsFromPEM(m.chain)
	opts := x509.VerifyOptions{Roots: m.roots, Intermediates: between, CurrentTime: s.cfg.Clock.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := m.leaf.Verify(opts); err != nil {
		return
	}
	s.cert.mu.Lock()
	s.cert.have = m
	s.cert.mu.Unlock()
}

// write puts the files in place: the key last, so that a reader that finds a new key finds its certificate too. Prometheus
// reads them anew for each connection.
func (s *scraper) write(m *material) error {
	uid, gid, err := s.owner()
	if err != nil {
		return err
	}
	key, err := certs.EncodeKey(m.key)
	if err != nil {
		return err
	}
	if err := s.cfg.Host.Mkdir(s.dir, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{{ScrapeCA, m.root, 0o444}, {ScrapeCert, m.chain, 0o444}, {ScrapeKey, key, 0o400}} {
		if _, err := s.cfg.Host.Write(host.File{Path: path.Join(s.dir, f.name), Data: f.data, Mode: f.mode, UID: uid, GID: gid}); err != nil {
			return err
		}
	}
	s.present = true
	return nil
}

func (s *scraper) remove() error {
	if !s.present {
		return nil
	}
	s.cert.forget()
	for _, name := range []string{ScrapeKey, ScrapeCert, ScrapeCA} {
		if err := s.cfg.Host.Remove(path.Join(s.dir, name)); err != nil {
			return err
		}
	}
	s.present = false
	return nil
}

// owner is who reads the key: the user that the file "owner" beside it names, else the user prometheus of Debian's package,
// else the one of Prometheus' image.
func (s *scraper) owner() (uid, gid int, err error) {
	name := "prometheus"
	named, rerr := s.cfg.Host.ReadFile(path.Join(s.dir, ScrapeOwner))
	if rerr == nil {
		name = strings.TrimSpace(string(named))
	}
	passwd, err := s.cfg.Host.ReadFile("/etc/passwd")
	if err != nil {
		return 0, 0, errs.Wrap("find the owner of the scraper's key", err)
	}
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[0] != name && f[2] != name {
			continue
		}
		uid, uerr := strconv.Atoi(f[2])
		gid, gerr := strconv.Atoi(f[3])
		if uerr == nil && gerr == nil {
			return uid, gid, nil
		}
	}
	if rerr != nil {
		return containerUID, containerUID, nil
	}
	if n, nerr := strconv.Atoi(name); nerr == nil && n >= 0 {
		return n, n, nil
	}
	return 0, 0, errs.New(errs.Precondition, "there is no user %.40q", name).At(path.Join(s.dir, ScrapeOwner))
}

func (s *scraper) warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problem == "" {
		return nil
	}
	return []string{s.problem}
}
