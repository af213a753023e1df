package console

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// maxLine is where a longer line is cut in two, in bytes.
	maxLine = 16 << 10
	// waiting is how many lines wait to be put together into one message.
	waiting = 32
)

// entry is one line of a log, with its line end.
type entry struct {
	source string
	text   []byte
}

// unitLogs shows the journal of a unit or of the kernel.
func (c *Consoles) unitLogs(s *v1.LogSource) work {
	argv := []string{"journalctl", "--no-pager", "--quiet", "--output=short-iso", "--lines=" + strconv.Itoa(int(s.GetTail()))}
	if s.GetUnit() == console.Kernel {
		argv = append(argv, "--dmesg")
	} else {
		argv = append(argv, "--unit="+s.GetUnit())
	}
	if s.GetSince() != nil {
		argv = append(argv, "--since=@"+strconv.FormatInt(s.GetSince().GetSeconds(), 10))
	}
	if s.GetFollow() {
		argv = append(argv, "--follow")
	}
	return func(ctx context.Context, l *line) (int32, error) {
		return 0, collect(ctx, l, func(ctx context.Context, put func(entry) error) error {
			err := c.cfg.Host.Follow(ctx, host.Cmd{Argv: argv}, func(text []byte) error { return cutUp("", text, put) })
			return errs.Wrap("read the journal", err)
		})
	}
}

// cutUp puts a line, in pieces where it is too long.
func cutUp(source string, text []byte, put func(entry) error) error {
	for len(text) > maxLine {
		if err := put(entry{source, append(bytes.Clone(text[:maxLine]), '\n')}); err != nil {
			return err
		}
		text = text[maxLine:]
	}
	return put(entry{source, append(bytes.Clone(text), '\n')})
}

// collect sends what read puts, as many whole lines of one source in a message as are there already. It holds few lines: read
// waits while the operator does not read.
func collect(ctx context.Context, l *line, read func(ctx context.Context, put func(entry) error) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan entry, waiting)
	failed := make(chan error, 1)
	go func() {
		defer close(lines)
		failed <- read(ctx, func(e entry) error {
			select {
			case lines <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	var pending entry
	flush := func() error {
		if len(pending.text) == 0 {
			return nil
		}
		err := l.send(pending.source, pending.text, false)
		pending = entry{}
		return err
	}
	for e := range lines {
		if e.source != pending.source || len(pending.text)+len(e.text) > console.MaxData {
			if err := flush(); err != nil {
				return err
			}
		}
		pending.source, pending.text = e.source, append(pending.text, e.text...)
		if len(lines) == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return errs.Join(flush(), <-failed)
}

// stackLogs shows the logs of a stack's containers, running or not.
func (c *Consoles) stackLogs(ctx context.Context, s *v1.LogSource) (work, error) {
	found, err := c.containers(ctx, s.GetStack(), s.GetService())
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errs.New(errs.NotFound, "%s has no containers here", place(s.GetStack(), s.GetService())).
			WithHint("infractl stack show %s", s.GetStack())
	}
	names := sources(found)
	options := docker.LogOptions{Follow: s.GetFollow(), Tail: int(s.GetTail())}
	if s.GetSince() != nil {
		options.Since = s.GetSince().AsTime()
	}
	return func(ctx context.Context, l *line) (int32, error) {
		return 0, collect(ctx, l, func(ctx context.Context, put func(entry) error) error {
			problems := make([]error, len(found))
			var group sync.WaitGroup
			for i, one := range found {
				group.Go(func() { problems[i] = c.containerLog(ctx, one.ID, names[i], options, put) })
			}
			group.Wait()
			return errs.Join(problems...)
		})
	}, nil
}

func place(stack, service string) string {
	if service == "" {
		return "stack " + stack
	}
	return "service " + service + " of stack " + stack
}

// sources are the names under which containers speak: the service's, with a number where it has several.
func sources(list []docker.Container) []string {
	count := map[string]int{}
	for _, one := range list {
		count[one.Service()]++
	}
	out := make([]string, len(list))
	for i, one := range list {
		out[i] = one.Service()
		if count[one.Service()] > 1 {
			out[i] = fmt.Sprintf("%s-%s", one.Service(), one.Labels[docker.LabelNumber])
		}
		out[i] = clip(out[i], console.MaxSource)
	}
	return out
}

// containers are those of a managed stack, by service and number. NotFound for a stack that the applied spec does not know.
func (c *Consoles) containers(ctx context.Context, stack, service string) ([]docker.Container, error) {
	if c.cfg.Engine == nil || !slices.Contains(c.cfg.Stacks(), stack) {
		return nil, errs.New(errs.NotFound, "this host does not run a stack %.64q", stack).WithHint("infractl stack list")
	}
	labels := []string{docker.LabelProject + "=" + stack}
	if service != "" {
		labels = append(labels, docker.LabelService+"="+service)
	}
	list, err := c.cfg.Engine.Containers(ctx, labels...)
	if err != nil {
		return nil, err
	}
	// The engine chose by label; it is looked at once more, because nobody else's container may be touched.
	list = slices.DeleteFunc(list, func(one docker.Container) bool {
		return one.Project() != stack || service != "" && one.Service() != service
	})
	slices.SortStableFunc(list, func(a, b docker.Container) int {
		if a.Service() != b.Service() {
			return bytes.Compare([]byte(a.Service()), []byte(b.Service()))
		}
		return number(a) - number(b)
	})
	return list, nil
}

func number(c docker.Container) int {
	n, err := strconv.Atoi(c.Labels[docker.LabelNumber])
	if err != nil {
		return 0
	}
	return n
}

func (c *Consoles) containerLog(ctx context.Context, id, source string, o docker.LogOptions, put func(entry) error) error {
	raw, err := c.cfg.Engine.Logs(ctx, id, o)
	if err != nil {
		return err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	in := bufio.NewReaderSize(raw, maxLine)
	for {
		text, err := in.ReadSlice('\n')
		if len(text) > 0 {
			if perr := cutUp(source, bytes.TrimSuffix(text, []byte("\n")), put); perr != nil {
				return perr
			}
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull) || err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			return errs.Wrap("read the log of "+source, err)
		}
	}
}
