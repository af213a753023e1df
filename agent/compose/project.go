package compose

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/compose/v5/pkg/api"
	"github.com/docker/compose/v5/pkg/compose"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/internal/errs"
)

// contentLabel makes a container new when a file that it mounts, or a secret, has changed: the mounted file is the old one
// until then, because files are replaced and not written over.
const contentLabel = "infractl.content"

// maxMounted bounds what is read of a stack's own files to find out whether they changed.
const maxMounted = 64 << 20

// project is a loaded Compose file.
type project struct {
	project *types.Project
	secrets map[string][]wire.Secret // by service
}

// load reads the Compose file and fits it to this host: images, secrets, labels.
func load(ctx context.Context, req *wire.Request) (*project, error) {
	where := filepath.Join(req.Dir, req.File)
	env := make([]string, 0, len(req.Variables))
	for name, value := range req.Variables {
		env = append(env, name+"="+value)
	}
	options, err := cli.NewProjectOptions([]string{where}, cli.WithWorkingDirectory(req.Dir), cli.WithEnv(env),
		cli.WithDefaultProfiles(), cli.WithName(req.Project))
	if err != nil {
		return nil, errs.New(errs.Invalid, "the Compose file can't be read: %w", err).At(req.File)
	}
	raw, err := options.LoadProject(ctx)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the Compose file does not load: %w", err).At(req.File).WithHint("infractl site check")
	}
	p := &project{secrets: map[string][]wire.Secret{}}
	for _, name := range raw.ServiceNames() {
		s := raw.Services[name]
		if err := p.fit(req, raw, &s); err != nil {
			return nil, err
		}
		raw.Services[name] = s
	}
	for name, secret := range raw.Secrets {
		if secret.External {
			delete(raw.Secrets, name) // its uses have definitions of their own
		}
	}
	p.project = raw.WithoutUnnecessaryResources()
	return p, nil
}

func (p *project) fit(req *wire.Request, all *types.Project, s *types.ServiceConfig) error {
	where := "service " + s.Name
	switch {
	case s.Build != nil:
		return errs.New(errs.Invalid, "build: is refused: nothing is built on a host").At(where).
			WithHint("name an image, and put it onto the server: infractl image push")
	case s.Provider != nil:
		return errs.New(errs.Invalid, "provider: is refused: it runs a program on the host").At(where).WithHint("name an image")
	}
	use, ok := req.Images[s.Image]
	if !ok {
		return errs.New(errs.Invalid, "the image %.200q is not in the wanted spec", s.Image).At(where).WithHint("infractl apply")
	}
	s.Image, s.PullPolicy = use, types.PullPolicyNever
	content := sha256.New()
	secrets, err := p.mapSecrets(req, all, s)
	if err != nil {
		return err
	}
	for _, line := range secrets {
		fmt.Fprintln(content, "secret", line)
	}
	mounted, err := p.mounted(req, all, s)
	if err != nil {
		return err
	}
	for _, line := range mounted {
		fmt.Fprintln(content, "file", line)
	}
	if len(secrets)+len(mounted) > 0 {
		if s.Labels == nil {
			s.Labels = types.Labels{}
		}
		s.Labels[contentLabel] = hex.EncodeToString(content.Sum(nil))[:32]
	}
	s.CustomLabels = types.Labels{
		api.ProjectLabel: all.Name, api.ServiceLabel: s.Name, api.VersionLabel: api.ComposeVersion,
		api.WorkingDirLabel: all.WorkingDir, api.ConfigFilesLabel: strings.Join(all.ComposeFiles, ","), api.OneoffLabel: "False",
	}
	return nil
}

