package dolibarr

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// templateFormat changes when templates of before cannot be used any more.
	templateFormat = 1
	templateLogin  = "admin"
	// healthFile is where the official image keeps the password of its health check.
	healthFile = ".my-healthcheck.cnf"
)

// manifest says what a template is; it is written last.
type manifest struct {
	Format   int       `json:"format"`
	Version  string    `json:"version"`
	AppImage string    `json:"app_image"`
	DBImage  string    `json:"db_image"`
	Made     time.Time `json:"made"`
	// Tree is the digest of names, sizes, owners, modes and times of all files.
	Tree string `json:"tree"`
	// Modules are those that are on.
	Modules []string `json:"modules"`
}

func (p *Provider) templatesDir() string { return path.Join(path.Dir(p.cfg.Dir), "templates") }

// templateKey names the template of a version and of the images as they are on this host.
func (p *Provider) templateKey(ctx context.Context, inst *v1.InstanceSpec) (key string, m manifest, err error) {
	m = manifest{Format: templateFormat, Version: inst.GetVersion()}
	if m.AppImage, err = p.engine.ImageID(ctx, inst.GetAppImage().GetUse()); err != nil {
		return "", m, err
	}
	if m.DBImage, err = p.engine.ImageID(ctx, inst.GetDbImage().GetUse()); err != nil {
		return "", m, err
	}
	sum := sha256.Sum256([]byte(fmt.Sprintf("%d %s %s %s", m.Format, m.Version, m.AppImage, m.DBImage)))
	return m.Version + "-" + hex.EncodeToString(sum[:8]), m, nil
}

// template returns the folder of the good template for an instance. Errors: NotFound without one, Invalid for a damaged one.
func (p *Provider) template(ctx context.Context, inst *v1.InstanceSpec) (dir string, m manifest, err error) {
	key, want, err := p.templateKey(ctx, inst)
	if err != nil {
		return "", m, err
	}
	dir = path.Join(p.templatesDir(), key)
	f, err := p.host.Stat(path.Join(dir, "manifest.json"))
	if err != nil {
		return "", m, err
	}
	if f.Absent {
		return "", m, errs.New(errs.NotFound, "this host has no template of %s with these images", inst.GetVersion())
	}
	if err := json.Unmarshal(f.Data, &m); err != nil || m.Format != want.Format || m.Version != want.Version || m.AppImage != want.AppImage ||
		m.DBImage != want.DBImage {
		return "", m, errs.New(errs.Invalid, "the manifest of the template is damaged").At(dir)
	}
	tree, err := p.treeDigest(dir)
	if err != nil {
		return "", m, err
	}
	if tree != m.Tree {
		return "", m, errs.New(errs.Invalid, "the template is damaged: its files are not those of its manifest").At(dir)
	}
	return dir, m, nil
}

