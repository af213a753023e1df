package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/standin"
)

// standIns are the images that the lab overlay names and that the program infractl-standin plays.
func standIns() []standin.Image {
	return []standin.Image{
		{Name: "lab/stand-in-for-grafana:1", Of: "Grafana", Ports: []string{"3000/http"}, User: "472", Data: []string{"var", "var/lib", "var/lib/grafana"}},
		{Name: "lab/stand-in-for-portainer:1", Of: "Portainer", Ports: []string{"9443/https"}},
		{Name: "lab/stand-in-for-portainer-agent:1", Of: "Portainer's agent", Ports: []string{"9001/https"}},
		{Name: "lab/stand-in-for-nginx-proxy-manager:1", Of: "Nginx Proxy Manager", Ports: []string{"80/http", "81/http", "443/https"}},
	}
}

// fromDebian are those that are built from Debian's packages: the stage, then the name.
func fromDebian() map[string]string {
	return map[string]string{"prometheus": "lab/prometheus-of-debian:12", "alertmanager": "lab/alertmanager-of-debian:12", "mariadb": "lab/mariadb-of-debian:12"}
}

// exampleSecrets are the secrets that the example's stacks name.
func exampleSecrets() []string {
	return []string{"npm-db", "npm-admin", "portainer-admin", "grafana-admin", "smtp"}
}

// stackNodes are the machines that run the example's stacks.
func stackNodes() []string { return []string{"srv-dhcp-dns", "srv-supervision"} }

// WithEngines gives the machines of the example's stacks an engine of their own.
func WithEngines(cfg *lab.Config) {
	for i := range cfg.VMs {
		for _, name := range stackNodes() {
			if cfg.VMs[i].Name == name {
				cfg.VMs[i].NestedDocker = true
				// The machine also has Debian's Prometheus, whose user would get the key: here the container's gets it.
				cfg.VMs[i].Files = append(cfg.VMs[i].Files, lab.File{Guest: "/var/lib/infractl/scrape/owner", Mode: 0o644, Content: []byte("65534\n")})
			}
		}
	}
}

// BootStacks builds the lab with engines where the stacks run.
func BootStacks(ctx context.Context, o Options) (*Site, error) {
	o.Stacks = true
	more := o.Customize
	o.Customize = func(cfg *lab.Config) {
		WithEngines(cfg)
		if more != nil {
			more(cfg)
		}
	}
	return Boot(ctx, o)
}

// PushStackImages builds the images that stand in for those of the stacks, and gives them to the server.
func (s *Site) PushStackImages(ctx context.Context) error {
	var files []string
	for stage, name := range fromDebian() {
		file, err := s.Lab.StackImage(ctx, stage, name)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	program, err := os.ReadFile(filepath.Join(s.opts.Bin, "infractl-standin"))
	if err != nil {
		return errs.New(errs.Precondition, "infractl-standin is not built: %w", err).WithHint("make build")
	}
	for i, image := range standIns() {
		file := s.file(fmt.Sprintf("stand-in-%d.tar", i))
		if err := writeArchive(file, image, program); err != nil {
			return err
		}
		defer os.Remove(file)
		files = append(files, file)
	}
	for _, file := range files {
		r, err := s.Infractl(ctx, "image", "push", file)
		if err != nil {
			return err
		}
		if err := r.OK("infractl", "image", "push", filepath.Base(file)); err != nil {
			return err
		}
	}
	return nil
}

func writeArchive(file string, image standin.Image, program []byte) error {
	f, err := os.Create(file)
	if err != nil {
		return errs.Wrap("write the image "+image.Name, err)
	}
	defer f.Close()
	if err := image.Archive(f, program); err != nil {
		return err
	}
	return errs.Wrap("write the image "+image.Name, f.Close())
}

// SetStackSecrets gives each secret of the stacks a random value.
func (s *Site) SetStackSecrets(ctx context.Context) error {
	file := s.file("secret")
	defer os.Remove(file)
	for _, name := range exampleSecrets() {
		if err := os.WriteFile(file, []byte(rand.Text()), 0o600); err != nil {
			return errs.Wrap("set the secret "+name, err)
		}
		r, err := s.Infractl(ctx, "secret", "set", name, "--file", file)
		if err != nil {
			return err
		}
		if err := r.OK("infractl", "secret", "set", name); err != nil {
			return err
		}
	}
	return nil
}

// StacksCommand returns the subcommand of infractl-lab that brings the example's stacks up.
func StacksCommand() *cobra.Command {
	return ShowCommand("demo-stacks", "Build the example site with its container stacks, and show that they are well", ShowStacks)
}

// ShowStacks brings the example's stacks up in the lab and leaves the site running.
func ShowStacks(ctx context.Context, o Options) error {
	s, err := BootStacks(ctx, o)
	if err != nil {
		return Failed(err)
	}
	for _, st := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"images: stand-ins are built and pushed to the server", s.PushStackImages},
		{"secrets: each has a value", s.SetStackSecrets},
		{"apply: the example site with both stacks is on all nodes", func(ctx context.Context) error { return s.Apply(ctx) }},
		{"apply again: nothing to do", func(ctx context.Context) error { return s.Apply(ctx) }},
		{"status: green", s.green},
	} {
		if err := s.Step(ctx, st.what, st.do); err != nil {
			return Failed(err)
		}
	}
	for _, argv := range [][]string{{"stack", "list"}, {"stack", "show", "services"}, {"stack", "show", "supervision"}, {"image", "list"}, {"status"}} {
		r, err := s.Infractl(ctx, argv...)
		if err != nil {
			return Failed(err)
		}
		fmt.Fprintf(s.opts.Out, "\n$ infractl %s\n%s%s", argv[0], r.Stdout, r.Stderr)
	}
	s.nextSteps()
	return nil
}

// greenAfter is how long the agents may take to report what they see.
const greenAfter = 60 * time.Second

// green waits until every node and every stack is as it should be.
func (s *Site) green(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, greenAfter)
	defer cancel()
	for {
		r, err := s.Infractl(ctx, "status")
		if err == nil && r.Code == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errs.New(errs.Internal, "not green within %s: %s%s", greenAfter, r.Stdout, r.Stderr)
		case <-time.After(time.Second):
		}
	}
}
