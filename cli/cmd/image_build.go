package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/docker/client"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/dolibarr/imagebuild"
	"github.com/infractl/infractl/internal/errs"
)

// imageBuild are the flags of image build.
type imageBuild struct {
	version, source, base, save string
	push, pull, dryRun          bool
}

// imagePlan is what a build makes, as it is shown.
type imagePlan struct {
	Image   string   `json:"image"`
	Base    string   `json:"base"`
	PHP     string   `json:"php,omitempty"`
	Files   int      `json:"files,omitempty"`
	LeftOut []string `json:"left_out,omitempty"`
	Saved   string   `json:"saved,omitempty"`
	Built   bool     `json:"built"`
}

func (a *app) imageBuildCmd() *cobra.Command {
	var o imageBuild
	c := &cobra.Command{
		Use: "build dolibarr|mariadb|front", Short: "Build an image that instances run on",
		Long: `Build one of the images that instances run on, on this machine's Docker engine: dolibarr from a release archive of the project, mariadb
and front from Debian's packages alone. The image is then called infractl/dolibarr:VERSION, infractl/mariadb:10.11 or infractl/front:1,
and --push gives it to the server, which hands it to the hosts.

The release is checked before anything is built: its size, its paths, and that it is of the version named. Somebody's configuration,
keys, dumps and external modules in it stay out of the image.

The release of Debian decides the version of PHP (bullseye 7.4, bookworm 8.2, trixie 8.4): the newest that the version of Dolibarr
supports is taken, and a version that none of them supports is refused. --base names one of them, or any image of Debian that the engine
has or can fetch; then the build fails when PHP does not fit.`,
		Example: `  infractl image build dolibarr --version 19.0.4 --source dolibarr-19.0.4.tgz --push
  infractl image build mariadb --save mariadb.tar
  infractl image build dolibarr --version 19.0.4 --source dolibarr-19.0.4.tgz --dry-run`,
		Args: arity(1, 1), ValidArgs: []string{imagebuild.Dolibarr, imagebuild.MariaDB, imagebuild.Front},
		RunE: func(c *cobra.Command, args []string) error { return a.runImageBuild(c.Context(), args[0], o) },
	}
	f := c.Flags()
	f.StringVar(&o.version, "version", "", "version of Dolibarr, X.Y.Z")
	f.StringVar(&o.source, "source", "", "release archive (.tgz) or its unpacked folder")
	f.StringVar(&o.base, "base", "", "release of Debian, or an image of it")
	f.StringVar(&o.save, "save", "", "write the image as an archive to this file")
	f.BoolVar(&o.push, "push", false, "give the image to the server")
	f.BoolVar(&o.pull, "pull", false, "fetch the base again though the engine has it")
	f.BoolVar(&o.dryRun, "dry-run", false, "only check, and say what would be built")
	return c
}

func (a *app) runImageBuild(ctx context.Context, kind string, o imageBuild) error {
	w, err := a.writer()
	if err != nil {
		return err
	}
	build, plan, err := planImage(kind, o)
	if err != nil {
		return err
	}
	if o.dryRun {
		return w.Object(plan, func() error { return showImagePlan(w, plan, o) })
	}
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err == nil {
		_, err = engine.Ping(ctx)
	}
	if err != nil {
		return errs.New(errs.Precondition, "no Docker engine answers: %w", err).WithHint("images are built on this machine; DOCKER_HOST names another engine")
	}
	defer engine.Close()
	if n := len(plan.LeftOut); n > 0 {
		a.note("%d files of the release stay out of the image, such as %s", n, plan.LeftOut[0])
	}
	line := func(text string) {
		if strings.HasPrefix(text, "Step ") {
			a.note("%s", text)
		}
	}
	if err := imagebuild.Build(ctx, engine, build, line); err != nil {
		return err
	}
	plan.Built = true
	return a.deliverImage(ctx, engine, w, plan, o)
}

