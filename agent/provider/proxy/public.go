package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// publicMost bounds the names and the questions of a task, publicAtOnce how many names are asked for at a time.
	publicMost, publicAtOnce = 500, 8
	// publicWait is the longest wait, foreignWait how long a name is waited for that somebody else points here.
	publicWait, foreignWait = 2 * time.Minute, 3 * time.Second
	// publicPause is the longest pause between two tries: who makes an instance waits for this.
	publicPause = 200 * time.Millisecond
	// onePublic bounds one try of one name.
	onePublic = 15 * time.Second
)

// Public asks for names as the world does, until all is right or the task's time is over; see v1.PublicTask. What is wrong is in the
// result and no error. Errors: Invalid for a task that can't be, Precondition when this host has no proxy of ours.
func (p *Provider) Public(ctx context.Context, task *v1.PublicTask) (*v1.PublicResult, error) {
	wait := task.GetWait().AsDuration()
	if len(task.GetNames()) > publicMost || len(task.GetQuestions()) > publicMost || wait < 0 || wait > publicWait {
		return nil, errs.New(errs.Invalid, "%d names, %d questions and a wait of %s are too much", len(task.GetNames()), len(task.GetQuestions()), wait)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, wait+2*onePublic)
	defer cancel()
	out := &v1.PublicResult{}
	for _, n := range task.GetNames() {
		out.Names = append(out.Names, &v1.PublicSight{Name: n.GetName()})
	}
	for _, q := range task.GetQuestions() {
		out.Answers = append(out.Answers, &v1.PublicAnswer{Question: q, Problem: "not asked"})
	}
	for {
		if err := p.seeNames(ctx, task.GetNames(), out.GetNames()); err != nil {
			return nil, err
		}
		p.askServers(ctx, out.GetAnswers())
		passed := time.Since(began)
		if passed >= wait || passed >= foreignWait && settled(task, out, false) || settled(task, out, true) {
			return out, ctx.Err()
		}
		t := time.NewTimer(min(p.cfg.Pause, publicPause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return out, ctx.Err()
		}
	}
}

// settled reports whether nothing is left to wait for; names that somebody else points here count when foreign is set.
func settled(task *v1.PublicTask, out *v1.PublicResult, foreign bool) bool {
	for i, s := range out.GetNames() {
		open := s.GetState() == v1.PublicState_PUBLIC_STATE_WRONG && (s.GetVersion() == "" || s.GetVersion() == task.GetNames()[i].GetVersion())
		if open && (foreign || !task.GetNames()[i].GetForeign()) {
			return false
		}
	}
	return !slices.ContainsFunc(out.GetAnswers(), func(a *v1.PublicAnswer) bool { return a.GetProblem() != "" })
}

// door is what the proxy was told last.
type door struct {
	spec   *v1.ProxySpec
	hosts  map[string]*Host
	ledger *ledger
	driver driver
	at     string // its address
}

func (p *Provider) door() (*door, error) {
	spec, r, l, err := p.last()
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errs.New(errs.Precondition, "this host has no reverse proxy of ours").WithHint("infractl apply")
	}
	d := &door{spec: spec, ledger: l, hosts: map[string]*Host{}, at: listening(spec)}
	if d.driver, err = p.driver(access{Driver: spec.GetDriver(), API: spec.GetApi(), User: spec.GetApiUser()}); err != nil {
		return nil, err
	}
	for i := range r.Hosts {
		for _, name := range r.Hosts[i].Domains {
			d.hosts[name] = &r.Hosts[i]
		}
	}
	return d, nil
}

// seeNames asks for the names that were not seen as they should be yet.
func (p *Provider) seeNames(ctx context.Context, names []*v1.PublicName, seen []*v1.PublicSight) error {
	if len(names) == 0 {
		return nil
	}
	d, err := p.door() // anew each time: an apply may be at it
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(publicAtOnce)
	for i, n := range names {
		if s := seen[i].GetState(); s != v1.PublicState_PUBLIC_STATE_SERVED && s != v1.PublicState_PUBLIC_STATE_QUEUED {
			g.Go(func() error { seen[i] = p.see(ctx, d, n); return nil })
		}
	}
	return g.Wait()
}

// see looks how one name is served.
func (p *Provider) see(ctx context.Context, d *door, n *v1.PublicName) *v1.PublicSight {
	ctx, cancel := context.WithTimeout(ctx, onePublic)
	defer cancel()
	s := &v1.PublicSight{Name: n.GetName()}
	err := p.seeHost(ctx, d, n, s)
	if err != nil {
		s.State, s.Message, s.Hint = v1.PublicState_PUBLIC_STATE_WRONG, err.Error(), errs.HintOf(err)
	} else if s.GetState() == v1.PublicState_PUBLIC_STATE_UNSPECIFIED {
		s.State = v1.PublicState_PUBLIC_STATE_SERVED
	}
	return s
}

