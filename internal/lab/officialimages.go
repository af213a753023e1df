package lab

import (
	"context"
	"os"
	"path/filepath"

	"github.com/infractl/infractl/internal/dolibarr/imagebuild"
	"github.com/infractl/infractl/internal/errs"
)

// OfficialDolibarr builds a stand-in with the layout and the contract of dolibarr/dolibarr, under that name and the version as its tag, and
// returns the archive that holds it. Its code is that of our own image.
func (l *Lab) OfficialDolibarr(ctx context.Context, version string) (string, error) {
	own, err := l.DolibarrImage(ctx, version)
	if err != nil {
		return "", err
	}
	if name := "infractl/dolibarr:" + version; !l.hasImage(ctx, name) {
		if err := l.loadImage(ctx, own); err != nil {
			return "", errs.Wrap("load the image "+name, err)
		}
	}
	return l.officialImage(ctx, "dolibarr", "dolibarr/dolibarr:"+version, filepath.Base(own),
		map[string]string{"OWN": "infractl/dolibarr:" + version, "VERSION": version})
}

// OfficialMariaDB builds a stand-in with the contract of the image mariadb, under the given name, and returns its archive.
func (l *Lab) OfficialMariaDB(ctx context.Context, name string) (string, error) {
	return l.officialImage(ctx, "mariadb", name, "", nil)
}

// officialImage builds a folder of official; from says what it is made of beside the base.
func (l *Lab) officialImage(ctx context.Context, kind, name, from string, args map[string]string) (string, error) {
	op := "build the stand-in of " + name
	hash, err := contextHash(l.contexts, "official/"+kind, l.images.base+" "+name+" "+from)
	if err != nil {
		return "", errs.Wrap(op, err)
	}
	file := filepath.Join(l.cfg.CacheDir, "official-"+kind+"-"+hash+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	l.say("building the stand-in of " + name)
	all := map[string]string{"BASE": l.images.base}
	for k, v := range args {
		all[k] = v
	}
	if err := l.build(ctx, "official/"+kind, name, all); err != nil {
		return "", errs.Wrap(op, err)
	}
	old, _ := filepath.Glob(filepath.Join(l.cfg.CacheDir, "official-"+kind+"-*.tar"))
	for _, name := range old {
		_ = os.Remove(name)
	}
	return file, errs.Wrap(op, l.saveImage(ctx, name, file))
}

func (l *Lab) loadImage(ctx context.Context, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	answer, err := l.engine.ImageLoad(ctx, file)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return imagebuild.Follow(answer.Body, nil)
}
