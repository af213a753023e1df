package lab

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/infractl/infractl/internal/errs"
)

// StackImage builds one of the images of the folder stacks, by the name of its stage, and returns the archive that holds it under
// the name. It is built once; a change of the folder makes a new one.
func (l *Lab) StackImage(ctx context.Context, stage, name string) (string, error) {
	op := "build the image " + name
	hash, err := contextHash(l.contexts, "stacks", l.images.base+" "+name)
	if err != nil {
		return "", errs.Wrap(op, err)
	}
	file := filepath.Join(l.cfg.CacheDir, "stack-"+stage+"-"+hash+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	l.say("building the image " + name)
	if err := l.buildStage(ctx, "stacks", stage, name, map[string]string{"BASE": l.images.base}); err != nil {
		return "", errs.Wrap(op, err)
	}
	return file, errs.Wrap(op, l.saveImage(ctx, name, file))
}

// saveImage writes an image as an archive.
func (l *Lab) saveImage(ctx context.Context, name, file string) error {
	content, err := l.engine.ImageSave(ctx, []string{name})
	if err != nil {
		return err
	}
	defer content.Close()
	part := file + ".part"
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, content); err == nil {
		err = f.Close()
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	return os.Rename(part, file)
}
