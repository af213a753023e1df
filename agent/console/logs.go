package console

import (
	"bufio"
	"bytes"
	"cmp"
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

// containerLogs shows the logs of the containers of a stack or of an instance, running or not.
func (c *Consoles) containerLogs(ctx context.Context, s *v1.LogSource) (work, error) {
	found, err := c.containers(ctx, s)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errs.New(errs.NotFound, "%s has no containers here", console.Name(s)).WithHint("%s", showHint(s))
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

// sources are the names under which containers speak: the service's, with a number where it has several.
func sources(list []docker.Container) []string {
	count := map[string]int{}
	for _, one := range list {
		count[service(one)]++
	}
	out := make([]string, len(list))
	for i, one := range list {
		out[i] = service(one)
		if count[service(one)] > 1 {
			out[i] = fmt.Sprintf("%s-%s", service(one), one.Labels[docker.LabelNumber])
		}
		out[i] = clip(out[i], console.MaxSource)
	}
	return out
}

// Labels of an instance's containers: its id, and which of its parts it is.
const (
	labelInstance = "infractl.id"
	labelPart     = "infractl.part"
)

// service is the service of a stack's container, or the part of an instance's.
func service(one docker.Container) string {
	if one.Labels[labelInstance] != "" {
		return one.Labels[labelPart]
	}
	return one.Service()
}

// showHint is where an operator looks for what there is.
func showHint(p console.Place) string {
	if p.GetInstance() != "" {
		return "infractl instance show " + p.GetInstance()
	}
	return "infractl stack show " + p.GetStack()
}

// labels choose the containers of a stack or of an instance. NotFound for one that the applied spec does not know.
func (c *Consoles) labels(p console.Place) (map[string]string, error) {
	chosen := map[string]string{}
	if name := p.GetInstance(); name != "" {
		id := c.cfg.Instances()[name]
		if c.cfg.Engine == nil || id == "" {
			return nil, errs.New(errs.NotFound, "this host does not run an instance %.64q", name).WithHint("infractl instance list")
		}
		chosen[labelInstance] = id
		if p.GetService() != "" {
			chosen[labelPart] = p.GetService()
		}
		return chosen, nil
	}
	if c.cfg.Engine == nil || !slices.Contains(c.cfg.Stacks(), p.GetStack()) {
		return nil, errs.New(errs.NotFound, "this host does not run a stack %.64q", p.GetStack()).WithHint("infractl stack list")
	}
	chosen[docker.LabelProject] = p.GetStack()
	if p.GetService() != "" {
		chosen[docker.LabelService] = p.GetService()
	}
	return chosen, nil
}

// containers are those of a managed stack or instance, by service and number.
func (c *Consoles) containers(ctx context.Context, p console.Place) ([]docker.Container, error) {
	if c.cfg.Adopted != nil && c.cfg.Engine != nil {
		if parts := c.cfg.Adopted()[p.GetInstance()]; parts != nil {
			return c.adopted(ctx, parts, p.GetService())
		}
	}
	chosen, err := c.labels(p)
	if err != nil {
		return nil, err
	}
	var filters []string
	for name, value := range chosen {
		filters = append(filters, name+"="+value)
	}
	slices.Sort(filters)
	list, err := c.cfg.Engine.Containers(ctx, filters...)
	if err != nil {
		return nil, err
	}
	// The engine chose by label; it is looked at once more, because nobody else's container may be touched.
	list = slices.DeleteFunc(list, func(one docker.Container) bool {
		for name, value := range chosen {
			if one.Labels[name] != value {
				return true
			}
		}
		return false
	})
	slices.SortStableFunc(list, func(a, b docker.Container) int {
		return cmp.Or(cmp.Compare(service(a), service(b)), number(a)-number(b))
	})
	return list, nil
}

// adopted are the containers of an instance that infractl did not make, or one of them. They carry no label of ours, so that their whole
// names are compared; the result has the labels that ours would have.
func (c *Consoles) adopted(ctx context.Context, parts map[string]string, only string) ([]docker.Container, error) {
	all, err := c.cfg.Engine.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var list []docker.Container
	for part, name := range parts {
		at := slices.IndexFunc(all, func(one docker.Container) bool { return one.Name == name })
		if at < 0 || only != "" && only != part {
			continue
		}
		one := all[at]
		one.Labels = map[string]string{labelInstance: name, labelPart: part}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b docker.Container) int { return cmp.Compare(service(a), service(b)) })
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