// planImage checks what is asked for and says what will be built.
func planImage(kind string, o imageBuild) (imagebuild.Options, imagePlan, error) {
	build := imagebuild.Options{Kind: kind, Pull: o.pull, Args: map[string]string{}}
	plan := imagePlan{Saved: o.save}
	fail := func(err error) (imagebuild.Options, imagePlan, error) { return build, plan, err }
	switch kind {
	case imagebuild.Dolibarr:
		if o.version == "" || o.source == "" {
			return fail(errs.New(errs.Invalid, "--version and --source are needed").
				WithHint("infractl image build dolibarr --version 19.0.4 --source dolibarr-19.0.4.tgz"))
		}
		version, err := dolibarr.ParseVersion(o.version)
		if err != nil {
			return fail(err)
		}
		if build.Base, plan.PHP, err = chooseBase(version, o.base, build.Args); err != nil {
			return fail(err)
		}
		if build.Source, err = imagebuild.OpenSource(o.source, version); err != nil {
			return fail(err)
		}
		plan.Files, plan.LeftOut = build.Source.Files(), build.Source.LeftOut()
	case imagebuild.MariaDB, imagebuild.Front:
		if o.version != "" || o.source != "" {
			return fail(errs.New(errs.Invalid, "--version and --source belong to dolibarr: %s comes from Debian's packages", kind))
		}
		build.Base = debianImage(o.base, "bookworm")
	default:
		return fail(errs.New(errs.Invalid, "there is no image %q", kind).WithHint("one of dolibarr, mariadb, front"))
	}
	if o.save == "-" {
		return fail(errs.New(errs.Invalid, "--save takes a file").WithHint("docker save writes an image of the engine to stdout"))
	}
	build.Tag = imagebuild.Tag(kind, build.Source)
	plan.Image, plan.Base = build.Tag, build.Base
	return build, plan, nil
}

// chooseBase returns the base of a version and the PHP that it has, and what the build must check when the base is somebody's image.
func chooseBase(version dolibarr.Version, wish string, args map[string]string) (image, php string, err error) {
	lowest, highest, err := dolibarr.PHPRange(version)
	if err != nil {
		return "", "", err
	}
	args["PHP_LOWEST"], args["PHP_HIGHEST"] = lowest.String(), highest.String()
	if strings.ContainsAny(wish, ":/@") {
		return wish, fmt.Sprintf("%s to %s, checked while building", lowest, highest), nil
	}
	base, err := dolibarr.ChooseBase(version, wish)
	if err != nil {
		return "", "", err
	}
	return base.Image, base.PHP.String(), nil
}

// debianImage returns the image of a release of Debian, or the image that is named as such.
func debianImage(wish, usual string) string {
	if wish == "" {
		wish = usual
	}
	if strings.ContainsAny(wish, ":/@") {
		return wish
	}
	return "debian:" + wish + "-slim"
}

func showImagePlan(w *output.Writer, plan imagePlan, o imageBuild) error {
	pairs := [][2]string{{"image", plan.Image}, {"base", plan.Base}}
	if plan.PHP != "" {
		pairs = append(pairs, [2]string{"php", plan.PHP}, [2]string{"release", fmt.Sprintf("%s, %d files", filepath.Base(o.source), plan.Files)})
	}
	for _, name := range plan.LeftOut[:min(len(plan.LeftOut), 20)] {
		pairs = append(pairs, [2]string{"left out", name})
	}
	if more := len(plan.LeftOut) - 20; more > 0 {
		pairs = append(pairs, [2]string{"left out", fmt.Sprintf("and %d more", more)})
	}
	if o.save != "" {
		pairs = append(pairs, [2]string{"save", o.save})
	}
	if o.push {
		pairs = append(pairs, [2]string{"push", "to the server"})
	}
	return w.Pairs(pairs)
}

// deliverImage saves and pushes a built image as asked for.
func (a *app) deliverImage(ctx context.Context, engine *client.Client, w *output.Writer, plan imagePlan, o imageBuild) error {
	file := o.save
	if file == "" && o.push {
		dir, err := os.MkdirTemp("", "infractl-image-")
		if err != nil {
			return errs.Wrap("save the image", err)
		}
		defer os.RemoveAll(dir)
		file = filepath.Join(dir, "image.tar")
	}
	if file != "" {
		a.note("saving %s", plan.Image)
		if err := saveImage(ctx, engine, plan.Image, file); err != nil {
			return errs.Wrap("save the image", err)
		}
	}
	if o.push {
		return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
			return a.pushImage(ctx, conn, w, file)
		})
	}
	return w.Object(plan, func() error {
		w.Printf("%s\n", plan.Image)
		if file != "" {
			a.note("infractl image push %s gives it to the server", file)
		} else {
			a.note("docker save %s | infractl image push - gives it to the server", plan.Image)
		}
		return nil
	})
}

// saveImage writes an image's archive; the file is there whole or not at all.
func saveImage(ctx context.Context, engine *client.Client, image, file string) error {
	content, err := engine.ImageSave(ctx, []string{image})
	if err != nil {
		return err
	}
	defer content.Close()
	part, err := os.CreateTemp(filepath.Dir(file), ".infractl-image-")
	if err != nil {
		return errs.New(errs.Invalid, "cannot be written: %w", cause(err)).At(file)
	}
	defer os.Remove(part.Name())
	if _, err = io.Copy(part, content); err == nil {
		err = part.Close()
	}
	if err != nil {
		_ = part.Close()
		return err
	}
	return os.Rename(part.Name(), file)
}
