package dolibarr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/images"
	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// ensureNetwork makes an instance's own network. One with another prefix goes, and with it the containers that are in it: they are made
// again, and their data is in volumes.
func (p *Provider) ensureNetwork(ctx context.Context, inst *v1.InstanceSpec) error {
	list, err := p.engine.Networks(ctx, LabelID+"="+inst.GetId())
	if err != nil {
		return err
	}
	for _, n := range list {
		if n.Name != networkName(inst.GetId()) {
			continue
		}
		if n.Subnet == inst.GetSubnet() || inst.GetSubnet() == "" {
			return nil
		}
		if err := p.clearNetwork(ctx, inst.GetId(), n.Name); err != nil {
			return err
		}
	}
	return p.engine.CreateNetwork(ctx, networkName(inst.GetId()), inst.GetSubnet(), labels(inst, "network"))
}

func (p *Provider) clearNetwork(ctx context.Context, id, network string) error {
	list, err := p.engine.Containers(ctx, LabelID+"="+id)
	if err != nil {
		return err
	}
	for i := range list {
		if err := errs.Join(p.down(ctx, &list[i]), p.engine.RemoveContainer(ctx, list[i].ID)); err != nil {
			return err
		}
	}
	if err := p.leaveNetwork(ctx, network); err != nil {
		return err
	}
	return p.engine.RemoveNetwork(ctx, network)
}

func (p *Provider) ensureVolumes(ctx context.Context, inst *v1.InstanceSpec) error {
	for _, part := range volumeParts {
		if err := p.engine.CreateVolume(ctx, volumeName(inst.GetId(), part), labels(inst, part)); err != nil {
			return err
		}
	}
	return nil
}

// ensureConf makes the folder of conf.php, which the tool writes as the web user.
func (p *Provider) ensureConf(id string) error {
	return p.host.OwnDir(p.confDir(id), 0o750, dolibarr.WebUser, dolibarr.WebUser)
}

// writeTool makes the tool and the web server's files be in their place; they are the same for all instances.
func (p *Provider) writeTool(context.Context, *v1.InstanceSpec) error {
	p.toolMu.Lock()
	defer p.toolMu.Unlock()
	tool := dolibarr.Tool()
	err := fs.WalkDir(tool, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tool, name)
		if err != nil {
			return errs.Wrap("read the tool", err)
		}
		return p.writeToolFile(path.Base(name), data)
	})
	for name, data := range images.Web() {
		err = errs.Join(err, p.writeToolFile(name, data))
	}
	return err
}

// toolDigest identifies the tool.
func toolDigest() string {
	sum := sha256.New()
	tool := dolibarr.Tool()
	err := fs.WalkDir(tool, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tool, name)
		fmt.Fprintf(sum, "%s %d\n%s", name, len(data), data)
		return err
	})
	if err != nil {
		panic(err) // it is compiled in
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

func (p *Provider) writeToolFile(name string, data []byte) error {
	_, err := p.host.WriteFile(path.Join(p.toolDir(), name), data, 0o444)
	return err
}

// secretName is the last part of a reference's name.
func secretName(ref *v1.SecretRef) string { return path.Base(ref.GetName()) }

// staleSecrets are those whose wanted version is not on the disk, for those alone who read it. Those that the database must learn first are
// not among them.
func (p *Provider) staleSecrets(inst *v1.InstanceSpec, rec *record) []*v1.SecretRef {
	var list []*v1.SecretRef
	for _, ref := range inst.GetSecrets() {
		name := secretName(ref)
		if p.turns(inst, rec, ref) {
			continue
		}
		there := rec.Secrets[name] == ref.GetVersion() && p.secretThere(path.Join(p.secretsDir(inst.GetId()), name), p.uid) &&
			(name == secretRoot || p.secretThere(path.Join(p.webSecretsDir(inst.GetId()), name), dolibarr.WebUser))
		if !there {
			list = append(list, ref)
		}
	}
	return list
}

func (p *Provider) secretThere(file string, owner int) bool {
	f, err := p.host.Stat(file)
	if err != nil || f.Absent || !f.Mode.IsRegular() {
		return false
	}
	return f.Mode.Perm() == secretMode && (f.UID == owner || p.uid != 0) // none but root gives files away
}

const (
	secretMode = 0o400
	// secretRoot is the password of the database's root, which the tool never sees.
	secretRoot = "db-root"
	// secretDB is that of the application's user.
	secretDB = "db"
)

// writeSecrets fetches the versions that are not on the disk and writes them.
func (p *Provider) writeSecrets(ctx context.Context, inst *v1.InstanceSpec) error {
	rec, err := p.readRecord(inst.GetId())
	if err != nil {
		return err
	}
	for _, ref := range inst.GetSecrets() {
		if !slices.Contains(secretNames, secretName(ref)) {
			return errs.New(errs.Invalid, "%.80q is no secret of an instance", ref.GetName())
		}
	}
	need := p.staleSecrets(inst, rec)
	if len(need) == 0 {
		return nil
	}
	values, err := p.fetchSecrets(ctx, need)
	if err != nil {
		return err
	}
	for i, v := range values {
		if err := p.writeSecret(inst.GetId(), secretName(need[i]), v.GetValue()); err != nil {
			return err
		}
		rec.Secrets[secretName(need[i])] = need[i].GetVersion()
	}
	return p.writeRecord(inst.GetId(), rec)
}

// fetchSecrets gets values from the server, in the order of the references.
func (p *Provider) fetchSecrets(ctx context.Context, need []*v1.SecretRef) ([]*v1.SecretValue, error) {
	if p.cfg.Fetcher == nil {
		return nil, errs.New(errs.Unavailable, "there is no connection to the server")
	}
	values, err := p.cfg.Fetcher.Secrets(ctx, need)
	if err != nil {
		return nil, errs.Wrap("fetch secrets", err)
	}
	if len(values) != len(need) {
		return nil, errs.New(errs.Internal, "the server gave %d of %d secrets", len(values), len(need))
	}
	for i, v := range values {
		if v.GetName() != need[i].GetName() || v.GetVersion() != need[i].GetVersion() {
			return nil, errs.New(errs.Internal, "the server gave another secret than %s", need[i].GetName())
		}
	}
	return values, nil
}

// writeSecret writes one secret: for the database's container, which starts as root, and for the web user what the tool needs.
func (p *Provider) writeSecret(id, name string, value []byte) error {
	if err := p.host.OwnDir(p.secretsDir(id), 0o700, p.uid, p.gid); err != nil {
		return err
	}
	if err := p.host.OwnDir(p.webSecretsDir(id), 0o500, dolibarr.WebUser, dolibarr.WebUser); err != nil {
		return err
	}
	if _, err := p.host.WriteFile(path.Join(p.secretsDir(id), name), value, secretMode); err != nil {
		return err
	}
	if name == secretRoot {
		return nil
	}
	_, err := p.host.Write(host.File{Path: path.Join(p.webSecretsDir(id), name), Data: value, Mode: secretMode, UID: dolibarr.WebUser, GID: dolibarr.WebUser})
	return err
}

// unknown stands in a record for what is being changed: whatever is wished then is made again.
const unknown = "?"

// record is what was applied to an instance.
type record struct {
	// Secrets are the versions that are on the disk, by name.
	Secrets map[string]string `json:"secrets"`
	// URL is the public address that conf.php was written for.
	URL string `json:"url,omitempty"`
	// Limits are those that its containers have, as text.
	Limits string `json:"limits,omitempty"`
}

func (p *Provider) readRecord(id string) (*record, error) {
	rec := &record{}
	f, err := p.host.Stat(p.recordFile(id))
	if err != nil {
		return nil, err
	}
	if !f.Absent && json.Unmarshal(f.Data, rec) != nil {
		rec = &record{URL: unknown, Secrets: map[string]string{secretDB: unknown, secretRoot: unknown}} // all of it can be made again
	}
	if rec.Secrets == nil {
		rec.Secrets = map[string]string{}
	}
	return rec, nil
}

func (p *Provider) writeRecord(id string, rec *record) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return errs.Wrap("note what was applied", err)
	}
	_, err = p.host.WriteFile(p.recordFile(id), append(text, '\n'), 0o600)
	return err
}