// mapSecrets points the uses of external secrets at the files that the agent wrote, one file per owner, since the engine
// mounts a file as it is. It returns what must make the container new.
func (p *project) mapSecrets(req *wire.Request, all *types.Project, s *types.ServiceConfig) ([]string, error) {
	var lines []string
	for i := range s.Secrets {
		ref := &s.Secrets[i]
		definition, ok := all.Secrets[ref.Source]
		if !ok || !bool(definition.External) {
			continue
		}
		name := definition.Name
		version, ok := req.Secrets[name]
		if !ok {
			return nil, errs.New(errs.Invalid, "the secret %.100q is not in the wanted spec", name).At("service " + s.Name).
				WithHint("infractl secret set, then infractl apply")
		}
		use := wire.Secret{Name: name}
		for _, id := range []struct {
			text string
			to   *int
		}{{ref.UID, &use.UID}, {ref.GID, &use.GID}} {
			if id.text == "" {
				continue
			}
			n, err := strconv.ParseUint(id.text, 10, 31)
			if err != nil {
				return nil, errs.New(errs.Invalid, "the owner of secret %.100q must be a number, not %.32q", name, id.text).
					At("service " + s.Name).WithHint("uid: \"1000\"")
			}
			*id.to = int(n)
		}
		if ref.Target == "" {
			ref.Target = ref.Source
		}
		ref.Source = fmt.Sprintf("%s.%d-%d", name, use.UID, use.GID)
		ref.UID, ref.GID, ref.Mode = "", "", nil // the file's own
		all.Secrets[ref.Source] = types.SecretConfig{Name: ref.Source, File: filepath.Join(req.SecretDir, wire.SecretFile(use))}
		if !slices.Contains(p.secrets[s.Name], use) {
			p.secrets[s.Name] = append(p.secrets[s.Name], use)
		}
		lines = append(lines, name+"="+version)
	}
	return lines, nil
}

// mounted lists the digests of the stack's own files that a service mounts. What a container wrote into a mounted folder
// does not count: it would make the container new each time.
func (p *project) mounted(req *wire.Request, all *types.Project, s *types.ServiceConfig) ([]string, error) {
	var sources []string
	for i := range s.Volumes {
		if s.Volumes[i].Type == types.VolumeTypeBind {
			sources = append(sources, s.Volumes[i].Source)
		}
	}
	for i := range s.Configs {
		if c, ok := all.Configs[s.Configs[i].Source]; ok {
			sources = append(sources, c.File)
		}
	}
	for i := range s.Secrets {
		if c, ok := all.Secrets[s.Secrets[i].Source]; ok {
			sources = append(sources, c.File)
		}
	}
	var lines []string
	left := int64(maxMounted)
	for _, file := range req.Files {
		name := filepath.Join(req.Dir, file)
		if !slices.ContainsFunc(sources, func(s string) bool {
			return s != "" && (s == name || strings.HasPrefix(name, strings.TrimSuffix(s, "/")+"/"))
		}) {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, errs.New(errs.Invalid, "a file that service %s mounts can't be read: %w", s.Name, err)
		}
		if left -= int64(len(data)); left < 0 {
			return nil, errs.New(errs.Exhausted, "service %s mounts more than %d bytes of the stack's files", s.Name, int64(maxMounted))
		}
		lines = append(lines, fmt.Sprintf("%s %x", file, sha256.Sum256(data)))
	}
	return lines, nil
}

// describe lists the services.
func describe(p *project) ([]wire.Service, error) {
	var list []wire.Service
	for _, name := range p.project.ServiceNames() {
		s := p.project.Services[name]
		hash, err := compose.ServiceHash(s)
		if err != nil {
			return nil, errs.Wrap("digest of service "+name, err)
		}
		list = append(list, wire.Service{Name: name, Hash: hash, Image: s.Image, Replicas: s.GetScale(), Secrets: p.secrets[name],
			Completes: completes(p.project, name), Checked: s.HealthCheck != nil && !s.HealthCheck.Disable})
	}
	slices.SortFunc(list, func(a, b wire.Service) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func completes(p *types.Project, name string) bool {
	for _, other := range p.Services {
		if d, ok := other.DependsOn[name]; ok && d.Condition == types.ServiceConditionCompletedSuccessfully {
			return true
		}
	}
	return false
}
