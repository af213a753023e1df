package dolibarr

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	frontName = "infractl-front"
	frontPart = "front"
	// frontNetwork sorts before the network of every instance: Docker keeps the published port on a container's first one, and a port that
	// moves to another network is closed for a moment.
	frontNetwork = "infractl"
	// labelWish is the digest of what a front's container was made of.
	labelWish = "infractl.wish"
)

var frontLabels = map[string]string{LabelPart: frontPart}

func (p *Provider) frontDir() string  { return p.cfg.Dir + "/front" }
func (p *Provider) frontFile() string { return p.frontDir() + "/caddy.json" }

// frontState is what there is of a front.
type frontState struct {
	container *docker.Container
	others    []docker.Container // carry our label, and are not the one
}

// frontWish is what there should be.
type frontWish struct {
	spec     docker.ContainerSpec
	config   []byte
	digest   string
	networks []string // of the instances that run, sorted
	owners   map[string]string
}

func (p *Provider) wishFront(spec *v1.DolibarrSpec, imageID string) (*frontWish, error) {
	w := &frontWish{owners: map[string]string{}}
	var err error
	if w.config, w.digest, err = frontConfig(spec, p.isFull); err != nil {
		return nil, err
	}
	for _, inst := range spec.GetInstances() {
		if inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_RUNNING && len(inst.GetDomains()) > 0 {
			name := instanceNetwork(inst)
			w.networks, w.owners[name] = append(w.networks, name), inst.GetName()
		}
	}
	slices.Sort(w.networks)
	if w.spec, err = p.frontContainer(spec.GetFront(), imageID); err != nil {
		return nil, err
	}
	return w, nil
}

// frontContainer is the front's container: no root file system to write on, no right but to listen on port 80.
func (p *Provider) frontContainer(front *v1.FrontSpec, imageID string) (docker.ContainerSpec, error) {
	s := docker.ContainerSpec{
		Name: frontName, Image: front.GetImage().GetUse(), Hostname: "front", Restart: "unless-stopped",
		Entrypoint: []string{"caddy"}, Cmd: []string{"run", "--config", "/etc/caddy/caddy.json"},
		CapAdd: []string{"NET_BIND_SERVICE"}, ReadOnly: true, PIDs: 256, MemoryBytes: 256 << 20, StopTimeout: 10 * time.Second,
		Mounts:   []docker.Mount{{Host: p.host.Path(p.frontDir()), Target: "/etc/caddy", ReadOnly: true}},
		Tmpfs:    map[string]string{"/tmp": "mode=1777"},
		Env:      []string{"HOME=/tmp", "XDG_DATA_HOME=/tmp/data", "XDG_CONFIG_HOME=/tmp/config"},
		Networks: []docker.Attachment{{Network: frontNetwork}},
	}
	for _, text := range front.GetListenAddresses() {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.IsUnspecified() {
			return s, errs.New(errs.Invalid, "%.60q is no address that the front can listen on", text)
		}
		s.Ports = append(s.Ports, docker.Port{Address: addr, Host: uint16(front.GetPort()), Container: frontPort})
	}
	if len(s.Ports) == 0 || front.GetPort() == 0 || front.GetPort() > 65535 {
		return s, errs.New(errs.Invalid, "the front has no address or no port to listen on")
	}
	text, err := json.Marshal(s)
	if err != nil {
		return s, errs.Wrap("describe the front", err)
	}
	sum := sha256.Sum256(append(text, imageID...))
	s.Labels = map[string]string{LabelPart: frontPart, labelWish: hex.EncodeToString(sum[:16])}
	return s, nil
}

func (p *Provider) lookFront(ctx context.Context) (*frontState, error) {
	list, err := p.engine.Containers(ctx, LabelPart+"="+frontPart)
	if err != nil {
		return nil, err
	}
	have := &frontState{}
	for i := range list {
		if list[i].Name == frontName {
			have.container = &list[i]
		} else {
			have.others = append(have.others, list[i])
		}
	}
	return have, nil
}

