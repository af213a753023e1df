package dolibarr

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The passwords of a database are in it, in files and in conf.php. Another version of one is put into all three so that the application can
// log in at every moment: first the database takes the new one beside the former, then files and conf.php follow and are tried, and at last
// the database forgets the former. An agent that dies meanwhile begins again; what any try may have left in conf.php is in formerDir.

// accounts are those of the database, by their secrets.
var accounts = map[string]string{secretRoot: "'root'@'localhost'", secretDB: "'" + dbUser + "'@'%'"}

// learned says that an instance's database knows the value of a secret, so that a file alone does not change it.
func (p *Provider) learned(inst *v1.InstanceSpec, name string) bool {
	return accounts[name] != "" && p.host.Exists(p.installedFile(inst.GetId()))
}

// turns says that a reference names another version than the one that the database knows.
func (p *Provider) turns(inst *v1.InstanceSpec, rec *record, ref *v1.SecretRef) bool {
	have := rec.Secrets[secretName(ref)]
	return have != "" && have != ref.GetVersion() && p.learned(inst, secretName(ref))
}

// turning are such references. An instance whose application does not run keeps what it has until it does.
func (p *Provider) turning(inst *v1.InstanceSpec, rec *record) (list []*v1.SecretRef) {
	if inst.GetMode() != v1.InstanceMode_INSTANCE_MODE_RUNNING {
		return nil
	}
	for _, ref := range inst.GetSecrets() {
		if p.turns(inst, rec, ref) {
			list = append(list, ref)
		}
	}
	return list
}

// turned is one secret on its way.
type turned struct {
	name, version, value string
	// former are the values that the database, or conf.php, may have now.
	former []string
}

// turn puts other versions of the database's passwords into their places.
func (p *Provider) turn(ctx context.Context, one *instanceSight) error {
	if len(one.turn) == 0 {
		return nil
	}
	return errs.Wrap("passwords of the database", p.turnAll(ctx, one))
}

func (p *Provider) turnAll(ctx context.Context, one *instanceSight) error {
	id := one.inst.GetId()
	db, err := p.database(ctx, id)
	if err != nil {
		return err
	}
	list, err := p.wantedValues(ctx, one)
	if err != nil {
		return err
	}
	if err := p.keepFormer(id, one.rec, list); err != nil {
		return err
	}
	for _, t := range list {
		if was := one.rec.Secrets[t.name]; was != unknown && len(t.former) > 0 { // whoever takes this back needs no server
			p.lately.Store(id+" "+t.name+" "+was, t.former[0])
		}
	}
	err = p.pending(id, func(r *record) {
		for _, t := range list {
			r.Secrets[t.name] = unknown
		}
	})
	if err != nil {
		return err
	}
	if err := p.learn(ctx, db, list, true); err != nil {
		return err
	}
	for _, t := range list {
		if err := p.writeSecret(id, t.name, []byte(t.value)); err != nil {
			return err
		}
	}
	if err := p.tryPasswords(ctx, one); err != nil {
		return err
	}
	if err := p.learn(ctx, db, list, false); err != nil {
		return err
	}
	if err := p.host.RemoveAll(p.formerDir(id)); err != nil {
		return err
	}
	return p.pending(id, func(r *record) {
		for _, t := range list {
			r.Secrets[t.name] = t.version
		}
	})
}

// wantedValues are the new values: those that were in force a moment ago, or else from the server.
func (p *Provider) wantedValues(ctx context.Context, one *instanceSight) (list []*turned, err error) {
	var need []*v1.SecretRef
	for _, ref := range one.turn {
		name := secretName(ref)
		if value, ok := p.lately.Load(one.inst.GetId() + " " + name + " " + ref.GetVersion()); ok {
			list = append(list, &turned{name: name, version: ref.GetVersion(), value: value.(string)})
		} else {
			need = append(need, ref)
		}
	}
	if len(need) == 0 {
		return list, nil
	}
	values, err := p.fetchSecrets(ctx, need)
	if err != nil {
		return nil, err
	}
	for i, v := range values {
		name := secretName(need[i])
		value, err := plainSecret(name, v.GetValue())
		if err != nil {
			return nil, err
		}
		list = append(list, &turned{name: name, version: need[i].GetVersion(), value: value})
	}
	return list, nil
}