// up makes a part's container be as wished, run and answer. ready is asked of one that was started just now.
func (p *Provider) up(ctx context.Context, one *instanceSight, part string, ready func(context.Context, string) error) error {
	wish, have := one.wish[part], one.have[part]
	if have != nil && one.outworn(part) {
		if err := p.engine.StopContainer(ctx, have.ID, wish.StopTimeout); err != nil {
			return err
		}
		if err := p.engine.RemoveContainer(ctx, have.ID); err != nil {
			return err
		}
		have = nil
	}
	if have != nil && have.State == "running" {
		return nil
	}
	var id string
	var err error
	if have != nil {
		id = have.ID
	} else {
		if err := p.dropNamed(ctx, wish.Name); err != nil { // without our mark: of a task that was cut off
			return err
		}
		if id, err = p.engine.CreateContainer(ctx, wish); err != nil {
			return err
		}
	}
	if err := p.engine.Start(ctx, id); err != nil || ready == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	return ready(ctx, id)
}

// readyLimit bounds how long a part may take until it answers: a database that was killed reads its log first.
const readyLimit = 2 * time.Minute

// outworn says that a part's container cannot become what is wished: it was made of something else, in another network, or is in a state
// out of which the engine starts none.
func (one *instanceSight) outworn(part string) bool {
	have := one.have[part]
	return stuck(have) || have.State == "paused" || have.Labels[labelWish] != one.wish[part].Labels[labelWish] || !one.network || !one.joined(have)
}

// stuck says that the engine failed to remove a container, or is about to.
func stuck(c *docker.Container) bool { return c.State == "dead" || c.State == "removing" }

// listens waits until an application's server takes connections. PHP is in every image of an application.
func (p *Provider) listens(ctx context.Context, id string) error {
	code, err := p.engine.Run(ctx, id, []string{"php", "-r", listensCode}, "", nil, nil)
	if err == nil && code != 0 {
		err = errs.New(errs.Timeout, "its server does not listen")
	}
	return errs.Wrap("it does not come up", err)
}

const listensCode = `for ($i = 0; $i < 2000 && !@fsockopen("127.0.0.1", 80); $i++) { usleep(50000); } exit($i < 2000 ? 0 : 1);`

// down ends a container that runs; it stays ended over a restart of the host.
func (p *Provider) down(ctx context.Context, have *docker.Container) error {
	if have == nil || !isUp(have) {
		return nil
	}
	return p.engine.StopContainer(ctx, have.ID, stopGrace)
}

func isUp(c *docker.Container) bool {
	return c.State == "running" || c.State == "restarting" || c.State == "paused"
}

// limitsText identifies limits.
func limitsText(l *v1.InstanceLimits) string {
	text, err := json.Marshal([]uint64{l.GetMemoryBytes(), uint64(l.GetMilliCpus()), uint64(l.GetPids())})
	if err != nil {
		return ""
	}
	return strings.Trim(string(text), "[]")
}
