package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"github.com/infractl/infractl/internal/dolibarr/imagebuild"
	"github.com/infractl/infractl/internal/errs"
)

const (
	repoBase = "infractl-lab/base"
	repoVM   = "infractl-lab/vm"
	// BusyboxImage is the image that nested engines hold: one static program.
	BusyboxImage = "infractl-lab/busybox:latest"
	repoBusybox  = "infractl-lab/busybox-of"
	buildLimit   = 20 * time.Minute
)

// images are the tags of one set of images. Each tag is a hash of what the image is made from, so a change of its folder,
// of the machine's package sources or of an image below it makes a new one, and nothing else does.
type images struct {
	base, vm, busybox string
	recipe            baseRecipe
}

func imageSet(contexts fs.FS) (images, error) {
	recipe, err := hostRecipe()
	if err != nil {
		return images{}, err
	}
	set := images{recipe: recipe, base: repoBase + ":" + recipe.hash()}
	vm, err := contextHash(contexts, "vm", set.base)
	if err != nil {
		return images{}, err
	}
	set.vm = repoVM + ":" + vm
	busybox, err := contextHash(contexts, "busybox", set.vm)
	set.busybox = repoBusybox + ":" + busybox
	return set, err
}

// contextHash hashes the names and contents of a build context and the tag it builds on.
func contextHash(contexts fs.FS, dir, from string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, from)
	err := fs.WalkDir(contexts, dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(contexts, path)
		fmt.Fprintf(h, "%s %d\n", path, len(data))
		h.Write(data)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:12], errs.Wrap("hash the build context "+dir, err)
}

// contextTar packs a build context with fixed owners, modes and times, so that the builder's cache recognises it.
func contextTar(contexts fs.FS, dir string) (io.Reader, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	err := fs.WalkDir(contexts, dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		if d.IsDir() {
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
		}
		data, err := fs.ReadFile(contexts, path)
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = tw.Write(data)
		return err
	})
	if err == nil {
		err = tw.Close()
	}
	return &buf, errs.Wrap("pack the build context "+dir, err)
}

// ensureImages builds what is missing. The caller holds the run lock.
func (l *Lab) ensureImages(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	if err := os.MkdirAll(l.cfg.CacheDir, 0o755); err != nil {
		return errs.Wrap("make the cache folder", err)
	}
	set := l.images
	if !l.hasImage(ctx, set.vm) {
		if !l.hasImage(ctx, set.base) {
			l.say("making the base image from the machine's package sources")
			if err := l.importBase(ctx, set); err != nil {
				return errs.Wrap("make the base image", err)
			}
		}
		l.say("building the VM image")
		if err := l.build(ctx, "vm", set.vm, map[string]string{"BASE": set.base}); err != nil {
			return errs.Wrap("build the VM image", err)
		}
	}
	if !l.hasImage(ctx, set.busybox) {
		if err := l.build(ctx, "busybox", set.busybox, map[string]string{"VM": set.vm}); err != nil {
			return errs.Wrap("build the busybox image", err)
		}
	}
	if _, err := os.Stat(l.busyboxTar()); err != nil {
		if err := l.saveBusybox(ctx); err != nil {
			return errs.Wrap("save the busybox image", err)
		}
	}
	l.dropOldImages(ctx)
	return nil
}

func (l *Lab) hasImage(ctx context.Context, tag string) bool {
	_, err := l.engine.ImageInspect(ctx, tag)
	return err == nil
}

// importBase bootstraps Debian into a tar in memory and imports it.
func (l *Lab) importBase(ctx context.Context, set images) error {
	dir, err := os.MkdirTemp("/dev/shm", "infractl-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "base.tar")
	argv := set.recipe.argv(file)
	result, err := run(ctx, hostEnv("TMPDIR="+dir), nil, argv...)
	if err == nil {
		err = result.OK("mmdebstrap")
	}
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	answer, err := l.engine.ImageImport(ctx, image.ImportSource{Source: f, SourceName: "-"}, set.base, image.ImportOptions{})
	if err != nil {
		return err
	}
	defer answer.Close()
	return imagebuild.Follow(answer, nil)
}

// build runs the classic builder, which Debian's engine has, on the host's network: it is the only one an engine of ours has.
func (l *Lab) build(ctx context.Context, dir, tag string, args map[string]string) error {
	return l.buildStage(ctx, dir, "", tag, args)
}

// buildStage builds one stage of a Dockerfile; without a stage the last one.
func (l *Lab) buildStage(ctx context.Context, dir, stage, tag string, args map[string]string) error {
	pack, err := contextTar(l.contexts, dir)
	if err != nil {
		return err
	}
	values := map[string]*string{}
	for k, v := range args {
		values[k] = &v
	}
	answer, err := l.engine.ImageBuild(ctx, pack, build.ImageBuildOptions{
		Tags: []string{tag}, BuildArgs: values, NetworkMode: "host", Remove: true, ForceRemove: true,
		Version: build.BuilderV1, Target: stage,
	})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return imagebuild.Follow(answer.Body, nil)
}

func (l *Lab) busyboxTar() string {
	_, hash, _ := strings.Cut(l.images.busybox, ":")
	return filepath.Join(l.cfg.CacheDir, "busybox-"+hash+".tar")
}

func (l *Lab) saveBusybox(ctx context.Context) error {
	if err := l.engine.ImageTag(ctx, l.images.busybox, BusyboxImage); err != nil {
		return err
	}
	return l.saveImage(ctx, BusyboxImage, l.busyboxTar())
}

// dropOldImages removes former sets of images; those that a lab still uses stay, because the engine refuses.
func (l *Lab) dropOldImages(ctx context.Context) {
	keep := []string{l.images.base, l.images.vm, l.images.busybox, BusyboxImage}
	for _, tag := range l.imageTags(ctx) {
		if !slices.Contains(keep, tag) {
			_, _ = l.engine.ImageRemove(ctx, tag, image.RemoveOptions{PruneChildren: true})
		}
	}
}

// imageTags lists the tags of all images of labs.
func (l *Lab) imageTags(ctx context.Context) []string {
	list, _ := l.engine.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", "infractl-lab/*"))})
	var tags []string
	for _, img := range list {
		tags = append(tags, img.RepoTags...)
	}
	return tags
}