// treeDigest identifies the files of a template without reading them all.
func (p *Provider) treeDigest(dir string) (string, error) {
	sum := sha256.New()
	root := p.host.Path(dir)
	for _, part := range []string{"data", "documents", "conf"} {
		err := filepath.WalkDir(filepath.Join(root, part), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			size, stamp := info.Size(), info.ModTime().UnixNano()
			if info.IsDir() {
				size, stamp = 0, 0
			}
			uid := uint32(0)
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				uid = st.Uid
			}
			fmt.Fprintf(sum, "%s\x00%v %d %d %d\n", strings.TrimPrefix(file, root), info.Mode(), uid, size, stamp)
			return nil
		})
		if err != nil {
			return "", errs.New(errs.Invalid, "the template is damaged: %w", err).At(dir)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// makeTemplate makes the warm template of a version and of images: an installation with secrets that nobody has and nobody gets, stopped
// cleanly and copied. One that is good already is left as it is.
func (p *Provider) makeTemplate(ctx context.Context, spec *v1.InstanceSpec) (*v1.InstanceResult, error) {
	inst := proto.Clone(spec).(*v1.InstanceSpec)
	inst.Id, inst.Name, inst.Secrets, inst.AdminLogin, inst.Subnet = templateID, templateID, nil, templateLogin, ""
	inst.Domains, inst.Mode = []string{"template.invalid"}, v1.InstanceMode_INSTANCE_MODE_CLOSED
	if err := checkInstallable(inst); err != nil {
		return nil, errs.Wrap("template", err)
	}
	defer p.lock(templateID)()
	p.templating.Add(1)
	defer p.templating.Add(-1)
	t := &steps{}
	out := &v1.InstanceResult{Version: inst.GetVersion()}
	m, err := p.templateAnew(ctx, t, inst)
	out.Modules, out.Steps = m.Modules, t.list
	return out, errs.Wrap("template of "+inst.GetVersion(), err)
}

func (p *Provider) templateAnew(ctx context.Context, t *steps, inst *v1.InstanceSpec) (m manifest, err error) {
	err = t.do("images", func() error {
		return errs.Join(p.stageImage(ctx, inst.GetAppImage()), p.stageImage(ctx, inst.GetDbImage()))
	})
	if err != nil {
		return m, err
	}
	if _, m, err = p.template(ctx, inst); err == nil {
		return m, nil
	}
	if _, err := p.purge(ctx, templateID); err != nil { // what a former try has left
		return m, err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if _, perr := p.purge(clean, templateID); perr != nil {
			err = errs.Join(err, perr)
		}
	}()
	if err := p.throwAwaySecrets(inst); err != nil {
		return m, err
	}
	if err := errs.Join(p.ensureNetwork(ctx, inst), p.writeTool(ctx, inst)); err != nil {
		return m, err
	}
	done := &installed{}
	if err := p.cold(ctx, t, inst, installInput(inst, nil), done); err != nil {
		return m, err
	}
	key, m, err := p.templateKey(ctx, inst)
	if err != nil {
		return m, err
	}
	m.Modules = done.Modules
	return m, t.do("keep", func() error { return p.keepTemplate(ctx, key, &m) })
}

// throwAwaySecrets makes secrets that end with the template's making: what is copied from it gets others before anybody can use it.
func (p *Provider) throwAwaySecrets(inst *v1.InstanceSpec) error {
	for _, name := range secretNames {
		if err := p.writeSecret(inst.GetId(), name, []byte(rand.Text())); err != nil {
			return err
		}
	}
	return nil
}

// keepTemplate copies what was installed into the place of the former template. The manifest comes last.
func (p *Provider) keepTemplate(ctx context.Context, key string, m *manifest) error {
	dir := path.Join(p.templatesDir(), key)
	part := dir + ".part"
	if err := errs.Join(p.host.RemoveAll(part), p.host.Mkdir(part, 0o700)); err != nil {
		return err
	}
	paths, err := p.volumePaths(ctx, templateID)
	if err != nil {
		return err
	}
	for name, from := range map[string]string{"data": paths["data"], "documents": paths["documents"], "conf": p.confDir(templateID)} {
		if from == "" {
			return errs.New(errs.Internal, "volume %s is gone", volumeName(templateID, name))
		}
		if err := p.copyTree(ctx, from, path.Join(part, name)); err != nil {
			return err
		}
	}
	for _, waste := range []string{"data/ibtmp1", "data/*.pid", "data/*.err", "documents/*.log"} {
		files, err := p.host.Glob(path.Join(part, waste))
		if err != nil {
			return errs.Wrap("tidy the template", err)
		}
		for _, f := range files {
			if err := p.host.RemoveAll(f); err != nil {
				return err
			}
		}
	}
	if m.Tree, err = p.treeDigest(part); err != nil {
		return err
	}
	m.Made = time.Now().UTC().Truncate(time.Second)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return errs.Wrap("write the manifest", err)
	}
	if err := p.sync(ctx, p.host.Path(part)); err != nil {
		return err
	}
	if _, err := p.host.WriteFile(path.Join(part, "manifest.json"), append(text, '\n'), 0o600); err != nil {
		return err
	}
	return p.swapTemplate(key, m.Version)
}