// frontPlan says what differs between the front and the wish. An engine that does not answer is no error here.
func (p *Provider) frontPlan(ctx context.Context, spec *v1.DolibarrSpec) ([]*v1.Change, error) {
	change := func(action v1.ChangeAction, before, after string) *v1.Change {
		c := &v1.Change{Provider: "dolibarr", Subject: "front", Action: action, Risk: v1.Risk_RISK_RESTART}
		if before != "" {
			c.Before = []string{before}
		}
		if after != "" {
			c.After = []string{after}
		}
		return c
	}
	const create, update, remove = v1.ChangeAction_CHANGE_ACTION_CREATE, v1.ChangeAction_CHANGE_ACTION_UPDATE, v1.ChangeAction_CHANGE_ACTION_DELETE
	if spec.GetFront() == nil {
		have, err := p.lookFront(ctx)
		if errs.Is(err, errs.Unavailable) || err == nil && have.container == nil && len(have.others) == 0 {
			return nil, nil
		}
		return []*v1.Change{change(remove, "a container that answers 404 to everybody", "")}, err
	}
	imageID, err := p.engine.ImageID(ctx, spec.GetFront().GetImage().GetUse())
	if err != nil && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Unavailable) {
		return nil, err
	}
	w, err := p.wishFront(spec, imageID)
	if err != nil {
		return nil, err
	}
	have, err := p.lookFront(ctx)
	switch {
	case errs.Is(err, errs.Unavailable):
		return []*v1.Change{change(create, "", "answers on "+addresses(spec.GetFront()))}, nil
	case err != nil:
		return nil, err
	case have.container == nil:
		return []*v1.Change{change(create, "", "answers on "+addresses(spec.GetFront()))}, nil
	case have.container.Labels[labelWish] != w.spec.Labels[labelWish]:
		return []*v1.Change{change(update, "made of something else", "made anew from "+w.spec.Image)}, nil
	case have.container.State != "running":
		return []*v1.Change{change(update, have.container.State, "running")}, nil
	}
	var changes []*v1.Change
	for _, n := range w.networks {
		if !slices.Contains(have.container.Networks, n) {
			changes = append(changes, change(update, "not in the network of instance "+w.owners[n], "in it"))
		}
	}
	for _, n := range p.surplus(have.container, w) {
		changes = append(changes, change(update, "in the network "+n, "not in it"))
	}
	if same, err := p.frontInSync(w); err != nil {
		return nil, err
	} else if !same || p.frontDigest(ctx, spec.GetFront()) != w.digest {
		changes = append(changes, change(update, "another configuration", strconv.Itoa(len(spec.GetInstances()))+" instances"))
	}
	return changes, ctx.Err()
}

func addresses(f *v1.FrontSpec) string {
	return strings.Join(f.GetListenAddresses(), ", ") + " port " + strconv.Itoa(int(f.GetPort()))
}

func (p *Provider) frontInSync(w *frontWish) (bool, error) {
	have, err := p.host.Stat(p.frontFile())
	return !have.Absent && bytes.Equal(have.Data, w.config), err
}

// surplus are networks of instances that the front is in and should not be.
func (p *Provider) surplus(c *docker.Container, w *frontWish) []string {
	return slices.DeleteFunc(slices.Clone(c.Networks), func(n string) bool {
		return n == frontNetwork || slices.Contains(w.networks, n)
	})
}

// frontApply makes the front be as wished. A network that is not there does not stop the others: its instance does not answer.
func (p *Provider) frontApply(ctx context.Context, spec *v1.DolibarrSpec) error {
	p.frontMu.Lock()
	defer p.frontMu.Unlock()
	if spec.GetFront() == nil {
		return p.removeFront(ctx)
	}
	use := spec.GetFront().GetImage().GetUse()
	imageID, err := p.engine.ImageID(ctx, use)
	if err != nil {
		return errs.Wrap("front: image "+use, err)
	}
	w, err := p.wishFront(spec, imageID)
	if err != nil {
		return err
	}
	if err := p.decided(spec); err != nil {
		return err
	}
	if _, err := p.host.WriteFile(p.frontFile(), w.config, 0o644); err != nil {
		return err
	}
	if err := p.writeFrontRecord(spec.GetFront()); err != nil {
		return err
	}
	have, err := p.frontUp(ctx, w)
	if err != nil {
		return errs.Wrap("front", err)
	}
	var failed []error
	for _, n := range w.networks {
		if slices.Contains(have.Networks, n) {
			continue
		}
		if err := p.engine.Connect(ctx, n, have.ID); err != nil {
			failed = append(failed, errs.Wrap("instance "+w.owners[n]+": join the front to its network", err))
		}
	}
	if err := p.reloadFront(ctx, spec.GetFront(), have.ID, w.digest); err != nil {
		return errs.Join(append(failed, errs.Wrap("front", err))...)
	}
	for _, n := range p.surplus(have, w) {
		failed = append(failed, p.engine.Disconnect(ctx, n, have.ID))
	}
	return errs.Join(failed...)
}