// plainSecret is a secret's value, which can stand in a statement as it is.
func plainSecret(name string, raw []byte) (string, error) {
	value := string(bytes.TrimSuffix(raw, []byte("\n")))
	if !secretForm.MatchString(value) {
		return "", errs.New(errs.Invalid, "the secret %s is not of letters and digits", name)
	}
	return value, nil
}

// keepFormer notes the values in force before anything changes. Where a try was cut off, what it left in the file is one more.
func (p *Provider) keepFormer(id string, rec *record, list []*turned) error {
	for _, t := range list {
		file := path.Join(p.formerDir(id), t.name)
		kept, err := p.host.Stat(file)
		if err != nil {
			return err
		}
		if rec.Secrets[t.name] == unknown && !kept.Absent {
			t.former = strings.Fields(string(kept.Data))
		}
		now, err := p.host.Stat(path.Join(p.secretsDir(id), t.name))
		if err != nil {
			return err
		}
		if value, err := plainSecret(t.name, now.Data); err != nil && !now.Absent {
			return err
		} else if !now.Absent && !slices.Contains(t.former, value) {
			t.former = append(t.former, value)
		}
		if err := p.host.OwnDir(p.formerDir(id), 0o700, p.uid, p.gid); err != nil {
			return err
		}
		if _, err := p.host.WriteFile(file, []byte(strings.Join(t.former, "\n")+"\n"), secretMode); err != nil {
			return err
		}
	}
	return nil
}

// takes is the statement with which an account takes these passwords and no other.
func takes(name string, values ...string) string {
	if len(values) == 1 {
		return fmt.Sprintf("ALTER USER %s IDENTIFIED BY '%s';\n", accounts[name], values[0])
	}
	var ways []string
	for _, v := range values {
		ways = append(ways, "mysql_native_password USING PASSWORD('"+v+"')")
	}
	return fmt.Sprintf("ALTER USER %s IDENTIFIED VIA %s;\n", accounts[name], strings.Join(ways, " OR "))
}

// learn makes the database take the new passwords: beside the former ones, or alone.
func (p *Provider) learn(ctx context.Context, db string, list []*turned, both bool) error {
	var b strings.Builder
	var secrets []string
	for _, t := range list {
		values := []string{t.value}
		if both {
			values = append(values, slices.DeleteFunc(slices.Clone(t.former), func(v string) bool { return v == t.value })...)
		}
		b.WriteString(takes(t.name, values...))
		secrets = append(secrets, values...)
	}
	return p.sql(ctx, db, b.String(), secrets...)
}

// confWait is longer than opcache.revalidate_freq: until then PHP may log in as the conf.php of before says, and a page proves nothing.
const confWait = 8 * time.Second

// tryPasswords lets the tool write conf.php, for which it logs into the database with the new password, and looks whether the application
// goes on where it runs.
func (p *Provider) tryPasswords(ctx context.Context, one *instanceSight) error {
	if err := p.writeTool(ctx, one.inst); err != nil {
		return err
	}
	tool, err := p.startTool(ctx, one.inst, dolibarr.VerbConfigure, true)
	defer p.dropTool(ctx, tool)
	if err != nil {
		return err
	}
	if _, err := p.verb(ctx, &steps{}, tool, dolibarr.VerbConfigure, dolibarr.InstallInput{}); err != nil {
		return err
	}
	app := one.have[partApp]
	front, err := p.readFrontRecord()
	if err != nil || app == nil || app.State != "running" {
		return nil //nolint:nilerr // without a front, or a running application, nobody asks for a page
	}
	select {
	case <-time.After(p.cfg.ConfWait):
	case <-ctx.Done():
		return ctx.Err()
	}
	return p.until(ctx, askLimit, func(ctx context.Context) error {
		_, err := p.login(ctx, front, mainDomain(one.inst))
		return err
	})
}

// forgetFormer removes what a try that changed nothing has left.
func (p *Provider) forgetFormer(id string) error {
	rec, err := p.readRecord(id)
	if err != nil || rec.Secrets[secretDB] == unknown || rec.Secrets[secretRoot] == unknown || !p.host.Exists(p.formerDir(id)) {
		return err
	}
	return p.host.RemoveAll(p.formerDir(id))
}

// restoreVersions makes a record name what a snapshot had. What the database has learned meanwhile it is taught anew, by its own version.
func (p *Provider) restoreVersions(id string, r *record, versions map[string]string) {
	now := r.Secrets
	r.Secrets = versions
	for name := range accounts {
		if have := now[name]; have != "" && p.host.Exists(p.installedFile(id)) {
			r.Secrets[name] = have
		}
	}
}
