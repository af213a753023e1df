package dolibarr

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// toolLife bounds a container of the tool whose agent died: it ends by itself, and the next task removes it.
const toolLife = "1200"

// startTool starts the container in which verbs run. It does nothing by itself: verbs get their input, which nobody else may see, by a
// command in it.
func (p *Provider) startTool(ctx context.Context, inst *v1.InstanceSpec, verb string, writable bool) (string, error) {
	spec := p.toolContainer(inst, verb, writable)
	spec.Entrypoint, spec.Cmd, spec.Restart = []string{"sleep"}, []string{toolLife}, ""
	if err := p.dropNamed(ctx, spec.Name); err != nil {
		return "", err
	}
	id, err := p.engine.CreateContainer(ctx, spec)
	if err != nil {
		return "", err
	}
	return id, p.engine.Start(ctx, id)
}

// dropNamed removes a container that a former try has left.
func (p *Provider) dropNamed(ctx context.Context, name string) error {
	d, err := p.engine.Inspect(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.engine.RemoveContainer(ctx, d.ID)
}

// dropTool removes the container of the tool, also when the task is over.
func (p *Provider) dropTool(ctx context.Context, id string) {
	if id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err := p.engine.RemoveContainer(ctx, id); err != nil {
		p.log.Warn("a container of the tool is left", "container", id, "error", err)
	}
}

// verb runs a verb of the tool to its end. Its steps are noted as VERB STEP.
func (p *Provider) verb(ctx context.Context, t *steps, container, verb string, input any) (dolibarr.Answer, error) {
	text, err := json.Marshal(input)
	if err != nil {
		return dolibarr.Answer{}, errs.Wrap(verb, err)
	}
	return p.answered(ctx, t, container, verb, []string{"php", dolibarr.ToolFile, verb}, bytes.NewReader(text))
}

// answered runs a program that answers as the tool does, as the web user.
func (p *Provider) answered(ctx context.Context, t *steps, container, verb string, argv []string, stdin io.Reader) (dolibarr.Answer, error) {
	started := time.Now()
	out, in := io.Pipe()
	ran := make(chan error, 1)
	go func() {
		code, err := p.engine.Run(ctx, container, argv, webUser(), stdin, in)
		if err == nil && code != 0 {
			err = errs.New(errs.Internal, "the tool ended with code %d", code)
		}
		in.Close()
		ran <- err
	}()
	answer, err := dolibarr.ReadAnswer(out, func(s dolibarr.Step) { t.add(verb+" "+s.Name, s.Duration()) })
	out.CloseWithError(io.ErrClosedPipe) // what goes beyond the limits is not waited for
	runErr := <-ran
	switch {
	case err == nil && runErr == nil:
		t.add(verb, time.Since(started))
		return answer, nil
	case ctx.Err() != nil:
		return answer, errs.New(errs.Timeout, "%s did not end in time: %w", verb, ctx.Err())
	case err == nil || errs.Is(err, errs.Internal) && runErr != nil:
		err = errs.Join(err, runErr) // no answer: how the program ended says more
	}
	return answer, errs.Wrap(verb, err)
}

// reachScript waits until the server takes connections of the network: the one of a first start takes none. A ping that is refused for want
// of a password has reached it.
const reachScript = `i=0
until mariadb-admin --no-defaults --protocol=tcp --host=127.0.0.1 --connect-timeout=5 ping >/dev/null 2>&1; do
  [ $i -lt 6000 ] || exit 1
  sleep 0.05; i=$((i+1))
done`

// reachable waits until a database takes connections of the network.
func (p *Provider) reachable(ctx context.Context, container, name string) error {
	code, err := p.engine.Run(ctx, container, []string{"sh", "-c", reachScript}, "mysql", nil, nil)
	switch {
	case err == nil && code == 0:
		return nil
	case err == nil && code == 1:
		err = errs.New(errs.Timeout, "it takes no connection")
	case err == nil: // killed with the container, and no time mends that
		err = errs.New(errs.Internal, "its container ended")
	}
	return errs.New(errs.CodeOf(err), "the database does not come up: %w", err).WithHint("docker logs %s says why", name)
}

// sqlScript waits for the server's socket and feeds it the statements of its input.
const sqlScript = `i=0
while [ ! -S /run/mysqld/mysqld.sock ] && [ $i -lt 1500 ]; do sleep 0.04; i=$((i+1)); done
exec mariadb --no-defaults --protocol=socket --socket=/run/mysqld/mysqld.sock --user=mysql --batch`

// sql runs statements as mysql over the socket of a database's container. They go by stdin: no argument holds a secret.
func (p *Provider) sql(ctx context.Context, container, statements string, secrets ...string) error {
	code, err := p.engine.Run(ctx, container, []string{"sh", "-c", sqlScript}, "mysql", strings.NewReader(statements), io.Discard)
	if err == nil && code != 0 {
		err = errs.New(errs.Internal, "the database's client ended with code %d", code)
	}
	return redacted(err, secrets...)
}