// frontUp returns the front's container, made anew where it is of something else, and started.
func (p *Provider) frontUp(ctx context.Context, w *frontWish) (*docker.Container, error) {
	have, err := p.lookFront(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range have.others {
		if err := p.engine.RemoveContainer(ctx, c.ID); err != nil {
			return nil, err
		}
	}
	if have.container != nil && have.container.Labels[labelWish] != w.spec.Labels[labelWish] {
		p.log.Info("the front is made anew", "image", w.spec.Image)
		if err := p.engine.StopContainer(ctx, have.container.ID, w.spec.StopTimeout); err != nil {
			return nil, err
		}
		if err := p.engine.RemoveContainer(ctx, have.container.ID); err != nil {
			return nil, err
		}
		have.container = nil
	}
	if have.container != nil {
		if have.container.State == "running" {
			return have.container, nil
		}
		return have.container, p.engine.Start(ctx, have.container.ID)
	}
	if err := p.ensureFrontNetwork(ctx); err != nil {
		return nil, err
	}
	id, err := p.engine.CreateContainer(ctx, w.spec)
	if err != nil {
		return nil, err
	}
	return &docker.Container{ID: id, Name: frontName, Networks: []string{frontNetwork}}, p.engine.Start(ctx, id)
}

func (p *Provider) ensureFrontNetwork(ctx context.Context) error {
	list, err := p.engine.Networks(ctx, LabelPart+"="+frontPart)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(n docker.Network) bool { return n.Name == frontNetwork }) {
		return nil
	}
	return p.engine.CreateNetwork(ctx, frontNetwork, "", frontLabels)
}

// reloadFront makes Caddy read its file where it runs another configuration. Caddy checks it first, and no connection breaks.
func (p *Provider) reloadFront(ctx context.Context, front *v1.FrontSpec, id, digest string) error {
	if p.frontDigest(ctx, front) == digest {
		return nil
	}
	argv := []string{"caddy", "reload", "--config", "/etc/caddy/caddy.json", "--address", frontSocket}
	return p.until(ctx, p.cfg.FrontWait, func(ctx context.Context) error {
		if p.frontDigest(ctx, front) == digest {
			return nil // one that has just started has read it
		}
		code, err := p.engine.Run(ctx, id, argv, "", nil, nil)
		switch {
		case err != nil:
			return err
		case code != 0:
			return errs.New(errs.Invalid, "caddy does not take its configuration: exit code %d", code).At(p.frontFile()).
				WithHint("docker logs %s says why; the former one stays in force", frontName)
		case p.frontDigest(ctx, front) != digest:
			return p.frontSilent(front)
		}
		return nil
	})
}

func (p *Provider) frontSilent(front *v1.FrontSpec) error {
	return errs.New(errs.Unavailable, "the front does not answer on %s with the wished configuration", addresses(front)).
		WithHint("docker logs %s says why; does something else listen there?", frontName)
}

// frontVerify asks the front on each of its addresses which configuration it runs.
func (p *Provider) frontVerify(ctx context.Context, spec *v1.DolibarrSpec) error {
	if spec.GetFront() == nil {
		return nil
	}
	_, digest, err := frontConfig(spec, p.isFull)
	if err != nil {
		return err
	}
	return p.until(ctx, p.cfg.FrontWait, func(ctx context.Context) error {
		for _, address := range spec.GetFront().GetListenAddresses() {
			got := p.digestAt(ctx, address, spec.GetFront().GetPort())
			if got != digest {
				return p.frontSilent(&v1.FrontSpec{ListenAddresses: []string{address}, Port: spec.GetFront().GetPort()})
			}
		}
		return nil
	})
}

// removeFront removes all that a front is.
func (p *Provider) removeFront(ctx context.Context) error {
	have, err := p.lookFront(ctx)
	if err != nil {
		return err
	}
	list := have.others
	if have.container != nil {
		list = append(list, *have.container)
	}
	for _, c := range list {
		if err := p.engine.RemoveContainer(ctx, c.ID); err != nil {
			return errs.Wrap("remove the front", err)
		}
	}
	networks, err := p.engine.Networks(ctx, LabelPart+"="+frontPart)
	if err != nil {
		return errs.Wrap("remove the front", err)
	}
	for _, n := range networks {
		if err := p.engine.RemoveNetwork(ctx, n.Name); err != nil {
			return errs.Wrap("remove the front", err)
		}
	}
	if err := p.host.Remove(p.frontRecord()); err != nil {
		return err
	}
	return p.host.RemoveAll(p.frontDir())
}

// until tries again until try succeeds, and returns its last error when the limit is over.
func (p *Provider) until(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := try(ctx)
		if err == nil || ctx.Err() != nil && last == nil {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return last
		}
	}
}
