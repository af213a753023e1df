// Package compose is the helper infractl-compose: Docker's own Compose library behind one request. It builds nothing, pulls
// nothing, runs no plugin, and interpolates the request's variables alone, never the environment of the process.
package compose

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/flags"
	"github.com/docker/compose/v5/pkg/api"
	"github.com/docker/compose/v5/pkg/compose"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/internal/errs"
)

const (
	// defaultWait bounds how long services may take to become healthy when the request does not say.
	defaultWait = 2 * time.Minute
	maxWait     = 30 * time.Minute
	// slack is what making and removing containers may take beside that.
	slack = 3 * time.Minute
)

// Main does what the request on in says, and answers on out. It returns the exit code: 0 when all is well.
func Main(ctx context.Context, in io.Reader, out io.Writer) int {
	w := &writer{out: json.NewEncoder(out)}
	result := &wire.Result{}
	req, err := wire.ReadRequest(in)
	if err == nil {
		result.Services, err = run(ctx, req, w)
	}
	if err != nil {
		result.Code, result.Error, result.Hint = string(errs.CodeOf(err)), oneLine(err.Error()), errs.HintOf(err)
	}
	w.line(wire.Line{Result: result})
	if err != nil {
		return 1
	}
	return 0
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > 2000 {
		s = strings.ToValidUTF8(s[:2000], "") + "..."
	}
	return s
}

func run(ctx context.Context, req *wire.Request, w *writer) ([]wire.Service, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	wait := time.Duration(req.WaitSeconds) * time.Second
	if wait <= 0 {
		wait = defaultWait
	}
	wait = min(wait, maxWait)
	ctx, cancel := context.WithTimeout(ctx, 2*wait+slack)
	defer cancel()
	if req.Action == wire.Down {
		service, err := connect(ctx, req, w)
		if err != nil {
			return nil, err
		}
		return nil, failed("down", service.Down(ctx, req.Project, api.DownOptions{RemoveOrphans: true}))
	}
	p, err := load(ctx, req)
	if err != nil {
		return nil, err
	}
	services, err := describe(p)
	if err != nil || req.Action == wire.Config {
		return services, err
	}
	service, err := connect(ctx, req, w)
	if err != nil {
		return nil, err
	}
	err = service.Up(ctx, p.project, api.UpOptions{
		Create: api.CreateOptions{RemoveOrphans: true, Recreate: api.RecreateDiverged, RecreateDependencies: api.RecreateDiverged,
			Inherit: true, QuietPull: true, SkipProviders: true},
		Start: api.StartOptions{Project: p.project, Wait: true, WaitTimeout: wait},
	})
	if err != nil {
		return services, failed("up", err)
	}
	return containers(ctx, service, req.Project, services)
}

func check(req *wire.Request) error {
	bad := func(format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).WithHint("infractl-compose is for the agent: it is not called by hand")
	}
	switch {
	case !slices.Contains([]string{wire.Up, wire.Down, wire.Config}, req.Action):
		return bad("the action %.32q is not known", req.Action)
	case req.Project == "":
		return bad("the request names no project")
	case req.Action == wire.Down:
		return nil
	case !strings.HasPrefix(req.Dir, "/") || req.File == "" || strings.Contains(req.File, "/"):
		return bad("the request names no Compose file")
	}
	return nil
}

// connect makes Docker's Compose service. The configuration of a person's docker command is left alone.
func connect(_ context.Context, req *wire.Request, w *writer) (api.Compose, error) {
	cli, err := command.NewDockerCli(command.WithCombinedStreams(io.Discard))
	if err != nil {
		return nil, errs.Wrap("start the Compose library", err)
	}
	socket := req.Socket
	if socket == "" {
		socket = "/run/docker.sock"
	}
	if err := cli.Initialize(&flags.ClientOptions{Hosts: []string{"unix://" + socket}, LogLevel: "fatal"}); err != nil {
		return nil, errs.Wrap("start the Compose library", err)
	}
	service, err := compose.NewComposeService(cli, compose.WithEventProcessor(w), compose.WithPrompt(compose.AlwaysOkPrompt()),
		compose.WithStreams(io.Discard, io.Discard, strings.NewReader("")))
	return service, errs.Wrap("start the Compose library", err)
}

// failed gives an error of the library a code.
func failed(op string, err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text, p) })
	}
	switch {
	case has("Cannot connect to the Docker daemon", "failed to connect to the docker API", "connection refused", "dial unix"):
		return errs.New(errs.Unavailable, "%s: the container engine does not answer", op).WithHint("systemctl status docker")
	case has("no space left on device"):
		return errs.New(errs.Exhausted, "%s: %w", op, err).WithHint("free space on this host: docker system df")
	case has("No such image", "no such image", "pull access denied"):
		return errs.New(errs.Precondition, "%s: %w", op, err).WithHint("the image is not on this host: infractl image push")
	case has("not healthy after", "is unhealthy", "exited (", "timeout waiting", "didn't complete"):
		return errs.New(errs.Precondition, "%s: %w", op, err).WithHint("see its log: infractl logs")
	case has("port is already allocated", "address already in use"):
		return errs.New(errs.Conflict, "%s: %w", op, err).WithHint("another program or stack has the port")
	}
	return errs.New(errs.Internal, "%s: %w", op, err)
}

// containers adds what the engine says of the stack's containers.
func containers(ctx context.Context, service api.Compose, project string, services []wire.Service) ([]wire.Service, error) {
	list, err := service.Ps(ctx, project, api.PsOptions{All: true})
	if err != nil {
		return nil, failed("look at the containers", err)
	}
	slices.SortFunc(list, func(a, b api.ContainerSummary) int { return strings.Compare(a.Name, b.Name) })
	for i := range services {
		s := &services[i]
		for j := range list {
			if c := &list[j]; c.Service == s.Name && c.Labels[api.OneoffLabel] != "True" {
				s.Containers = append(s.Containers, c.ID)
				s.Hash = c.Labels[api.ConfigHashLabel]
			}
		}
	}
	return services, nil
}

// writer writes lines; it is the library's event processor.
type writer struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (w *writer) line(l wire.Line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Encode(l) // without a reader there is nobody to tell
}

// Start implements api.EventProcessor.
func (w *writer) Start(context.Context, string) {}

// On implements api.EventProcessor.
func (w *writer) On(events ...api.Resource) {
	for i := range events {
		w.line(wire.Line{Progress: oneLine(events[i].ID + " " + events[i].Text)})
	}
}

// Done implements api.EventProcessor.
func (w *writer) Done(string, bool) {}
