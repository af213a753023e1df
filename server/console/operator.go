package console

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// request is what an operator asked for.
type request struct {
	node, target, action, said string
	work                       *v1.AttachTask
	send                       func(*v1.ConsoleOutput) error
	// input hands the operator's input on until the link ends; nil where there is none.
	input func(context.Context, *link)
}

// StreamLogs implements v1.ConsoleServiceServer.
func (s *Consoles) StreamLogs(req *v1.StreamLogsRequest, stream grpc.ServerStreamingServer[v1.StreamLogsResponse]) error {
	source := req.GetSource()
	if source == nil {
		source = &v1.LogSource{}
	}
	if err := console.CheckLogs(source); err != nil {
		return err
	}
	ctx := stream.Context()
	node, err := s.place(ctx, req.GetNode(), source)
	if err != nil {
		return err
	}
	target := "unit " + source.GetUnit()
	if source.GetStack() != "" || source.GetInstance() != "" {
		target = targetOf(source)
	}
	return s.serve(ctx, request{
		node: node, target: target, action: "console.logs",
		work: &v1.AttachTask{Work: &v1.AttachTask_Logs{Logs: source}},
		send: func(out *v1.ConsoleOutput) error { return stream.Send(&v1.StreamLogsResponse{Output: out}) },
	})
}

// Exec implements v1.ConsoleServiceServer.
func (s *Consoles) Exec(stream grpc.BidiStreamingServer[v1.ExecRequest, v1.ExecResponse]) error {
	ctx := stream.Context()
	in := receive(ctx, stream.Recv)
	first, err := in.first(ctx, s.cfg.Limits.Start)
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return errs.New(errs.Invalid, "the first message says what to run")
	}
	command := start.GetCommand()
	if err := console.CheckExec(command); err != nil {
		return err
	}
	node, err := s.place(ctx, start.GetNode(), command)
	if err != nil {
		return err
	}
	return s.serve(ctx, request{
		node: node, target: targetOf(command), action: "console.exec",
		said:  "runs " + quote(command),
		work:  &v1.AttachTask{Work: &v1.AttachTask_Exec{Exec: command}},
		send:  func(out *v1.ConsoleOutput) error { return stream.Send(&v1.ExecResponse{Output: out}) },
		input: func(ctx context.Context, l *link) { inputs(ctx, l, in) },
	})
}

// maxSaid bounds the command in the audit log, in bytes.
const maxSaid = 1000

// quote writes a command as the audit log has it.
func quote(c *v1.ExecCommand) string {
	text := fmt.Sprintf("%q", c.GetArgv())
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "..."
	}
	if c.GetUser() != "" {
		text += " as " + c.GetUser()
	}
	return text
}

// targetOf is what the audit log calls containers: STACK/SERVICE, or instance/NAME/PART.
func targetOf(p console.Place) string {
	name := p.GetStack()
	if p.GetInstance() != "" {
		name = "instance/" + p.GetInstance()
	}
	return strings.TrimSuffix(name+"/"+p.GetService(), "/")
}

// carries reports whether a host has the stack or the instance.
func carries(spec *v1.HostSpec, p console.Place) bool {
	if p.GetInstance() != "" {
		return slices.ContainsFunc(spec.GetDolibarr().GetInstances(), func(i *v1.InstanceSpec) bool { return i.GetName() == p.GetInstance() })
	}
	return slices.ContainsFunc(spec.GetContainers().GetStacks(), func(s *v1.StackSpec) bool { return s.GetName() == p.GetStack() })
}

// place returns the node to ask: the one that is named, or the one that the stack or the instance is on.
func (s *Consoles) place(ctx context.Context, node string, p console.Place) (string, error) {
	specs, err := s.cfg.Wanted.HostSpecs(ctx)
	if err != nil {
		return "", err
	}
	kind, name := "stack", p.GetStack()
	if p.GetInstance() != "" {
		kind, name = "instance", p.GetInstance()
	}
	if name == "" {
		if node == "" {
			return "", errs.New(errs.Invalid, "no node is named").WithHint("infractl node list")
		}
		if len(node) > 63 {
			return "", errs.New(errs.Invalid, "%.80q cannot name a node", node)
		}
		return node, nil // a node that no revision names yet has a log too
	}
	var on []string
	for host, spec := range specs {
		if carries(spec, p) {
			on = append(on, host)
		}
	}
	slices.Sort(on)
	switch {
	case len(on) == 0:
		return "", errs.New(errs.NotFound, "the site has no %s %.64q", kind, name).WithHint("infractl %s list", kind)
	case node == "" && len(on) == 1:
		return on[0], nil
	case node == "":
		return "", errs.New(errs.Invalid, "%s %s is on %s", kind, name, strings.Join(on, ", ")).WithHint("name the node")
	case !slices.Contains(on, node):
		return "", errs.New(errs.NotFound, "%s %s is not on %.64q but on %s", kind, name, node, strings.Join(on, ", "))
	}
	return node, nil
}

// serve carries one console to its end.
func (s *Consoles) serve(ctx context.Context, r request) error {
	caller := access.CallerFrom(ctx)
	l, err := s.open(caller.Actor, r.node)
	s.audit(ctx, caller, r, err)
	if err != nil {
		return err
	}
	defer s.forget(l)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.ask(ctx, l, r.work)
	if r.input != nil {
		go r.input(ctx, l)
	}
	last := make(chan struct{}) // closed when the last message went to the operator
	go func() {
		for {
			select {
			case out := <-l.toPeer:
				if err := r.send(out); err != nil {
					l.end(errs.New(errs.Canceled, "the operator went away"))
					return
				}
				l.touch()
				if out.GetEnded() {
					close(last)
					return
				}
			case <-l.ended:
				return
			}
		}
	}()
	err = s.watch(ctx, l, caller, last)
	l.end(err)
	s.cfg.Log.Info("console ended", "actor", caller.Actor, "node", r.node, "target", r.target, "reason", l.cause)
	return l.cause
}

// audit tells who looks into what, when it begins: the gate's own entry comes when it is over.
func (s *Consoles) audit(ctx context.Context, caller access.Caller, r request, err error) {
	entry := store.AuditEntry{Actor: caller.Actor, Role: string(caller.Identity.Role), Source: caller.Address, Action: r.action,
		Target: r.target, Node: r.node, Result: "ok", Message: r.said}
	if err != nil {
		entry.Result = string(errs.CodeOf(err))
		entry.Message = strings.TrimPrefix(r.said+": "+err.Error(), ": ")
	}
	s.cfg.Recorder.Write(ctx, entry)
}

// inputs hands the operator's input on.
func inputs(ctx context.Context, l *link, in *incoming[v1.ExecRequest]) {
	for over := false; !over; {
		var msg *v1.ConsoleInput
		select {
		case m, ok := <-in.messages:
			switch {
			case !ok && in.ended():
				over = true
				msg = &v1.ConsoleInput{Eof: true} // the operator closed its side: there is no more input
			case !ok:
				l.end(errs.New(errs.Canceled, "the operator went away"))
				return
			default:
				msg = m.GetInput()
				if err := console.CheckInput(msg); err != nil {
					l.end(err)
					return
				}
			}
		case <-l.ended:
			return
		case <-ctx.Done():
			return
		}
		select {
		case l.toAgent <- msg:
			l.touch()
		case <-l.ended:
			return
		}
	}
}
