// Package instances brings customers' Dolibarr instances up in the lab: the example's fleet with Debian's caddy as its proxy, a
// name server and an authority of the outside world on the VM "internet", and instances that are reached by name from there.
//
// The demo, the lab's tests and the benchmark start from the same fleet.
package instances

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// Version is the version of Dolibarr that the fleet runs: of the stand-in application, or of the tree that DOLIBARR_SOURCE_DIR names.
const Version = "19.0.4"

// Domain is what the instances' default names end with.
const Domain = "dolibarr.projetpro.example"

// OfficialVariable names the variable of the environment that makes the fleet run on images with the names and the contract of the official ones.
const OfficialVariable = "INFRACTL_OFFICIAL_IMAGES"

// officialDB is MariaDB's name then; Dolibarr's has no tag in the site file.
const officialDB = "mariadb:10.11"

func official() bool { return os.Getenv(OfficialVariable) != "" }

// services is the node of names and of the reverse proxy.
const services = "srv-dhcp-dns"

// Fleet is the running site with images for instances, and no instance yet.
type Fleet struct {
	*demo.Site
	out io.Writer
	dir string
}

// Boot builds the lab, applies the site, and gives the server the images. What was built stays for a look when it fails; Down removes it.
func Boot(ctx context.Context, o demo.Options) (*Fleet, error) {
	if o.Out == nil {
		o.Out = io.Discard
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, errs.Wrap("find "+o.Dir, err)
	}
	if o.Site, err = siteFile(o.Root); err != nil {
		return nil, err
	}
	outside, err := newOutside()
	if err != nil {
		return nil, err
	}
	more := o.Customize
	o.Customize = func(cfg *lab.Config) {
		outside.install(cfg)
		if more != nil {
			more(cfg)
		}
	}
	f := &Fleet{out: o.Out, dir: dir}
	f.Site, err = demo.Boot(ctx, o)
	if err != nil {
		return f, err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"internet: a name server, and an authority for certificates", f.startOutside},
		{"images: Dolibarr " + Version + ", MariaDB and the front are built and pushed to the server", f.pushImages},
		{"apply: the site is on all nodes", func(ctx context.Context) error { return f.Apply(ctx) }},
	} {
		if err := f.Step(ctx, step.what, step.do); err != nil {
			return f, err
		}
	}
	return f, nil
}

// siteFile is the example's, with Debian's caddy as the proxy: Nginx Proxy Manager's program is in no lab. The consoles behind the
// proxy go, since no stack runs here.
func siteFile(root string) (string, error) {
	content, err := os.ReadFile(filepath.Join(root, "examples/projetpro/site.yaml"))
	if err != nil {
		return "", errs.Wrap("read the example site", err)
	}
	lines := slices.DeleteFunc(strings.Split(string(content), "\n"), func(line string) bool {
		name := strings.TrimSpace(line)
		return strings.HasPrefix(name, "grafana.projetpro.lab:") || strings.HasPrefix(name, "prometheus.projetpro.lab:") ||
			strings.HasPrefix(name, "portainer.projetpro.lab:") || line == "  hosts:"
	})
	text := strings.Join(lines, "\n")
	for _, edit := range [][2]string{
		{"  driver: npm ", "  driver: caddy "},
		{"  preprod: [srv-pre-prod]\n", ""}, // that machine of the lab has no engine
	} {
		if !strings.Contains(text, edit[0]) {
			return "", errs.New(errs.Internal, "the example site has no %q any more", edit[0])
		}
		text = strings.Replace(text, edit[0], edit[1], 1)
	}
	if official() {
		text = strings.Replace(text, "dolibarr:\n", "dolibarr:\n  images: {app: dolibarr/dolibarr, db: \""+officialDB+"\"}\n", 1)
	}
	return text, nil
}

// pushImages builds the images that are not there yet and gives them to the server.
func (f *Fleet) pushImages(ctx context.Context) error {
	builds := []func(context.Context) (string, error){
		func(ctx context.Context) (string, error) { return f.Lab.DolibarrImage(ctx, Version) }, f.Lab.MariadbImage, f.Lab.FrontImage,
	}
	if official() {
		builds[0] = func(ctx context.Context) (string, error) { return f.Lab.OfficialDolibarr(ctx, Version) }
		builds[1] = func(ctx context.Context) (string, error) { return f.Lab.OfficialMariaDB(ctx, officialDB) }
	}
	archives := make([]string, len(builds))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(1) // the classic builder and two cores
	for i, build := range builds {
		g.Go(func() (err error) {
			archives[i], err = build(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, archive := range archives {
		if _, err := f.Must(ctx, "image", "push", archive); err != nil {
			return err
		}
	}
	return nil
}