func (p *Provider) seeHost(ctx context.Context, d *door, n *v1.PublicName, s *v1.PublicSight) error {
	h := d.hosts[n.GetName()]
	if h == nil {
		return errs.New(errs.Precondition, "the proxy was not told of it, or leaves it to somebody else").WithHint("infractl apply; infractl plan says why")
	}
	switch h.Certificate {
	case Waiting:
		return p.queued(d, h, s)
	case None:
		s.Message = "served without TLS: the driver " + d.spec.GetDriver() + " has no authority of its own for a name that is not public"
		conn, err := p.cfg.Dial(ctx, "tcp", net.JoinHostPort(d.at, strconv.Itoa(p.cfg.HTTPPort)))
		if err != nil {
			return d.silent(err)
		}
		return d.page(ctx, conn, n, s)
	}
	conn, err := p.cfg.Dial(ctx, "tcp", net.JoinHostPort(d.at, strconv.Itoa(p.cfg.HTTPSPort)))
	if err != nil {
		return d.silent(err)
	}
	defer conn.Close()
	// What is wrong with a certificate is said in our own words, so that it is checked below.
	secure := tls.Client(conn, &tls.Config{ServerName: n.GetName(), InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // see above
	if err := secure.HandshakeContext(ctx); err != nil {
		return errs.New(errs.Precondition, "the proxy has no certificate for it: %w", err).WithHint("%s", d.certificateHint())
	}
	served := secure.ConnectionState().PeerCertificates
	s.Begins, s.Ends, s.Issuer = timestamppb.New(served[0].NotBefore), timestamppb.New(served[0].NotAfter), served[0].Issuer.String()
	if s.Message, err = p.judge(d, h, n.GetName(), served); err != nil {
		return err
	}
	return d.page(ctx, secure, n, s)
}

// queued says when the turn of a certificate comes. One that the authority refused waits too, but for another reason.
func (p *Provider) queued(d *door, h *Host, s *v1.PublicSight) error {
	now := p.cfg.Clock.Now()
	due := now
	for _, key := range d.driver.certificates(*h) {
		if e := d.ledger.Certificates[key]; e != nil && e.Tries > 0 {
			return errs.New(errs.Precondition, "the authority refused its certificate %d times; it is asked again at %s", e.Tries, e.Next.UTC().Format(time.RFC3339)).
				WithHint("%s", d.certificateHint())
		}
		if t := d.ledger.turn(now, key, int(d.spec.GetCertificatesPerWeek())); t.After(due) {
			due = t
		}
	}
	s.State, s.Due = v1.PublicState_PUBLIC_STATE_QUEUED, timestamppb.New(due)
	s.Message = "its certificate waits for its turn: " + strconv.Itoa(int(d.spec.GetCertificatesPerWeek())) + " new ones a week are asked for at most"
	return nil
}

// page asks for the login page, where the task wants that.
func (d *door) page(ctx context.Context, conn net.Conn, n *v1.PublicName, s *v1.PublicSight) error {
	if n.GetVersion() == "" {
		return conn.Close()
	}
	status, body, err := fetch(ctx, conn, http.MethodGet, n.GetName(), dolibarr.LoginPath)
	if err != nil {
		return d.silent(err)
	}
	if status == http.StatusMisdirectedRequest || status == http.StatusBadGateway {
		return errs.New(errs.Precondition, "the proxy answers %d", status).WithHint("%s", d.log())
	}
	if s.Version, err = dolibarr.LoginVersion(status, body); err != nil {
		return err
	}
	if s.GetVersion() != n.GetVersion() {
		return errs.New(errs.Precondition, "its login page says version %s, not %s", s.GetVersion(), n.GetVersion()).
			WithHint("does the name lead to another instance?")
	}
	return nil
}

func (d *door) silent(err error) error {
	return errs.New(errs.Unavailable, "the proxy does not answer: %w", err).WithHint("%s", d.log())
}

// log is where the proxy says what it does.
func (d *door) log() string {
	if d.spec.GetDriver() == DriverCaddy {
		return "journalctl -u caddy, on the proxy's node"
	}
	return "the log of the container of Nginx Proxy Manager, on the proxy's node"
}

func (d *door) certificateHint() string {
	return "does the name's public DNS lead to the proxy, and is port 80 open to the world? the authority's answer is in " + d.log()
}

// askServers asks the questions that were not answered rightly yet, each server in turn.
func (p *Provider) askServers(ctx context.Context, answers []*v1.PublicAnswer) {
	open := map[string][]*v1.PublicAnswer{}
	for _, a := range answers {
		if a.GetProblem() != "" {
			open[a.GetQuestion().GetServer()] = append(open[a.GetQuestion().GetServer()], a)
		}
	}
	for _, server := range sortedKeys(open) {
		var questions []zone.Question
		for _, a := range open[server] {
			q := a.GetQuestion()
			questions = append(questions, zone.Question{Name: q.GetName(), Type: q.GetType(), Values: q.GetValues()})
		}
		for i, got := range zone.AskAll(ctx, p.cfg.Exchange, zone.Port53(server), questions, false) {
			a := open[server][i]
			switch {
			case got.Err != nil:
				a.Problem = got.Err.Error()
			case !got.OK():
				a.Problem = "it answers " + orNothing(got.Values) + ", not " + orNothing(got.Question.Values)
			default:
				a.Problem = ""
			}
		}
	}
}

func orNothing(values []string) string {
	if len(values) == 0 {
		return "nothing"
	}
	return strings.Join(values, " ")
}

// listening is the address at which the proxy is asked.
func listening(spec *v1.ProxySpec) string {
	if a := first(spec.GetListenAddresses()); a != "" {
		return a
	}
	return "127.0.0.1"
}