// swapTemplate puts the new template into its place, and removes those of the same version and other images.
func (p *Provider) swapTemplate(key, version string) error {
	dir := path.Join(p.templatesDir(), key)
	if err := p.host.RemoveAll(dir); err != nil {
		return err
	}
	if err := p.host.Rename(dir+".part", dir); err != nil {
		return errs.Wrap("keep the template", err)
	}
	old, err := p.templateDirs(version)
	if err != nil {
		return err
	}
	for _, d := range old {
		if d != dir {
			if err := p.host.RemoveAll(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// templateDirs are the folders of the templates of a version, half-made ones too.
func (p *Provider) templateDirs(version string) ([]string, error) {
	list, err := p.host.Glob(path.Join(p.templatesDir(), version+"-*"))
	return list, errs.Wrap("list templates", err)
}

// dropTemplates removes the templates of a version.
func (p *Provider) dropTemplates(version string) (*v1.InstanceResult, error) {
	if _, err := dolibarr.ParseVersion(version); err != nil {
		return nil, err
	}
	defer p.lock(templateID)()
	list, err := p.templateDirs(version)
	if err != nil {
		return nil, err
	}
	out := &v1.InstanceResult{}
	for _, dir := range list {
		if err := p.host.RemoveAll(dir); err != nil {
			return nil, errs.Wrap("remove template "+path.Base(dir), err)
		}
		out.Removed = append(out.Removed, "template "+path.Base(dir))
	}
	return out, nil
}

// copyTree copies a folder's contents with owners and modes. Blocks are shared where the file system can, and what is zero becomes a hole:
// most of a small database is.
func (p *Provider) copyTree(ctx context.Context, from, to string) error {
	if err := p.host.Mkdir(to, 0o755); err != nil {
		return err
	}
	_, err := p.host.RunCmd(ctx, host.Cmd{Timeout: 5 * time.Minute,
		Argv: []string{"cp", "-a", "--reflink=auto", "--sparse=always", p.host.Path(from) + "/.", p.host.Path(to)}})
	return err
}

// warm installs by copying the template: then its passwords, ids and names are replaced, before anybody can reach it.
func (p *Provider) warm(ctx context.Context, t *steps, inst *v1.InstanceSpec, input dolibarr.InstallInput, done *installed) error {
	dir, _, err := p.template(ctx, inst)
	if err != nil {
		return err
	}
	if err := t.do("empty", func() error { return p.emptied(ctx, inst) }); err != nil {
		return err
	}
	var tool string
	defer func() { p.dropTool(ctx, tool) }()
	err = all(
		func() error { return p.copied(ctx, t, inst, dir) },
		func() (err error) { tool, err = p.startTool(ctx, inst, dolibarr.VerbConfigure, true); return err },
	)
	if err != nil {
		return err
	}
	answer, err := p.verb(ctx, t, tool, dolibarr.VerbConfigure, input)
	if err != nil {
		return err
	}
	done.Modules = answer.Modules
	if _, err = p.verb(ctx, t, tool, dolibarr.VerbPassword, dolibarr.PasswordInput{AdminLogin: adminLogin(inst)}); err != nil {
		return err
	}
	done.tool, tool = tool, ""
	return nil
}

// copied copies the template, starts the database as it is to stay, and replaces its passwords.
func (p *Provider) copied(ctx context.Context, t *steps, inst *v1.InstanceSpec, dir string) error {
	var statements string
	var secrets []string
	err := t.do("copy", func() error {
		paths, err := p.volumePaths(ctx, inst.GetId())
		if err != nil {
			return err
		}
		err = all(
			func() error { return p.copyTree(ctx, path.Join(dir, "data"), paths["data"]) },
			func() error { return p.copyTree(ctx, path.Join(dir, "documents"), paths["documents"]) },
			func() error { return p.copyTree(ctx, path.Join(dir, "conf"), p.confDir(inst.GetId())) },
		)
		if err != nil {
			return err
		}
		statements, secrets, err = p.freshPasswords(inst, paths["data"])
		return err
	})
	if err != nil {
		return err
	}
	return t.do("start", func() error {
		spec, err := p.keptDB(ctx, inst)
		if err != nil {
			return err
		}
		db, err := p.startDB(ctx, spec)
		if err != nil {
			return err
		}
		return p.sql(ctx, db, statements, secrets...)
	})
}

// freshPasswords are the statements that replace whatever of the template lets somebody in. The health check of the official image has a
// password in a file of its own.
func (p *Provider) freshPasswords(inst *v1.InstanceSpec, data string) (statements string, secrets []string, err error) {
	var b strings.Builder
	for _, name := range []string{secretRoot, secretDB} {
		raw, err := p.host.ReadFile(path.Join(p.secretsDir(inst.GetId()), name))
		if err != nil {
			return "", nil, errs.Wrap("read the secret "+name, err)
		}
		value, err := plainSecret(name, raw)
		if err != nil {
			return "", nil, err
		}
		secrets = append(secrets, value)
		b.WriteString(takes(name, value))
	}
	if login := adminLogin(inst); login != templateLogin { // its form was checked
		fmt.Fprintf(&b, "UPDATE `%s`.llx_user SET login = '%s' WHERE login = '%s' AND admin = 1;\n", dbName, login, templateLogin)
	}
	f, err := p.host.Stat(path.Join(data, healthFile))
	if err != nil || f.Absent {
		return b.String(), secrets, err
	}
	fresh := rand.Text()
	lines := strings.Split(string(f.Data), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "password=") {
			lines[i] = "password=" + fresh
		}
	}
	f.Data = []byte(strings.Join(lines, "\n"))
	if _, err := p.host.Write(f); err != nil {
		return "", nil, err
	}
	for _, at := range []string{"127.0.0.1", "::1", "localhost"} {
		fmt.Fprintf(&b, "ALTER USER IF EXISTS 'healthcheck'@'%s' IDENTIFIED BY '%s';\n", at, fresh)
	}
	return b.String(), append(secrets, fresh), nil
}
