package lab

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/docker/docker/api/types/image"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/dolibarr/imagebuild"
	"github.com/infractl/infractl/internal/dolibarr/standin"
	"github.com/infractl/infractl/internal/errs"
)

// SourceVariable names the variable of the environment that may hold the folder of a real Dolibarr: a release unpacked, or several, each in
// a folder of its own. The stand-in plays the versions that are not there.
const SourceVariable = "DOLIBARR_SOURCE_DIR"

// DolibarrImage builds the application's image of a version and returns the archive that holds it as infractl/dolibarr:VERSION. It is made
// from the real source where the environment names one of that version, and from the stand-in otherwise; built once for each content.
// The base is the lab's, whatever PHP the version asks for.
func (l *Lab) DolibarrImage(ctx context.Context, version string) (string, error) {
	v, err := dolibarr.ParseVersion(version)
	if err != nil {
		return "", err
	}
	dir := realSource(os.Getenv(SourceVariable), version)
	if dir == "" {
		if dir, err = os.MkdirTemp("", "infractl-standin-"); err != nil {
			return "", errs.Wrap("unpack the stand-in", err)
		}
		defer os.RemoveAll(dir)
		if err := standin.Write(dir, version); err != nil {
			return "", errs.Wrap("unpack the stand-in", err)
		}
	}
	source, err := imagebuild.OpenSource(dir, v)
	if err != nil {
		return "", err
	}
	return l.instanceImage(ctx, imagebuild.Options{Kind: imagebuild.Dolibarr, Source: source})
}

// MariadbImage builds the database's image, infractl/mariadb:10.11, and returns its archive.
func (l *Lab) MariadbImage(ctx context.Context) (string, error) {
	return l.instanceImage(ctx, imagebuild.Options{Kind: imagebuild.MariaDB})
}

// FrontImage builds the image of a host's front, infractl/front:1, and returns its archive.
func (l *Lab) FrontImage(ctx context.Context) (string, error) {
	return l.instanceImage(ctx, imagebuild.Options{Kind: imagebuild.Front})
}

func (l *Lab) instanceImage(ctx context.Context, o imagebuild.Options) (string, error) {
	o.Tag, o.Base, o.Network = imagebuild.Tag(o.Kind, o.Source), l.images.base, "host"
	hash, err := imagebuild.ContextHash(o)
	if err != nil {
		return "", errs.Wrap("build the image "+o.Tag, err)
	}
	prefix := filepath.Join(l.cfg.CacheDir, "instance-"+strings.NewReplacer("/", "-", ":", "-").Replace(o.Tag)+"-")
	file := prefix + hash + ".tar"
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	l.say("building the image " + o.Tag)
	former, _ := l.engine.ImageInspect(ctx, o.Tag)
	if err := imagebuild.Build(ctx, l.engine, o, nil); err != nil {
		return "", err
	}
	if now, err := l.engine.ImageInspect(ctx, o.Tag); err == nil && former.ID != "" && former.ID != now.ID {
		_, _ = l.engine.ImageRemove(ctx, former.ID, image.RemoveOptions{}) // the engine keeps what is in use
	}
	old, _ := filepath.Glob(prefix + "*.tar")
	for _, name := range old {
		_ = os.Remove(name)
	}
	return file, errs.Wrap("save the image "+o.Tag, l.saveImage(ctx, o.Tag, file))
}

// realSource returns the folder of a release of the version in dir or one level below it, or "".
func realSource(dir, version string) string {
	if dir == "" {
		return ""
	}
	candidates, _ := filepath.Glob(filepath.Join(dir, "*"))
	form := regexp.MustCompile(`'DOL_VERSION'\s*,\s*'` + regexp.QuoteMeta(version) + `'`)
	for _, candidate := range append([]string{dir}, candidates...) {
		code, err := os.ReadFile(filepath.Join(candidate, "htdocs", "filefunc.inc.php"))
		if err == nil && form.Match(code) {
			return candidate
		}
	}
	return ""
}
